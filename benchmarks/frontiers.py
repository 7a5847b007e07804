"""Frontiers on trained supernets: slimming, uniform scaling, random search and NSGA-II.

    .venv/bin/python benchmarks/frontiers.py                          # digits, about 4 minutes
    .venv/bin/python benchmarks/frontiers.py --on cifar10 --seeds 2   # one to two hours

The supernets are one of tiny networks on digits, where the smallest are too small, and one on
10,000 images of CIFAR-10. Prints the area between each method's frontier, the largest network's
latency and the accuracy of chance, as a part of NSGA-II's at 100 evaluations, by the accuracy that
the search saw and, for what each method would deliver, by that on the test images. Slimming, random
search and NSGA-II are given eight bounds from the least reachable latency to the largest network's;
uniform scaling needs no search. Runs, tables and accuracies are kept in --out, so a second run is
quick.
"""

from __future__ import annotations

import os

from nas.machine import OPENMP

os.environ.update(OPENMP | os.environ)  # as the command line does

import argparse
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from prepared import run_at, table_at

from nas.data import Dataset
from nas.latency.table import Prices
from nas.report.terminal import ProgressBar, print_table
from nas.search import (
    Frontier,
    InfeasibleTarget,
    Problem,
    Solution,
    evolve,
    hypervolume,
    scale_uniformly,
    search_randomly,
    slim_problems,
)
from nas.space import Assignment, SearchSpace
from nas.training.evaluation import inherited_accuracy
from nas.training.evaluator import Evaluator
from nas.training.run import Run
from nas.training.settings import DataSettings, SupernetSettings


class Subject(NamedTuple):
    """What is searched: a supernet, and how it is trained."""

    space: str
    settings: SupernetSettings
    limit: int | None = None


SUBJECTS = {
    "digits": Subject(
        str(Path(__file__).with_name("digits_32px.yaml")), SupernetSettings(epochs=15)
    ),
    "cifar10": Subject("cifar10_32px", SupernetSettings(epochs=12, batch_size=50), limit=12_500),
}
SEARCH_SHARE = 0.2
BOUNDS = 8
METHODS = {
    "slimmed": partial(slim_problems, strategy=Frontier()),
    "random": search_randomly,
    "NSGA-II": evolve,
}


class Judge:
    """Accuracies of a run's networks, on the search slice and on the test images, each once."""

    def __init__(self, run: Run, dataset: Dataset, bar: ProgressBar) -> None:
        self.run, self.dataset, self.bar = run, dataset, bar
        self.path = run.path / "judged.jsonl"
        self.known: dict[tuple[str, Assignment], float] = {}
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                part, assignment, found = json.loads(line)
                self.known[part, tuple(assignment)] = found
        self.supernet = run.load_supernet()
        self.evaluator = Evaluator(self.supernet, self.dataset)

    def seen(self, one: Assignment) -> float:
        """What a search sees."""
        return self._find("search", one)

    def tested(self, one: Assignment) -> float:
        """What a user gets, but for training on."""
        return self._find("test", one)

    def _find(self, part: str, one: Assignment) -> float:
        if (part, one) not in self.known:
            architecture = self.run.space.decode(one)
            found = (
                self.evaluator.accuracy(architecture)
                if part == "search"
                else inherited_accuracy(
                    self.supernet, architecture, self.dataset, self.dataset.test
                )
            )
            self.known[part, one] = found
            with self.path.open("a") as file:
                file.write(json.dumps([part, one, found]) + "\n")
            self.bar.update("networks judged", len(self.known), 0)
        return self.known[part, one]


