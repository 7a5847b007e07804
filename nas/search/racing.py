"""Racing: candidates meet on growing parts of the same images, and those that cannot win go home.

After each part the differences to the current network are drawn many times as they may turn out on
all images, given those that were seen, and candidates that are best in hardly any draw are dropped.
All chances that were dropped add up to ``1 - confidence`` at most (union bound over candidates and
looks), so at least so often the winner is the one that all images would have chosen. Racing as a
way to select: Maron & Moore 1994, "Hoeffding races".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from nas.search.problem import Assignment

Floats = NDArray[np.float64]
Hits = NDArray[np.bool_]

Rank = Callable[[Floats], Floats]
"""Of accuracy drops (..., candidates) the ranks, of the same shape: the least is the best. A rank
grows with its candidate's drop, and depends on no other."""

Race = Callable[[Assignment, Sequence[Assignment], Rank], Sequence[float]]
"""Accuracies of the candidates of a step from the current assignment, in their order, in [0, 1]:
exact for those that could win to the end, estimated for the others."""

CONFIDENCE = 0.95
"""That the winner is the one whom all images would have chosen: benchmarks/evaluations.py."""
DRAWS = 4000
DISAGREEMENTS = 2.0
"""Added to what was seen: images on which a candidate differs from the current network, half of
them in its favour. Without them a candidate that agreed so far would count as one that always
will."""


def run_race(
    look: Callable[[int, int], Hits],
    candidates: int,
    sizes: Sequence[int],
    rank: Rank,
    *,
    rng: np.random.Generator,
    confidence: float = CONFIDENCE,
) -> list[float]:
    """The accuracies of the candidates: of the dropped ones as the images that they saw tell.

    An estimate is the current network's accuracy plus the paired difference on these images. The
    best by ``rank`` has always seen all.

    Args:
        look: the hits of a runner on a part of the images; runner 0 is the current network, 1 the
            first candidate. Asked once for each, part by part while many run.
        candidates: how many there are.
        sizes: images of each part, in a random order; together they are all images.
        rank: what decides, of all candidates' drops.
        rng: draws how differences may turn out.
        confidence: in (0, 1).

    Raises:
        ValueError: ``confidence`` is not in (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"race: confidence must be in (0, 1), got {confidence}")
    table = _Table(look, candidates, sizes)
    running = list(range(candidates))
    chances_left = 1 - confidence
    for part in range(len(sizes) - 1):
        if len(running) <= 1:
            break
        for candidate in running:
            table.show(candidate, part)
        chances = _chances(table, running, rank, rng)
        # half of what is left: early looks save the most
        dropped = _hopeless(chances, chances_left / 2)
        chances_left -= float(chances[dropped].sum())
        running = [one for index, one in enumerate(running) if index not in dropped]
    for candidate in running:
        table.finish(candidate)
    best = int(np.argmin(rank(table.drops())))
    while not table.has_finished(best):  # the winner disappointed after others had been dropped
        table.finish(best)
        best = int(np.argmin(rank(table.drops())))
    return table.accuracies()


class _Table:
    """Which images each candidate loses against the current network, as far as they were seen."""

    def __init__(
        self, look: Callable[[int, int], Hits], candidates: int, sizes: Sequence[int]
    ) -> None:
        self.look, self.sizes = look, sizes
        self.images = sum(sizes)
        self._current: list[Floats] = []
        self._losses: list[list[Floats]] = [[] for _ in range(candidates)]

    def show(self, candidate: int, part: int) -> None:
        """Let a candidate see the part that follows on those it saw."""
        while len(self._current) <= part:
            self._current.append(self.look(0, len(self._current)).astype(float))
        losses = self._losses[candidate]
        assert len(losses) == part
        losses.append(self._current[part] - self.look(candidate + 1, part))

    def finish(self, candidate: int) -> None:
        """Let a candidate see all that it has not seen yet."""
        for part in range(len(self._losses[candidate]), len(self.sizes)):
            self.show(candidate, part)

    def has_finished(self, candidate: int) -> bool:
        """Whether a candidate has seen all images."""
        return len(self._losses[candidate]) == len(self.sizes)

    def losses(self, candidate: int) -> Floats:
        """For each image that was seen 1 if only the current network is right, -1 if only the
        candidate is, else 0."""
        return np.concatenate(self._losses[candidate])

    def drops(self) -> Floats:
        """The mean loss of each candidate, (candidates,)."""
        return np.array([self.losses(one).mean() for one in range(len(self._losses))])

    def accuracies(self) -> list[float]:
        """Of all candidates, the images that one has not seen as those that it has."""
        parts = range(len(self._current), len(self.sizes))
        self._current += [self.look(0, part).astype(float) for part in parts]
        hits = float(np.concatenate(self._current).sum())
        losses = [self.losses(one) for one in range(len(self._losses))]
        # in whole images: what has seen all gets the very number of a full evaluation
        return [
            float(hits - self.images / len(lost) * lost.sum()) / self.images for lost in losses
        ]


def _chances(
    table: _Table, running: Sequence[int], rank: Rank, rng: np.random.Generator
) -> Floats:
    """For each runner how often it is the best of them on all images, given those seen so far."""
    losses = np.stack([table.losses(one) for one in running])  # (runners, images seen)
    seen = losses.shape[1]
    spread = np.atleast_2d(np.cov(losses, bias=True)) + np.diag(
        np.full(len(running), DISAGREEMENTS / seen)
    )
    # what was seen is part of all: nothing is open at the end (finite population)
    spread *= (1 - seen / table.images) / seen
    drops = np.full((DRAWS, len(table.drops())), np.inf)
    normal = rng.multivariate_normal(
        losses.mean(axis=1), spread, size=DRAWS, check_valid="ignore", method="eigh"
    )
    drops[:, running] = normal
    winners = rank(drops)[:, running].argmin(axis=1)
    return np.bincount(winners, minlength=len(running)) / DRAWS


def _hopeless(chances: Floats, allowed: float) -> list[int]:
    """As many as have together a chance of ``allowed`` at most, the least promising first."""
    order = np.argsort(chances, kind="stable")
    count = int(np.searchsorted(np.cumsum(chances[order]), allowed, side="right"))
    return sorted(order[: min(count, len(order) - 1)].tolist())
