"""One supernet on 10,000 images of CIFAR-10, three latency targets slimmed from it.

    .venv/bin/python benchmarks/cifar10.py --data parquet:../shared/data

Prints, for each target, the slimmed network beside those of uniform scaling, random search and
evolution at the same number of evaluations: test accuracy with inherited weights, parameters, MACs,
predicted and measured latency.
"""

from __future__ import annotations

import os

from nas.machine import OPENMP

os.environ.update(OPENMP | os.environ)  # as the command line does

import argparse
import json
from pathlib import Path

from prepared import run_at, table_at

from nas import pipeline
from nas.report.terminal import ProgressBar, print_search
from nas.slim.plan import Plan
from nas.space import SearchSpace
from nas.training.settings import DataSettings, SupernetSettings


def main() -> None:
    """Run the benchmark; a finished table and a finished training are used again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="parquet:../shared/data")
    parser.add_argument("--space", default="cifar10_32px")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_cifar10"))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--evaluations", type=int, default=150)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.75, 0.5, 0.35])
    arguments = parser.parse_args()
    if not Path(arguments.data.partition(":")[2]).exists():
        print(f"skipped: {arguments.data} is not here")
        return

    space = SearchSpace.load(arguments.space)
    table = table_at(arguments.out / "table.csv", space)
    data = DataSettings(spec=arguments.data, limit=10_000)
    settings = SupernetSettings(epochs=arguments.epochs, batch_size=50)
    run, _ = run_at(arguments.out / "run", space, data, settings)
    largest_ms = table.predict(run.space.largest())
    targets = tuple(
        {"latency_ms": round(share * largest_ms, 3)}
        for share in sorted(arguments.shares, reverse=True)
    )
    with ProgressBar("slimming") as bar:
        result = pipeline.slim(
            run,
            table,
            Plan(targets=targets, evaluations=arguments.evaluations),
            arguments.out / "slim",
            force=True,
            accept_tables=True,
            progress=bar,
        )
    print_search(result, title=f"{space.name}, {run.data.spec}, {run.data.limit} images")
    (arguments.out / "figures.json").write_text(json.dumps(result.summary()["networks"], indent=2))


if __name__ == "__main__":
    main()