def main() -> None:
    """Search, and print a line for each method and number of evaluations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", choices=SUBJECTS, default="digits")
    parser.add_argument("--data", help="where CIFAR-10 is", default="parquet:../shared/data")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_frontiers"))
    parser.add_argument("--seeds", type=int, default=5, help="of the searches")
    arguments = parser.parse_args()
    subject = SUBJECTS[arguments.on]
    spec = "digits" if arguments.on == "digits" else arguments.data
    if spec != "digits" and not Path(spec.partition(":")[2]).exists():
        print(f"skipped: {spec} is not here")
        return
    torch.set_num_threads(1)
    space = SearchSpace.load(subject.space)
    data = DataSettings(spec=spec, limit=subject.limit, search_share=SEARCH_SHARE)
    run, dataset = run_at(arguments.out / arguments.on, space, data, subject.settings)
    table = table_at(arguments.out / f"{arguments.on}.csv", space)
    prices = Prices(space, {"cpu": table})
    with ProgressBar("judging") as bar:
        judge = Judge(run, dataset, bar)
        sizes, canonical = space.sizes, space.canonical
        problem = Problem(sizes, prices.cost, judge.seen, {"latency_ms": 1e-9}, canonical)
        areas = {
            (name, evaluations): [
                areas_of(search(name, problem, evaluations, seed), problem, judge)
                for seed in range(arguments.seeds)
            ]
            for name in METHODS
            for evaluations in (50, 100)
        }
        uniform = areas_of(scaled(problem, space), problem, judge)
    base = np.array(areas["NSGA-II", 100])
    rows = [
        (
            *(name, str(evaluations)),
            *(spread(share) for share in (np.array(found) / base).T),
        )
        for (name, evaluations), found in areas.items()
    ]
    rows.append(("uniform", str(BOUNDS), *(spread(share) for share in (uniform / base).T)))
    print_table(
        ("method", "evaluations", "area, as searched", "area, on test images"),
        rows,
        title=f"{run.space.name}, {run.data.spec}: areas as parts of NSGA-II's at 100, mean of "
        f"{arguments.seeds} seeds (least to most)",
    )


def search(name: str, problem: Problem, evaluations: int, seed: int) -> Solution:
    """Return what a method finds for all bounds."""
    return METHODS[name](
        within_bounds(problem), evaluations=evaluations, rng=np.random.default_rng(seed)
    )


def scaled(problem: Problem, space: SearchSpace) -> Solution:
    """Scale uniformly to all bounds; to those that it cannot reach, as near as it gets."""
    nearest = problem.price(space.uniform(0))["latency_ms"]
    bests = tuple(
        problem.canonical(
            scale_uniformly(
                space.uniform,
                bounded.within({name: max(it, nearest) for name, it in bounded.target.items()}),
            )
        )
        for bounded in within_bounds(problem)
    )
    return Solution(bests, (), dict.fromkeys(bests, 0.0))


def within_bounds(problem: Problem) -> list[Problem]:
    """Return the problem within bounds at equal ratios, from the largest network's latency down."""
    least, most = ends(problem)
    ratio = (least / most) ** (1 / (BOUNDS - 1))
    return [problem.within({"latency_ms": max(least, most * ratio**it)}) for it in range(BOUNDS)]


def ends(problem: Problem) -> tuple[float, float]:
    """Return the least latency that can be reached, and that of the largest network.

    The smallest network need not be the fastest: 24 channels may take less time than 16. What is
    below the tightest bound would count for whoever meets it by chance.
    """
    try:
        fastest = problem.price(problem.feasible())
    except InfeasibleTarget as nothing_is_that_fast:
        fastest = nothing_is_that_fast.least
    return fastest["latency_ms"], problem.price(problem.largest)["latency_ms"]


def areas_of(found: Solution, problem: Problem, judge: Judge) -> tuple[float, float]:
    """Return the areas of what was evaluated, as searched, and of the bests on the test images."""
    reference = ends(problem)[1], 1 / judge.run.space.classes

    def area(points: Mapping[Assignment, float]) -> float:
        return hypervolume(
            [(problem.price(it)["latency_ms"], hits) for it, hits in points.items()], reference
        )

    return (
        area({it: judge.seen(it) for it in found.evaluated}),
        area({it: judge.tested(it) for it in found.bests}),
    )


def spread(values: np.ndarray) -> str:
    """Mean, least and most."""
    return f"{np.mean(values):.3f} ({np.min(values):.3f} to {np.max(values):.3f})"


if __name__ == "__main__":
    main()
