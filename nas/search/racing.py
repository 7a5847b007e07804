"""Racing: candidates meet on growing parts of the same images, and those that cannot win go home.

A candidate differs from the current network in one place, so they disagree where the current
network is least certain: on CIFAR-10 an eighth of the images holds three quarters of what is won
and lost. Images are layered by that certainty, and each part takes from each layer as many as its
disagreements call for (Neyman 1934). After each part the drops are drawn many times as they may
turn out on all images, and candidates that are best in hardly any draw are dropped. All chances
that were dropped add up to ``1 - confidence`` at most, a union bound over candidates and looks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from nas.search.problem import Floats, Rank

Hits = NDArray[np.bool_]
Positions = NDArray[np.int64]

CONFIDENCE = 0.99
"""That the winner is the one whom all images would have chosen: benchmarks/evaluations.py."""
PART = 128
"""Images between two looks, at most."""
LAYERS, LAYER_IMAGES = 16, 32
"""Layers of certainty, at most; images of each, at least."""
FIRST_RATE, LAST_RATE = 0.2, 0.0002
"""Disagreements per image that are expected of the least and of the most certain images before any
is seen; of the layers between geometrically. Measured on CIFAR-10: 0.18 to none in eight layers."""
LOOKS = 50.0
"""How many looks at images of a layer this expectation counts for."""
PREVALENCE = 0.5
"""By how much losses outweigh wins, or the other way round, as a share of disagreements: the
deviation that is expected before any is seen."""
DRAWS = 4000


Look = Callable[[int, Positions, bool], Hits]
"""Which of the images at these positions a candidate gets right, and whether it is a finalist: one
that is to see all images, and from which the search may go on."""


def run_race(
    look: Look,
    candidates: int,
    hits: Hits,
    certainty: Floats,
    rank: Rank,
    *,
    rng: np.random.Generator,
    confidence: float = CONFIDENCE,
) -> list[float]:
    """The accuracies of the candidates: of the dropped ones as the images that they saw tell.

    An estimate is the current network's accuracy less the paired drop on these images. The best by
    ``rank`` has always seen all.

    Args:
        look: the hits of a candidate; asked for each position once.
        candidates: how many there are.
        hits: which images the current network gets right, (N,).
        certainty: how far the current network is from changing its mind on each image, (N,).
        rank: what decides, of all candidates' drops.
        rng: draws images, and how drops may turn out.
        confidence: that the best on all images wins, in (0, 1).

    Raises:
        ValueError: ``confidence`` is not in (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"race: confidence must be in (0, 1), got {confidence}")
    table = _Table(look, candidates, hits, certainty, rng)
    running = list(range(candidates))
    chances_left = 1 - confidence
    while len(running) > 1:
        part = table.next_part()
        for candidate in running:
            table.show(candidate, part)
        if not table.left:
            break
        chances = _chances(table, running, rank, rng)
        # half of what is left: early looks save the most
        dropped = _hopeless(chances, chances_left / 2)
        chances_left -= float(chances[dropped].sum())
        running = [one for index, one in enumerate(running) if index not in dropped]
    for candidate in running:
        table.finish(candidate)
    return table.accuracies(rank)


