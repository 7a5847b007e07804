"""From timed runs to a latency with its confidence interval: pure functions, no clock.

A graph is visited several times, far apart in time, and runs a few times at each visit. The runs of
one visit share the state of the machine, so only the visits are independent samples.

Other work on the machine only ever adds time: it evicts caches and shares the memory's bandwidth.
So the lower quartile stands for an undisturbed run, where thread CPU time is measured. With several
threads wall-clock times are bimodal, and low quantiles mean nothing: there it is the median.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy.special import betainc, stdtrit

Status = Literal["ok", "noisy"]

TOLERANCE_MS = 0.0005
"""No layer needs to be known better than this: a network of 1 ms feels 0.05 % of it."""

NOISY = 0.15
"""Half an interval above this share of the estimate makes a row ``noisy``."""


@dataclass(frozen=True)
class Estimate:
    """A latency, its standard error, both in ms, and the number of visits they come from."""

    value: float
    error: float
    visits: int

    @property
    def half_width(self) -> float:
        """Half the 95 % confidence interval."""
        return self.error * _student(self.visits - 1) if self.visits > 1 else math.inf

    def is_within(self, tolerance: float) -> bool:
        """Whether half the interval is at most this share of the value, or negligible."""
        return self.half_width <= max(tolerance * self.value, TOLERANCE_MS)

    @property
    def status(self) -> Status:
        """``noisy`` where the value is not to be relied on alone."""
        return "ok" if self.value > 0 and self.is_within(NOISY) else "noisy"


def visit_value(runs: Sequence[float], quantile: float) -> float:
    """What one visit says: a quantile of its runs."""
    return float(np.quantile(runs, quantile))


def estimate(visits: Sequence[float], quantile: float) -> Estimate:
    """The quantile of the visits (Harrell and Davis 1982) and its error (Maritz and Jarrett 1978).

    A smooth mean of all order statistics, those near the quantile counting most: a visit gone
    astray hardly counts, drift and bimodality widen the interval.
    """
    ordered = np.sort(np.asarray(visits, dtype=float))
    weights = _weights(len(ordered), quantile)
    value = float(weights @ ordered)
    variance = float(weights @ (ordered - value) ** 2)
    return Estimate(value, math.sqrt(variance), len(ordered))


def slope(long: Estimate, short: Estimate, copies: int) -> Estimate:
    """What each of the ``copies`` adds that ``long`` has and ``short`` has not."""
    error = math.hypot(long.error, short.error) / copies
    return Estimate((long.value - short.value) / copies, error, min(long.visits, short.visits))


@lru_cache
def _weights(count: int, quantile: float) -> np.ndarray:
    a, b = (count + 1) * quantile, (count + 1) * (1 - quantile)
    return np.diff(betainc(a, b, np.linspace(0, 1, count + 1)))


@lru_cache
def _student(freedom: int) -> float:
    return float(stdtrit(freedom, 0.975))
