"""Whether races choose what evaluating every candidate in full would, and what they spend on it.

    .venv/bin/python benchmarks/ranking.py    # trains runs/benchmark_ranking/default_seed0
    .venv/bin/python benchmarks/evaluations.py --run runs/benchmark_ranking/default_seed0

Walks down from the largest network, or from random ones, always by the action that all images
choose, and lets a race choose at every step as well. Equal is the same action; where they differ,
the drop per gain in Mobile Efficiency Score of the raced choice is printed beside the best. Prices
are parameters and, in place of milliseconds, MACs. Full evaluations are counted as each network
alone: 256 images to calibrate its norms, and the whole search slice; their time is that of one
candidate of each step, in proportion to MACs.

The whole walk from the largest network takes 10 to 20 minutes on one x86 core. README.md has the
figures.
"""

from __future__ import annotations

import os

from nas.machine import OPENMP

os.environ.update(OPENMP | os.environ)  # as the command line does

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from nas.architecture import Architecture
from nas.data import Dataset
from nas.network import measure_size
from nas.search import Problem, Rank, slim_greedily
from nas.search.racing import CONFIDENCE
from nas.space import Assignment, SearchSpace
from nas.supernet import Supernet
from nas.training.evaluation import accuracy, calibrate
from nas.training.evaluator import CACHE_MB, CALIBRATION_BATCH, CALIBRATION_IMAGES, Evaluator
from nas.training.run import Run


class Enough(Exception):  # noqa: N818 - no error: the walk has taken its steps
    """Raised inside a walk to end it."""


@dataclass
class Figures:
    """Sums over all steps of all walks."""

    steps: int = 0
    equal: int = 0
    full_macs: float = 0.0
    raced_macs: float = 0.0
    full_seconds: float = 0.0
    raced_seconds: float = 0.0
    cache_mb: float = 0.0


@dataclass
class Walk:
    """One walk: the exact evaluator leads, the racing one follows on the same path."""

    supernet: Supernet
    dataset: Dataset
    space: SearchSpace
    figures: Figures
    steps: int
    racing: Evaluator
    exact: Evaluator
    prices: dict[Assignment, dict[str, float]] = field(default_factory=dict)

    def cost(self, assignment: Assignment) -> dict[str, float]:
        """Parameters, and MACs as if 10 million took a millisecond."""
        if assignment not in self.prices:
            size = measure_size(self.space.decode(assignment))
            self.prices[assignment] = {"params": size.params, "latency_ms": size.macs / 1e7}
        return self.prices[assignment]

    def accuracy(self, assignment: Assignment) -> float:
        """Exact."""
        return self.exact.accuracy(self.space.decode(assignment))

    def race(
        self, current: Assignment, candidates: Sequence[Assignment], rank: Rank
    ) -> Sequence[float]:
        """Exact accuracies; what a race would have said is compared with them."""
        if self.steps == 0:
            raise Enough
        self.steps -= 1
        figures, decode = self.figures, self.space.decode
        at, architectures = decode(current), [decode(one) for one in candidates]
        self.racing.accuracy(at)  # as the walk has asked for it: of the first step only it is new
        before, started = self.racing.macs, time.perf_counter()
        raced = self.racing.race(at, architectures, rank)
        figures.raced_seconds += time.perf_counter() - started
        figures.raced_macs += self.racing.macs - before
        figures.cache_mb = max(figures.cache_mb, self.racing.memory.peak / 1e6)
        macs = [measure_size(one).macs for one in architectures]
        images = CALIBRATION_IMAGES + len(self.dataset.search)
        figures.full_macs += sum(macs) * images
        timed = figures.steps % len(macs)
        started = time.perf_counter()
        alone = evaluated_alone(self.supernet, architectures[timed], self.dataset)
        figures.full_seconds += (time.perf_counter() - started) * sum(macs) / macs[timed]
        exact = [self.exact.accuracy(one) for one in architectures]
        assert exact[timed] == alone
        now = self.exact.accuracy(at)
        ranks = rank(now - np.array(exact))
        chosen = int(np.argmin(rank(now - np.array(raced))))
        figures.steps += 1
        figures.equal += bool(ranks[chosen] == ranks.min())
        print(
            f"step {figures.steps:>3}: {len(macs):>2} candidates, drop per gain "
            f"{ranks[chosen]:.3g} raced, {ranks.min():.3g} best; so far {summary(figures)}",
            flush=True,
        )
        return exact


def main() -> None:
    """Walk from every start and print the sums."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/benchmark_ranking/default_seed0"))
    parser.add_argument("--starts", type=int, nargs="+", default=[0], help="0: largest")
    parser.add_argument("--steps", type=int, default=1000, help="of each walk, at most")
    parser.add_argument("--cache-mb", type=int, default=CACHE_MB)
    parser.add_argument("--confidence", type=float, default=CONFIDENCE)
    arguments = parser.parse_args()
    if not (arguments.run / "run.json").exists():
        print(f"skipped: {arguments.run} is not here")
        return
    torch.set_num_threads(1)
    run = Run.open(arguments.run)
    supernet, dataset, space = run.load_supernet(), run.load_images(), run.space
    figures = Figures()
    for seed in arguments.starts:
        evaluators = [
            Evaluator(
                supernet,
                dataset,
                cache_mb=arguments.cache_mb,
                confidence=arguments.confidence,
            )
            for _ in range(2)
        ]
        descend(Walk(supernet, dataset, space, figures, arguments.steps, *evaluators), seed)
    print(f"{figures.steps} steps, {len(dataset.search)} images: {summary(figures)}")


def descend(walk: Walk, seed: int) -> None:
    """The published loop in the part of the space below a start."""
    rng = np.random.default_rng(seed)
    largest = tuple(size - 1 for size in walk.space.sizes)
    start = tuple(int(rng.integers(size)) for size in walk.space.sizes) if seed else largest
    least = walk.cost(walk.space.canonical((0,) * len(start)))
    try:
        problem = Problem(
            tuple(index + 1 for index in start),
            walk.cost,
            walk.accuracy,
            {"latency_ms": 1.02 * least["latency_ms"]},
            walk.space.canonical,
            walk.race,
        )
        slim_greedily([problem], evaluations=10**6, rng=rng)
    except Enough:
        return


def evaluated_alone(supernet: Supernet, architecture: Architecture, dataset: Dataset) -> float:
    """Extracted, calibrated and judged as a whole: what a full evaluation is."""
    network, images = supernet.extract(architecture), dataset.at(architecture.input_size)
    calibrate(
        network,
        images.train,
        batches=CALIBRATION_IMAGES // CALIBRATION_BATCH,
        batch_size=CALIBRATION_BATCH,
        rng=np.random.default_rng(0),
    )
    return accuracy(network, images.search)


def summary(figures: Figures) -> str:
    """All shares in percent."""
    return (
        f"{100 * figures.equal / figures.steps:.1f} % equal, "
        f"{100 * figures.raced_macs / figures.full_macs:.1f} % of the MACs, "
        f"{100 * figures.raced_seconds / figures.full_seconds:.1f} % of the time, "
        f"cache at most {figures.cache_mb:.0f} MB"
    )


if __name__ == "__main__":
    main()
