"""Rank correlations with intervals, McNemar's test, and evenly spread samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 2000
"""Enough for the ends of a 95 % interval to repeat to the third digit."""

Interval = tuple[float, float]
Correlation = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def spearman(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spearman's rho of points that count ``weights`` (S, N) times; ties share a mean rank."""
    total = weights.sum(1, keepdims=True)
    ranks = [weights @ (1 + _signs(values)) / 2 for values in (x, y)]  # (S, N)
    a, b = (rank - (weights * rank).sum(1, keepdims=True) / total for rank in ranks)
    return _ratio((weights * a * b).sum(1), (weights * a**2).sum(1), (weights * b**2).sum(1))


def kendall(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of points that count ``weights`` (S, N) times."""
    a, b = _signs(x), _signs(y)
    sums = [((weights @ pairs) * weights).sum(1) for pairs in (a * b, a**2, b**2)]
    return _ratio(*sums)


def with_interval(
    correlation: Correlation, x: Sequence[float], y: Sequence[float]
) -> tuple[float, Interval]:
    """The correlation and its 95 % interval (percentile bootstrap over the points, seeded).

    The interval means little for few points of correlation 1, as every resample has 1 too.
    """
    a, b = (_finite(side, values) for side, values in (("first", x), ("second", y)))
    count = len(a)
    rng = np.random.default_rng(0)
    resampled = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    resampled = resampled[np.count_nonzero(resampled, axis=1) > 1]  # one point has no ranks
    value = correlation(a, b, np.ones((1, count)))[0]
    low, high = np.nanquantile(correlation(a, b, resampled.astype(float)), [0.025, 0.975])
    return float(value), (float(low), float(high))


def spread_over(values: Sequence[float], count: int) -> list[int]:
    """Indices of ``count`` values, those nearest to places spread evenly over the logarithms."""
    logs = np.log(_finite("only", values))
    free = list(range(len(values)))
    chosen = []
    for place in np.linspace(logs.min(), logs.max(), count):
        nearest = min(free, key=lambda index: abs(float(logs[index]) - float(place)))
        free.remove(nearest)
        chosen.append(nearest)
    return chosen


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """How often chance alone makes two networks differ like this on the same images, in [0, 1].

    The exact test of McNemar (1947, Psychometrika 12). ``first`` and ``second`` (N,) are bool:
    which images each network gets right.
    """
    from scipy.stats import binomtest

    wins, losses = int((first & ~second).sum()), int((second & ~first).sum())
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def _finite(side: str, values: Sequence[float]) -> np.ndarray:
    found = np.asarray(values, dtype=float)
    if not np.isfinite(found).all():
        raise ValueError(f"the {side} series holds a number that is not finite")
    return found


def _signs(values: np.ndarray) -> np.ndarray:
    """(N, N): of j and i, 1 where value i is above value j."""
    return np.asarray(np.sign(values[None, :] - values[:, None]))


def _ratio(product: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    scale = np.sqrt(x * y)
    return np.asarray(np.divide(product, scale, out=np.zeros_like(scale), where=scale > 0))
