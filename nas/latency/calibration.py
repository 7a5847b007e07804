"""From the sum of a network's rows to its latency: what rows, measured one by one, cannot know.

Rows are measured with their weights in the cache. A network whose weights fit into the cache runs
as fast as its rows say; one with more fetches weights from memory in every run. On networks of 0.13
to 3.2 ms at 64 px one factor erred by 11 to 16 %, with the second term by 1.6 %; at 224 px by 3.3
and 1.8 %.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field
from scipy.optimize import nnls

from nas.documents import Value

BYTES = 4
"""Of one weight in float32."""

CACHES = (*np.geomspace(1.0, 128.0, 29).tolist(),)
"""Cache sizes to try, in MB, a quarter of an octave apart."""

TRAFFICS = (0.0, 2.0, 4.0, 8.0, 16.0)
"""Further megabytes that pass through the cache in each millisecond, to try."""

LEAST_FOR_TWO = 6
"""Networks that two coefficients are fitted to, at least."""

GAIN = 0.9
"""A further term must lower the error on left-out networks to this share to be taken."""


class Calibration(Value):
    """ms = factor * sum of rows + overhead_ms + ms_per_megabyte * (weights fetched, in MB).

    The overhead is what a run costs beyond its layers: a few microseconds, which count in networks
    below 0.1 ms. It erred by 4 % at 0.07 ms on a small space where a factor was all there was.

    Of M megabytes the share exp(-(C / W)^3) is fetched. C is ``cache_megabytes``; W is what passes
    through the cache in a run: M, and ``traffic_megabytes_per_ms`` for each ms of the rows, which
    stands for activations and for what else the machine does. So next to nothing of half the cache
    is fetched, a third of what just fills it, nearly all of twice as much. Mean error of 14 tables
    of a quiet machine, on left-out networks: 1.7 % like this, 1.8 without traffic; powers other
    than 3, ramps, a hinge and a square root in place of the exponential: 1.9 to 2.5 %.
    """

    factor: Annotated[float, Field(gt=0)]
    overhead_ms: Annotated[float, Field(ge=0)] = 0.0
    ms_per_megabyte: Annotated[float, Field(ge=0)] = 0.0
    cache_megabytes: Annotated[float, Field(gt=0)] = 1.0
    traffic_megabytes_per_ms: Annotated[float, Field(ge=0)] = 0.0
    networks: int = 0

    def latency(self, sum_ms: float, params: float) -> float:
        """The latency in ms of a network, from the sums of its rows' ms and parameters."""
        return sum(self.terms(sum_ms, params))

    def terms(self, sum_ms: float, params: float) -> tuple[float, float]:
        """What ``latency`` adds up, in ms: computing, and fetching weights."""
        computing = self.factor * sum_ms + self.overhead_ms
        if not self.ms_per_megabyte:
            return computing, 0.0
        megabytes = params * BYTES / 1e6
        passing = megabytes + self.traffic_megabytes_per_ms * sum_ms
        fetched = _fetched(np.array(megabytes), np.array(passing), self.cache_megabytes)
        return computing, self.ms_per_megabyte * float(fetched)


def fit_calibration(
    sums: Sequence[float], params: Sequence[float], measured: Sequence[float]
) -> Calibration:
    """The calibration of the least squared relative error.

    Overhead and fetching are taken only if they predict left-out networks clearly better.
    """
    data = np.stack([np.asarray(sums), np.asarray(params, dtype=float), np.asarray(measured)], 1)
    fits = (_fit_factor, _fit_with_overhead, _fit_with_fetching, _fit_with_both)
    chosen, least = _fit_factor, np.inf
    for fit in fits[: len(fits) if len(data) >= LEAST_FOR_TWO else 1]:
        error = _left_out_error(fit, data)
        if error <= GAIN * least:
            chosen, least = fit, error
    return chosen(data)


