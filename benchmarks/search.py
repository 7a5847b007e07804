"""Slimming against public optimisers at the same numbers of evaluations.

    .venv/bin/python benchmarks/search.py --data ../shared/data/nas-bench-macro.csv
    .venv/bin/python benchmarks/search.py --frontiers

Prints mean regrets (best reachable accuracy less that of the network found, in points, by the
truth that no search sees) with 95 % bootstrap intervals. On NAS-Bench-Macro the accuracy of one
training is what is seen and the mean of three is the truth; the synthetic tables are larger and
noisier. BoTorch and SMAC take part where they are installed (``optimisers.py``); they and the
Gaussian processes take minutes a run, so what others found is kept in --journal, to be deleted when
they or the tables change. With --frontiers: the area that each method's evaluations dominate, below
the largest network's latency and above the smallest's accuracy, as a part of NSGA-II's at 100
evaluations; slimming, random search and one NSGA-II are given eight bounds.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # the matrices are small

import argparse
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from optimisers import MISSING, OPTIMISERS, PROPOSALS, incumbent
from pydantic import TypeAdapter
from tables import SHARES, Table, crossed, layered, nas_bench_macro, staged

from nas.documents import Value
from nas.search import (
    Frontier,
    Solution,
    evolve,
    hypervolume,
    search_randomly,
    slim_greedily,
    slim_problems,
)
from nas.store.journal import Journal

METHODS: dict[str, Callable[..., Solution]] = {
    "slim": partial(slim_problems, strategy=Frontier()),
    "random": search_randomly,
    "NSGA-II": evolve,
    "greedy": slim_greedily,
    **OPTIMISERS,
}
PLANNED = ("slim", "greedy")
"""Those that plan by the number of evaluations, so that each number is a search of its own; of the
others one search tells what it would deliver after each."""
SLOW = ("BoTorch", "GP, TS", "GP, NEI", "Optuna GP", "SMAC")
BUDGETS = (20, 40, 60, 80, 100)
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
    parser.add_argument("--evaluations", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--repeats", type=int, default=3, help="of each NAS-Bench-Macro table")
    parser.add_argument("--seeds", type=int, default=10, help="of each family of synthetic tables")
    parser.add_argument("--slow", type=int, default=12, help=f"runs of {', '.join(SLOW)}")
    parser.add_argument("--journal", type=Path, default=Path("runs/benchmark_search.jsonl"))
    parser.add_argument("--frontiers", action="store_true", help="areas instead of regrets")
    arguments = parser.parse_args()
    macro = [*nas_bench_macro(arguments.data)] if arguments.data.exists() else []
    macro = [it for seed in SEEDS for it in macro[seed :: len(SEEDS)]]  # few runs have all bounds
    if not macro:
        print(f"skipped: {arguments.data} is not here")
    tables = sorted(synthetic(arguments.seeds), key=lambda table: table.name)
    families = [list(it) for _, it in itertools.groupby(tables, key=lambda table: table.name)]
    if arguments.frontiers:
        print("table             evaluations  method       area  95 % interval  above NSGA-II's")
        for family in ([macro[:: len(SHARES)] * arguments.repeats] if macro else []) + families:
            compare_frontiers(family)
        return
    for name, package in MISSING.items():
        print(f"skipped: {name}, as {package} is not installed: pip install {package}")
    arguments.journal.parent.mkdir(parents=True, exist_ok=True)
    adapter = TypeAdapter(Curve)
    with Journal(arguments.journal, adapter, noun="a comparison", remedy="delete it") as journal:
        curves = Curves(journal)
        for family in ([macro * arguments.repeats] if macro else []) + families:
            compare(family, arguments, curves)


def synthetic(seeds: int) -> Iterator[Table]:
    """Every family in all circumstances."""
    for seed, (noise, share) in itertools.product(range(seeds), CIRCUMSTANCES):
        yield crossed(seed, noise, share, returns=0)
        yield crossed(seed, noise, share, returns=3)
        yield staged(seed, noise, share)
        yield layered(seed, noise, share)


def compare(tables: Sequence[Table], arguments: argparse.Namespace, curves: Curves) -> None:
    """Print the mean regrets of every method on the same tables with the same seeds.

    A mark says that the paired difference from ``slim`` has an interval above (+) or below 0 (-).
    """
    family, budgets, ours = tables[0].name, arguments.evaluations, np.array(math.nan)
    print(f"\n{family:<15} " + "".join(f"{budget:<24}" for budget in budgets))
    for name in arguments.methods:
        chosen = tables[: arguments.slow] if name in SLOW else tables
        found = np.array(
            [curves.regrets(name, table, budgets, seed) for seed, table in enumerate(chosen)]
        )
        ours = found if name == "slim" else ours
        cells = ""
        for column, values in enumerate(found.T):
            low, high = interval(values)
            mark = " "
            if name != "slim" and ours.ndim:
                less, more = interval(values - ours[: len(values), column])
                mark = "+" if less > 0 else "-" if more < 0 else " "
            cells += f"{values.mean():.3f} ({low:.3f} to {high:.3f}){mark} "
        print(f"{name:<10} {len(found):>4} {cells}".rstrip(), flush=True)
    if family == "nas-bench-macro" and ours.ndim:
        for budget, mean in zip(budgets, ours.mean(axis=0), strict=True):
            if budget in BARS:
                print(f"slim at {budget}: {mean:.3f}, bar {BARS[budget]:.2f}")


class Curve(Value):
    """The regrets of one search on the table at a place of its family, by evaluations."""

    family: str
    place: int
    method: str
    regrets: dict[int, float]


class Curves:
    """Regrets at 20 to 100 evaluations, of methods that do not change, in a journal."""

    def __init__(self, journal: Journal[Curve]) -> None:
        self._journal = journal
        self._known = {(it.family, it.place, it.method): it for it in self._journal.lines}

    def regrets(self, name: str, table: Table, budgets: Sequence[int], seed: int) -> list[float]:
        """One search's, at each number of evaluations."""
        if name in PLANNED:
            return [regret(name, table, budget, seed) for budget in budgets]
        key = table.name, seed, name
        if key not in self._known or not {*budgets} <= self._known[key].regrets.keys():
            found = curve(name, table, sorted({*budgets, *BUDGETS}), seed)
            self._known[key] = Curve(family=table.name, place=seed, method=name, regrets=found)
            self._journal.append(self._known[key])
        return [self._known[key].regrets[budget] for budget in budgets]


def regret(name: str, table: Table, evaluations: int, seed: int) -> float:
    """Of a search that plans by its number of evaluations."""
    rng = np.random.default_rng(seed)
    result = METHODS[name]([table.problem], evaluations=evaluations, rng=rng)
    return float(table.optimum - table.truth(result.best))


def curve(name: str, table: Table, budgets: Sequence[int], seed: int) -> dict[int, float]:
    """Of what one search would deliver after each number of evaluations."""
    problem, rng = table.problem, np.random.default_rng(seed)
    result = METHODS[name]([problem], evaluations=max(budgets), rng=rng)
    every = list(result.evaluated.items())
    bests = {it: incumbent(PROPOSALS.get(name), problem, dict(every[:it])) for it in budgets}
    return {it: float(table.optimum - table.truth(best)) for it, best in bests.items()}


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
