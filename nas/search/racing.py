"""Racing: candidates are compared on growing parts of the same images, and losers drop out early.

Images are layered by the current network's certainty, and each part takes from each layer as many
as its disagreements call for (Neyman 1934). After each part the drops on all images are drawn many
times, and candidates that are best in hardly any draw are dropped; the chances of all dropped ones
add up to ``1 - confidence`` at most (a union bound).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from nas.search.problem import Floats, Rank

Hits = NDArray[np.bool_]
Positions = NDArray[np.int64]

CONFIDENCE = 0.99
"""That the winner is the one that all images would choose: see benchmarks/evaluations.py."""
PART = 128
"""Images of a part, at most."""
LAYERS, LAYER_IMAGES = 16, 32
"""Layers of certainty, at most; images of each, at least."""
FIRST_RATE, LAST_RATE = 0.2, 0.0002
"""Disagreements per image expected in the least and in the most certain layer."""
LOOKS = 50.0
"""How many images of a layer this expectation counts for."""
PREVALENCE = 0.5
"""Expected deviation of losses less wins, as a share of disagreements."""
DRAWS = 4000

Look = Callable[[int, Positions, bool], Hits]
"""From a candidate, positions of images, and whether it is a finalist, to which of the images it
gets right. A finalist is to see all images, and the search may go on from it."""


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
    """Return accuracies of candidates: exact for the best by ``rank``, estimates for dropped ones.

    ``look`` is called once for each candidate and position. ``hits`` (N,) are the images that the
    current network gets right, ``certainty`` (N,) is how far it is from another answer. Raises
    ValueError unless ``confidence``, that the best wins, is in (0, 1).
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
        order = np.argsort(chances, kind="stable")
        allowed = chances_left / 2  # half: early looks save the most
        count = int(np.searchsorted(np.cumsum(chances[order]), allowed, side="right"))
        dropped = sorted(order[: min(count, len(order) - 1)].tolist())
        chances_left -= float(chances[dropped].sum())
        running = [candidate for i, candidate in enumerate(running) if i not in dropped]
    for candidate in running:
        table.finish(candidate)
    return table.accuracies(rank)


class _Table:
    """The losses of each candidate against the current network, on the images that it has seen.

    A loss is 1 where only the current network is right, -1 where only the candidate is, else 0.
    """

    def __init__(
        self, look: Look, candidates: int, hits: Hits, certainty: Floats, rng: np.random.Generator
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
        return int((self._sizes - self._taken).sum())

    def next_part(self) -> Positions:
        rates = self._rates()
        left = self._sizes - self._taken
        total = min(PART, self.left)
        weights = self._sizes * rates
        wanted = weights / weights.sum() * (self._taken.sum() + total) - self._taken
        wanted = np.clip(wanted, 0, left)
        counts = np.floor(wanted * min(1.0, total / max(1.0, wanted.sum()))).astype(np.int64)
        for layer in np.argsort(-rates, kind="stable"):  # what rounding left over
            counts[layer] += min(left[layer] - counts[layer], total - counts.sum())
        spans = zip(self._layers, self._taken, counts, strict=True)
        part = [layer[taken : taken + count] for layer, taken, count in spans]
        self._taken += counts
        return np.sort(np.concatenate(part))

    def show(self, candidate: int, part: Positions, *, is_finalist: bool = False) -> None:
        found = self._look(candidate, part, is_finalist)
        self._seen[candidate, part] = True
        self._losses[candidate, part] = self._hits[part].astype(float) - found
        self._looks[candidate] += np.bincount(self._layer_of[part], minlength=len(self._sizes))

    def finish(self, candidate: int) -> None:
        missing = np.flatnonzero(~self._seen[candidate])
        for start in range(0, len(missing), PART):
            self.show(candidate, missing[start : start + PART], is_finalist=True)

    def drops(self) -> tuple[Floats, Floats]:
        """Return each candidate's expected drop on all images, and its standard deviation.

        An unseen image is lost or won at its layer's rate, scaled by the candidate's disagreements.
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
        losses = self._losses[list(running)]
        products = losses @ losses.T + np.eye(len(losses))
        deviations = np.sqrt(np.diag(products))
        return np.asarray(products / np.outer(deviations, deviations))

    def accuracies(self, rank: Rank) -> list[float]:
        """Return the accuracies of all candidates; the best by ``rank`` sees all images first."""
        while True:
            drops, _ = self.drops()
            best = int(np.argmin(rank(drops)))
            if self._seen[best].all():
                images = len(self._hits)
                lost = np.round(drops * images, 6)  # whole images where all were seen
                return [float(self._hits.sum() - count) / images for count in lost]
            self.finish(best)  # the winner fell behind one that had been dropped

    def _rates(self) -> Floats:
        """Return the disagreements per image in each layer, over all candidates."""
        found = self._by_layer(np.abs(self._losses)).sum(axis=0) + LOOKS * self._expected
        return np.asarray(found / (self._looks.sum(axis=0) + LOOKS))

    def _by_layer(self, values: Floats) -> Floats:
        """Return sums over the images of each layer, (candidates, layers)."""
        count = len(self._sizes)
        return np.stack([np.bincount(self._layer_of, row, minlength=count) for row in values])


def _chances(table: _Table, running: Sequence[int], rank: Rank, rng: np.random.Generator) -> Floats:
    """Return how often each runner is the best on all images, given those seen so far."""
    means, deviations = table.drops()
    spread = np.outer(deviations[running], deviations[running]) * table.correlations(running)
    drops = np.full((DRAWS, len(means)), np.inf)
    drops[:, running] = rng.multivariate_normal(means[running], spread, size=DRAWS, method="eigh")
    winners = rank(drops)[:, running].argmin(axis=1)
    return np.bincount(winners, minlength=len(running)) / DRAWS