def reanchor(
    calibration: Calibration,
    sums: Sequence[float],
    params: Sequence[float],
    measured: Sequence[float],
) -> Calibration:
    """The calibration brought up to date by networks that were measured again.

    Everything is multiplied by one factor. Or, if that predicts left-out networks clearly better,
    the rows by one and the fetching of weights by another: what else a machine does takes its share
    of the caches, which hits large networks only.
    """
    terms = [calibration.terms(*pair) for pair in zip(sums, params, strict=True)]
    data = np.column_stack([np.asarray(terms), np.asarray(measured)])
    fits: tuple[Callable[[np.ndarray], np.ndarray], ...] = (_one_ratio, _two_ratios)
    if len(data) < LEAST_FOR_TWO or not data[:, 1].any():
        fits = fits[:1]
    errors = [_left_out(fit, data) for fit in fits]
    chosen = fits[1] if len(fits) > 1 and errors[1] <= GAIN * errors[0] else fits[0]
    rows, fetching = chosen(data)
    return calibration.model_copy(
        update={
            "factor": float(rows) * calibration.factor,
            "overhead_ms": float(rows) * calibration.overhead_ms,
            "ms_per_megabyte": float(fetching) * calibration.ms_per_megabyte,
        }
    )


def _one_ratio(data: np.ndarray) -> np.ndarray:
    return np.full(2, fit_factor(data[:, 0] + data[:, 1], data[:, 2]))


def _two_ratios(data: np.ndarray) -> np.ndarray:
    ratios: np.ndarray = nnls(data[:, :2] / data[:, 2:], np.ones(len(data)))[0]
    return ratios if ratios[0] > 0 else _one_ratio(data)


def _left_out(fit: Callable[[np.ndarray], np.ndarray], data: np.ndarray) -> float:
    """Mean relative error on each network by ratios that are fitted to all the others."""
    errors = [
        abs(data[index, :2] @ fit(np.delete(data, index, axis=0)) / data[index, 2] - 1)
        for index in range(len(data))
    ]
    return float(np.mean(errors))


def fit_factor(predicted: np.ndarray, measured: np.ndarray) -> float:
    """What predictions are to be multiplied by, for the least squared relative error."""
    ratio = predicted / measured
    return float(ratio.sum() / (ratio**2).sum())


def _fit_factor(data: np.ndarray) -> Calibration:
    return Calibration(factor=fit_factor(data[:, 0], data[:, 2]), networks=len(data))


def _fit_with_overhead(data: np.ndarray) -> Calibration:
    columns = np.stack([data[:, 0], np.ones(len(data))], 1) / data[:, 2:]
    (factor, overhead), _ = nnls(columns, np.ones(len(data)))
    if factor <= 0:
        return _fit_factor(data)
    return Calibration(factor=float(factor), overhead_ms=float(overhead), networks=len(data))


def _fit_with_fetching(data: np.ndarray) -> Calibration:
    return _fit_fetching(data, np.zeros(len(data)))


def _fit_with_both(data: np.ndarray) -> Calibration:
    return _fit_fetching(data, np.ones(len(data)))


def _fit_fetching(data: np.ndarray, overheads: np.ndarray) -> Calibration:
    sums, megabytes, measured = data[:, 0], data[:, 1] * BYTES / 1e6, data[:, 2]
    best: tuple[float, Calibration] | None = None
    for cache, traffic in itertools.product(CACHES, TRAFFICS):
        if cache > megabytes.max():  # hardly anything fetched: its price could not be told
            break
        fetched = _fetched(megabytes, megabytes + traffic * sums, cache)
        columns = np.stack([sums, overheads, fetched], 1) / measured[:, None]
        (factor, overhead, fetching), residual = nnls(columns, np.ones(len(data)))
        if factor > 0 and (best is None or residual < best[0]):
            found = Calibration(
                factor=float(factor),
                overhead_ms=float(overhead),
                ms_per_megabyte=float(fetching),
                cache_megabytes=cache,
                traffic_megabytes_per_ms=traffic,
                networks=len(data),
            )
            best = (residual, found)
    return best[1] if best is not None else _fit_factor(data)


def _fetched(megabytes: np.ndarray, passing: np.ndarray, cache: float) -> np.ndarray:
    """Megabytes of weights fetched from memory in each run, of those passing through the cache."""
    found: np.ndarray = megabytes * np.exp(-((cache / np.maximum(passing, 1e-9)) ** 3))
    return found


def _left_out_error(fit: Callable[[np.ndarray], Calibration], data: np.ndarray) -> float:
    """Mean relative error on each network by a fit to all the others."""
    errors = []
    for index in range(len(data)):
        sum_ms, params, measured = data[index]
        found = fit(np.delete(data, index, axis=0))
        errors.append(abs(found.latency(sum_ms, params) / measured - 1))
    return float(np.mean(errors)) if errors else 0.0