class _Table:
    """What each candidate loses against the current network, as far as images were seen.

    A loss is 1 where only the current network is right, -1 where only the candidate is, else 0.
    """

    def __init__(
        self,
        look: Look,
        candidates: int,
        hits: Hits,
        certainty: Floats,
        rng: np.random.Generator,
    ) -> None:
        self._look, self._hits = look, hits
        count = max(1, min(LAYERS, len(hits) // LAYER_IMAGES))
        layers = np.array_split(np.argsort(certainty, kind="stable"), count)
        self._layers = [rng.permutation(layer) for layer in layers]
        self._sizes = np.array([len(layer) for layer in layers])
        self._layer_of = np.empty(len(hits), np.int64)
        for index, layer in enumerate(layers):
            self._layer_of[layer] = index
        self._taken = np.zeros(count, np.int64)  # the first so many of each layer
        self._expected = np.geomspace(FIRST_RATE, LAST_RATE, count)
        self._seen = np.zeros((candidates, len(hits)), bool)
        self._losses = np.zeros((candidates, len(hits)))
        self._looks = np.zeros((candidates, count))

    @property
    def left(self) -> int:
        """Images of which no part was made so far."""
        return int((self._sizes - self._taken).sum())

    def next_part(self) -> Positions:
        """The positions of the images to see next."""
        rates = self._rates()
        left = self._sizes - self._taken
        total = min(PART, self.left)
        weights = self._sizes * rates
        wanted = weights / weights.sum() * (self._taken.sum() + total) - self._taken
        wanted = np.clip(wanted, 0, left)
        counts = np.floor(wanted * min(1.0, total / max(1.0, wanted.sum()))).astype(np.int64)
        for layer in np.argsort(-rates, kind="stable"):  # what rounding left over
            counts[layer] += min(left[layer] - counts[layer], total - counts.sum())
        part = [
            layer[taken : taken + count]
            for layer, taken, count in zip(self._layers, self._taken, counts, strict=True)
        ]
        self._taken += counts
        return np.sort(np.concatenate(part))

    def show(self, candidate: int, part: Positions, *, is_finalist: bool = False) -> None:
        """Let a candidate see these images."""
        found = self._look(candidate, part, is_finalist)
        self._seen[candidate, part] = True
        self._losses[candidate, part] = self._hits[part].astype(float) - found
        self._looks[candidate] += np.bincount(self._layer_of[part], minlength=len(self._sizes))

    def finish(self, candidate: int) -> None:
        """Let a candidate see all that it has not seen yet."""
        missing = np.flatnonzero(~self._seen[candidate])
        for start in range(0, len(missing), PART):
            self.show(candidate, missing[start : start + PART], is_finalist=True)

    def drops(self) -> tuple[Floats, Floats]:
        """The expected drop of each candidate on all images, and its deviation.

        An image that was not seen is lost or won at its layer's rate, times how much the candidate
        disagrees otherwise. Which of both prevails in a layer is believed as far as it was seen.
        """
        rates = self._rates()
        scale = (np.abs(self._losses).sum(axis=1) + 1) / (self._looks @ rates + 1)
        rate = scale[:, None] * rates  # (candidates, layers)
        left = self._sizes - self._looks
        precision = (PREVALENCE * rate) ** -2 + self._looks / rate
        loss = self._by_layer(self._losses) / rate / precision
        means = self._losses.sum(axis=1) + (left * loss).sum(axis=1)
        variances = (left * rate + left**2 / precision).sum(axis=1)
        return means / len(self._hits), np.sqrt(variances) / len(self._hits)

    def correlations(self, running: Sequence[int]) -> Floats:
        """Of the losses of candidates that saw the same images."""
        losses = self._losses[list(running)]
        products = losses @ losses.T + np.eye(len(losses))
        deviations = np.sqrt(np.diag(products))
        return np.asarray(products / np.outer(deviations, deviations))

    def accuracies(self, rank: Rank) -> list[float]:
        """Of all candidates; the best by ``rank`` sees all images first."""
        while True:
            drops, _ = self.drops()
            best = int(np.argmin(rank(drops)))
            if self._seen[best].all():
                images = len(self._hits)
                # whole images: who saw all has the very number of a full evaluation
                lost = np.round(drops * images, 6)
                return [float(self._hits.sum() - one) / images for one in lost]
            self.finish(best)  # the winner disappointed after others had been dropped

    def _rates(self) -> Floats:
        """Disagreements per image in each layer, of all candidates together."""
        disagreements = self._by_layer(np.abs(self._losses)).sum(axis=0)
        return np.asarray(
            (disagreements + LOOKS * self._expected) / (self._looks.sum(axis=0) + LOOKS)
        )

    def _by_layer(self, values: Floats) -> Floats:
        """Sums over the images of each layer, (candidates, layers)."""
        count = len(self._sizes)
        return np.stack([np.bincount(self._layer_of, row, minlength=count) for row in values])


def _chances(table: _Table, running: Sequence[int], rank: Rank, rng: np.random.Generator) -> Floats:
    """For each runner how often it is the best of them on all images, given those seen so far."""
    means, deviations = table.drops()
    spread = np.outer(deviations[running], deviations[running]) * table.correlations(running)
    drops = np.full((DRAWS, len(means)), np.inf)
    drops[:, running] = rng.multivariate_normal(means[running], spread, size=DRAWS, method="eigh")
    winners = rank(drops)[:, running].argmin(axis=1)
    return np.bincount(winners, minlength=len(running)) / DRAWS


def _hopeless(chances: Floats, allowed: float) -> list[int]:
    """As many as have together a chance of ``allowed`` at most, the least promising first."""
    order = np.argsort(chances, kind="stable")
    count = int(np.searchsorted(np.cumsum(chances[order]), allowed, side="right"))
    return sorted(order[: min(count, len(order) - 1)].tolist())
