"""Tables to search on: NAS-Bench-Macro, and synthetic ones that are larger and noisier."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nas.search.problem import Assignment, Costs, Problem, as_it_is

Values = Callable[[NDArray[np.int_]], NDArray[np.float64]]
"""Of assignments (N, choices); (N,)."""
SHARES = (0.75, 0.5, 0.35, 0.25)
"""Of the largest network's latency: the bounds of NAS-Bench-Macro."""
CLIMBS, KEPT = 8, 0.3
"""Ascents to the optimum of a table too large to list; the part of neighbours each one sees."""


@dataclass(frozen=True)
class Table:
    """A search with a known truth; accuracies in per cent."""

    name: str
    sizes: tuple[int, ...]
    cost: Callable[[Assignment], Costs]
    seen: Callable[[Assignment], float]
    """Accuracy with the noise of one training or one evaluation."""
    truth: Callable[[Assignment], float]
    target: Costs
    optimum: float
    """The highest truth that meets the target, or the highest that long searches found."""
    canonical: Callable[[Assignment], Assignment] = as_it_is

    @property
    def problem(self) -> Problem:
        """The problem that a search sees; nothing is priced so far."""
        return Problem(self.sizes, self.cost, self.seen, self.target, self.canonical)


def nas_bench_macro(path: Path) -> Iterator[Table]:
    """Each bound with each of the three seeds as what is seen; the truth is their mean."""
    rows = pd.read_csv(path, dtype={"arch": str})
    keys = [tuple(map(int, digits)) for digits in rows["arch"]]
    seeds = rows[["acc_seed0", "acc_seed1", "acc_seed2"]].to_numpy()
    accuracies = dict(zip(keys, seeds, strict=True))
    shares = rows["flops"] / rows["flops"].max()
    costs = {
        key: {"latency_ms": share, "params": params}
        for key, share, params in zip(keys, shares, rows["params"], strict=True)
    }
    for share, seed in itertools.product(SHARES, range(3)):
        yield Table(
            "nas-bench-macro",
            (3,) * 8,
            costs.__getitem__,
            lambda one, seed=seed: float(accuracies[one][seed]),
            lambda one: float(accuracies[one].mean()),
            {"latency_ms": share},
            max(accuracies[key].mean() for key in keys if costs[key]["latency_ms"] <= share),
        )


