"""The time that a search needs to price 10,000 random networks of the default space.

    .venv/bin/python benchmarks/cost.py --table latency_tables/example_cpu.csv

Prints seconds for ``Prices.cost`` of assignments and for ``LatencyTable.cost`` of decoded
architectures, after a check that both are equal. README.md has the figures.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from nas.latency.table import LatencyTable, Prices
from nas.space import DEFAULT_SPACE, SearchSpace

NETWORKS = 10_000


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default=DEFAULT_SPACE)
    parser.add_argument("--table", default="latency_tables/example_cpu.csv")
    arguments = parser.parse_args()
    space = SearchSpace.load(arguments.space)
    table = LatencyTable.load(arguments.table)
    rng = np.random.default_rng(0)
    assignments = [space.sample_assignment(rng) for _ in range(NETWORKS)]

    start = time.perf_counter()
    prices = Prices(space, {"table": table})
    costs = [prices.cost(assignment) for assignment in assignments]
    between = time.perf_counter()
    slowly = [table.cost(space.decode(assignment)) for assignment in assignments]
    end = time.perf_counter()
    assert costs == slowly
    print(f"{NETWORKS} random networks of {space.name}, exactly the same costs:")
    print(f"  Prices.cost of assignments      {between - start:6.2f} s")
    print(f"  LatencyTable.cost of networks   {end - between:6.2f} s")


if __name__ == "__main__":
    main()
