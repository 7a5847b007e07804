"""What a search asks a supernet: the accuracy of architectures, one by one or in a race."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.architecture import Architecture
from nas.data import Dataset
from nas.search import Rank, run_race
from nas.search.racing import CONFIDENCE, Hits, Positions
from nas.supernet import Supernet
from nas.training.prefixes import Prefixes

CACHE_MB = 512
"""Of feature maps, calibrated layers and hits, at most: benchmarks/evaluations.py."""


class Evaluator:
    """Accuracies on the search slice with inherited weights; the supernet stays as it is.

    They are what extracting, calibrating and judging the architecture alone would give, but layers
    that it shares with architectures before it do not run again while ``cache_mb`` megabytes hold
    what they gave. ``confidence`` is that of a race.
    """

    def __init__(
        self,
        supernet: Supernet,
        dataset: Dataset,
        *,
        cache_mb: int = CACHE_MB,
        confidence: float = CONFIDENCE,
    ) -> None:
        self.prefixes = Prefixes(supernet, dataset, cache_mb * 10**6)
        self.confidence = confidence
        self._everything = np.arange(len(dataset.search))

    @property
    def macs(self) -> int:
        """Multiply-accumulates forwarded so far, calibration included."""
        return self.prefixes.macs

    @property
    def peak_cache_mb(self) -> float:
        """The most that the cache held so far."""
        return self.prefixes.memory.peak / 1e6

    def accuracy(self, architecture: Architecture) -> float:
        """The share of the search slice that the architecture gets right, in [0, 1]."""
        hits, _ = self.prefixes.judge(self.prefixes.subnet(architecture), self._everything)
        return int(hits.sum()) / len(hits)

    def race(
        self, current: Architecture, candidates: Sequence[Architecture], rank: Rank
    ) -> list[float]:
        """The candidates' accuracies, estimated for those that lost early: see ``run_race``."""
        # all before any runs, so that it is known where they part
        first, *subnets = [self.prefixes.subnet(one) for one in (current, *candidates)]
        judged = self.prefixes.judge(first, self._everything)

        def look(candidate: int, part: Positions, is_finalist: bool) -> Hits:
            return self.prefixes.judge(subnets[candidate], part, keep_all=is_finalist).hits

        return run_race(
            look,
            len(candidates),
            judged.hits,
            np.abs(judged.margins),
            rank,
            rng=np.random.default_rng(0),
            confidence=self.confidence,
        )