def crossed(seed: int, noise: float, share: float, *, returns: float) -> Table:
    """20 to 40 choices of 2 to 5 options whose effects depend on each other by twos and threes.

    ``returns``: how fast accuracy saturates; 0 is not at all, and then some options do harm. One
    pair of largest options costs 15 % extra, so that feasible networks have a dent.
    """
    rng = np.random.default_rng(seed)
    count = int(rng.integers(20, 41))
    sizes = tuple(int(size) for size in rng.integers(2, 6, count))
    choice = np.array([j for j, size in enumerate(sizes) for _ in range(1, size)])
    option = np.array([v for size in sizes for v in range(1, size)])
    gain, price = rng.lognormal(0, 0.8, (2, count))
    effect = gain[choice] * rng.uniform(0.3, 0.9, count)[choice] ** (option - 1)
    effect *= rng.lognormal(0, 0.3, len(option))
    if not returns:
        effect *= np.where(rng.random(len(option)) < 0.12, -0.3, 1)
    ms = price[choice] * rng.lognormal(0, 0.3, len(option)) * (0.5 + 0.5 * gain[choice] ** 0.5)
    size = price[choice] * rng.lognormal(0, 0.5, len(option))
    deviation = effect.mean() * (0.25 if returns else 0.45)
    groups = [
        (rng.choice(len(option), order, replace=False), deviation * rng.normal())
        for order, number in ((2, 3 * count), (3, count))
        for _ in range(number)
    ]
    dent = rng.choice(count, 2, replace=False)
    top = np.array(sizes) - 1

    def quality(assignments: NDArray[np.int_]) -> NDArray[np.float64]:
        present = assignments[:, choice] >= option
        crossings = sum(weight * present[:, group].all(axis=1) for group, weight in groups)
        return np.asarray(present @ effect + crossings)

    best = float(quality(top[None])[0])

    def truth(assignments: NDArray[np.int_]) -> NDArray[np.float64]:
        part = quality(assignments) / best
        return 80 + 15 * (_saturated(part, returns) if returns else part)

    def costs(assignments: NDArray[np.int_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        present = assignments[:, choice] >= option
        extra = np.where((assignments[:, dent] == top[dent]).all(axis=1), 1.15, 1)
        return extra * (0.13 + 0.87 * present @ ms / ms.sum()), 0.13 + present @ size / size.sum()

    return _table(
        "crossed" if not returns else "saturating", sizes, costs, truth, share, noise, seed
    )


def staged(seed: int, noise: float, share: float) -> Table:
    """Four stages of a width and of blocks that may go; a stage without blocks falls off a cliff.

    The width multiplies what blocks cost and what they give, and the expansion of a block that is
    gone makes no difference.
    """
    rng = np.random.default_rng(seed)
    blocks = rng.integers(2, 5, 4)
    widths = rng.integers(3, 6, 4)
    quality, gain = rng.lognormal(0, 0.5, (4, 4)), rng.uniform(0.5, 1.5, 4)
    speed = rng.uniform(0.5, 2, 4)
    sizes = tuple(
        int(size)
        for width, count in zip(widths, blocks, strict=True)
        for size in (width, *([2, 3] * count))
    )
    starts = np.concatenate([[0], np.cumsum(1 + 2 * blocks)])

    def measured(assignments: NDArray[np.int_]) -> NDArray[np.float64]:
        total = np.zeros((3, len(assignments)))
        for stage in range(4):
            width = 0.5 + 0.5 * assignments[:, starts[stage]] / (widths[stage] - 1)
            depth = np.full(len(assignments), 0.3)
            total[1] += 0.5 * speed[stage] * width**1.3
            total[2] += 0.2 * 4**stage * width**2
            for block in range(blocks[stage]):
                present = assignments[:, starts[stage] + 1 + 2 * block]
                expansion = 2 + assignments[:, starts[stage] + 2 + 2 * block]
                depth += present * quality[stage, block] * (expansion / 4) ** 0.5
                total[1] += speed[stage] * present * (0.2 * expansion + 0.2) * width**1.5
                total[2] += 4**stage * present * expansion / 4 * width**2
            total[0] += gain[stage] * (np.log(0.2 + depth) + 0.8 * np.log(width))
            total[0] -= 0.4 * (depth < 0.35)
        return total

    top = measured(np.array(sizes)[None] - 1)[:, 0]
    bottom = measured(np.zeros((1, len(sizes)), int))[:, 0]

    def truth(assignments: NDArray[np.int_]) -> NDArray[np.float64]:
        return 80 + 15 * _saturated((measured(assignments)[0] - bottom[0]) / (top - bottom)[0], 1.2)

    def costs(assignments: NDArray[np.int_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        _, ms, size = measured(assignments)
        return ms / top[1], size / top[2]

    def canonical(one: Assignment) -> Assignment:
        settled = list(one)
        for stage in range(4):
            for kind in range(starts[stage] + 1, starts[stage + 1], 2):
                settled[kind + 1] *= settled[kind]
        return tuple(settled)

    return _table("staged", sizes, costs, truth, share, noise, seed, canonical)


def layered(seed: int, noise: float, share: float) -> Table:
    """Thirty layers in five stages, each of which is left out, light or full.

    Latencies add up to an overhead; the first layers of a stage give the most, some pairs of layers
    need each other and others do the same work twice.
    """
    rng = np.random.default_rng(seed)
    layers, stages = 30, 5
    sizes = tuple(int(size) for size in rng.integers(2, 4, layers))
    stage = np.arange(layers) * stages // layers
    full = np.array(sizes) - 1
    share_of_light = rng.uniform(0.5, 0.85, layers)  # of what the full one gives
    speed_of_light = rng.uniform(0.35, 0.7, layers)
    gain = rng.lognormal(0, 0.6, layers) * rng.lognormal(0, 0.3, stages)[stage]
    ms = rng.lognormal(0, 0.5, layers) * rng.lognormal(0, 0.3, stages)[stage]
    size = rng.lognormal(0, 0.5, layers) * 2.0**stage
    pairs = rng.integers(layers, size=(2, 2 * layers))
    crossing = 0.1 * gain.mean() * rng.normal(size=2 * layers)

    def strength(assignments: NDArray[np.int_], light: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(assignments == full, 1.0, np.where(assignments > 0, light, 0.0))

    def quality(assignments: NDArray[np.int_]) -> NDArray[np.float64]:
        present = strength(assignments, share_of_light)
        sums = (gain * present).reshape(len(assignments), stages, -1).sum(axis=2)
        most = gain.reshape(stages, -1).sum(axis=1)
        crossed = (crossing * present[:, pairs[0]] * present[:, pairs[1]]).sum(axis=1)
        return np.asarray((most * _saturated(sums / most, 3)).sum(axis=1) + crossed)

    ends = quality(np.stack([np.zeros(layers, int), full]))

    def truth(assignments: NDArray[np.int_]) -> NDArray[np.float64]:
        return np.asarray(80 + 15 * (quality(assignments) - ends[0]) / (ends[1] - ends[0]))

    def costs(assignments: NDArray[np.int_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        present = strength(assignments, speed_of_light)
        return 0.15 + 0.85 * present @ ms / ms.sum(), 0.1 + 0.9 * present @ size / size.sum()

    return _table("layered", sizes, costs, truth, share, noise, seed)


def _saturated(part: NDArray[np.float64], returns: float) -> NDArray[np.float64]:
    return (1 - np.exp(-returns * part)) / (1 - math.exp(-returns))


def _table(
    name: str,
    sizes: tuple[int, ...],
    costs: Callable[[NDArray[np.int_]], tuple[NDArray[np.float64], NDArray[np.float64]]],
    truth: Values,
    share: float,
    noise: float,
    seed: int,
    canonical: Callable[[Assignment], Assignment] = as_it_is,
) -> Table:
    """One table of two costs, with its optimum searched for by its truth."""

    def cost(one: Assignment) -> Costs:
        ms, size = costs(np.array([one]))
        return {"latency_ms": float(ms[0]), "params": 1e6 * float(size[0])}

    def true(one: Assignment) -> float:
        return float(truth(np.array([one]))[0])

    def seen(one: Assignment) -> float:
        return true(one) + noise * float(np.random.default_rng([seed, *canonical(one)]).normal())

    optimum = _optimum(sizes, costs, truth, share, np.random.default_rng(seed))
    return Table(name, sizes, cost, seen, true, {"latency_ms": share}, optimum, canonical)


def _optimum(
    sizes: tuple[int, ...],
    costs: Callable[[NDArray[np.int_]], tuple[NDArray[np.float64], NDArray[np.float64]]],
    truth: Values,
    share: float,
    rng: np.random.Generator,
) -> float:
    """The best truth of steepest ascents over all changes of one choice or two."""
    singles = [(choice, option) for choice, size in enumerate(sizes) for option in range(size)]
    left, right = np.array(list(itertools.combinations_with_replacement(singles, 2))).swapaxes(0, 1)
    rows = np.arange(len(left))
    best = -math.inf
    for _ in range(CLIMBS):
        here, value = np.zeros(len(sizes), int), -math.inf
        while True:
            near = np.repeat(here[None], len(left), axis=0)
            near[rows, left[:, 0]] = left[:, 1]
            near[rows, right[:, 0]] = right[:, 1]
            near = near[costs(near)[0] <= share]
            near = near[rng.random(len(near)) < KEPT]  # so that ascents differ
            found = truth(near)
            if not len(near) or found.max() <= value:
                break
            here, value = near[found.argmax()], float(found.max())
        best = max(best, value)
    return best
