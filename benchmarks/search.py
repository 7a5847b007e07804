"""Slimming against random, evolution and greedy at the same number of evaluations.

    .venv/bin/python benchmarks/search.py --data ../shared/data/nas-bench-macro.csv

Prints mean regrets (best reachable accuracy less that of the network found, in points, by the
truth that no search sees) with 95 % bootstrap intervals. On NAS-Bench-Macro the accuracy of one
training is what is seen and the mean of three is the truth; the synthetic tables are larger and
noisier. Then frontiers: the area that each method's evaluations dominate, below the largest
network's latency and above the smallest's accuracy, as a part of NSGA-II's at 100 evaluations;
slimming, random search and one NSGA-II are given eight bounds. About 5 minutes on one idle x86
core.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # the matrices are small

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tables import Table, crossed, nas_bench_macro, staged

from nas.search import (
    Frontier,
    Solution,
    evolve,
    hypervolume,
    search_randomly,
    slim_greedily,
    slim_problems,
)

METHODS: dict[str, Callable[..., Solution]] = {
    "slim": partial(slim_problems, strategy=Frontier()),
    "random": search_randomly,
    "NSGA-II": evolve,
    "greedy": slim_greedily,
}
FRONTIERS = {
    "slim": ("slim", 8),
    "random": ("random", 8),
    "NSGA-II": ("NSGA-II", 8),
    "one bound": ("NSGA-II", 1),
}
"""The method of each, and the number of its bounds; the last starts from random networks near the
largest."""
BARS = {60: 0.12, 100: 0.10}
"""Largest mean regret of ``slim`` on NAS-Bench-Macro, by evaluations."""
SEEDS = range(3)
"""NAS-Bench-Macro's; tables of other bounds have the same frontier."""
CIRCUMSTANCES = ((0.1, 0.5), (0.3, 0.3), (0.6, 0.7))
"""Noise in points, and share of the largest latency, of each family of synthetic tables."""


def main() -> None:
    """Run all methods on all tables and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/nas-bench-macro.csv"))
    parser.add_argument("--evaluations", type=int, nargs="+", default=[60, 100])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--repeats", type=int, default=4, help="of each NAS-Bench-Macro table")
    parser.add_argument("--seeds", type=int, default=3, help="of each family of synthetic tables")
    arguments = parser.parse_args()
    print("table             evaluations  method    regret  95 % interval  calls")
    if arguments.data.exists():
        compare([*nas_bench_macro(arguments.data)] * arguments.repeats, arguments, BARS)
    else:
        print(f"skipped: {arguments.data} is not here")
    tables = sorted(synthetic(arguments.seeds), key=lambda table: table.name)
    families = [list(it) for _, it in itertools.groupby(tables, key=lambda table: table.name)]
    for family in families:
        compare(family, arguments, {})
    print("table             evaluations  method       area  95 % interval  above NSGA-II's at 100")
    if arguments.data.exists():
        compare_frontiers([*nas_bench_macro(arguments.data)][: len(SEEDS)] * arguments.repeats)
    for family in families:
        compare_frontiers(family)


def synthetic(seeds: int) -> Iterator[Table]:
    """Every family in all circumstances."""
    for seed, (noise, share) in itertools.product(range(seeds), CIRCUMSTANCES):
        yield crossed(seed, noise, share, returns=0)
        yield crossed(seed, noise, share, returns=3)
        yield staged(seed, noise, share)


def compare(tables: Sequence[Table], arguments: argparse.Namespace, bars: dict[int, float]) -> None:
    """Run every method on the same tables with the same seeds."""
    for evaluations, name in itertools.product(arguments.evaluations, arguments.methods):
        runs = [run(METHODS[name], table, evaluations, seed) for seed, table in enumerate(tables)]
        regrets, calls = np.array(runs).T
        low, high = interval(regrets)
        bar = f"  bar {bars[evaluations]:.2f}" if name == "slim" and evaluations in bars else ""
        print(
            f"{tables[0].name:<18}{evaluations:>11}  {name:<8}  {regrets.mean():6.3f}  "
            f"{low:.3f} to {high:.3f} {calls.mean():6.1f}{bar}",
            flush=True,
        )


def run(
    method: Callable[..., Solution], table: Table, evaluations: int, seed: int
) -> tuple[float, int]:
    """The regret of one search, and how many evaluations it made."""
    rng = np.random.default_rng(seed)
    result = method([table.problem], evaluations=evaluations, rng=rng)
    return table.optimum - table.truth(result.best), len(result.evaluated)


def compare_frontiers(tables: Sequence[Table]) -> None:
    """Print how much of the plane each method's evaluations dominate, at 50 and 100 of them."""
    base = np.array([area("NSGA-II", table, 100, seed) for seed, table in enumerate(tables)])
    for evaluations, name in itertools.product((50, 100), FRONTIERS):
        areas = [area(name, table, evaluations, seed) for seed, table in enumerate(tables)]
        shares = np.array(areas) / base
        low, high = interval(shares)
        print(
            f"{tables[0].name:<18}{evaluations:>11}  {name:<9}  {shares.mean():6.3f}  "
            f"{low:.3f} to {high:.3f}  {np.sum(shares > 1)} of {len(shares)}",
            flush=True,
        )


def area(name: str, table: Table, evaluations: int, seed: int) -> float:
    """The hypervolume of one search of the whole frontier."""
    method, bounds = FRONTIERS[name]
    problem = table.problem
    ends = problem.smallest, problem.largest
    least, most = (problem.price(end)["latency_ms"] for end in ends)
    ratio = (least / most) ** (1 / max(1, bounds - 1))
    targets = [{"latency_ms": max(least, most * ratio**it)} for it in range(bounds)]
    found = METHODS[method](
        [problem.within(target) for target in targets],
        evaluations=evaluations,
        rng=np.random.default_rng(seed),
    )
    points = [(problem.price(it)["latency_ms"], seen) for it, seen in found.evaluated.items()]
    return hypervolume(points, (most, table.seen(problem.smallest)))


def interval(values: np.ndarray, *, resamples: int = 10_000) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, (resamples, len(values))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
