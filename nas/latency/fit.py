"""The calibration that suits measured networks, in the plainest form that predicts others well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import numpy as np
from scipy.optimize import nnls

from nas.latency.calibration import BYTES, LARGEST_CACHE, Calibration, RowSums, share_fetched
from nas.latency.estimator import State

CACHES = (*np.geomspace(0.5, LARGEST_CACHE, 55).tolist(),)
"""Cache sizes to try, in MB, a sixth of an octave apart."""

TRAFFICS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Further megabytes that pass through the caches in each millisecond, to try."""

GAIN = 0.97
"""A freer form must lower the error on left-out networks to this share to be taken."""

NEGLIGIBLE = 1e-4
"""Of a latency: a smaller part has no coefficient, which would be huge, or no number at all."""

LEAST_FOR_FREE = 6
"""The fewest networks that a freer form is fitted to."""

MOST_FETCHING = 1.5
"""Of what cold rows take above warm ones. A larger factor stands beside a share near zero: it tells
nothing of the networks that were measured, and too much of a machine whose caches have less room.
"""


def fit_calibration(
    sums: Sequence[RowSums], warm: Sequence[float], cold: Sequence[float]
) -> Calibration:
    """The calibration of the least squared relative error on networks measured in ms."""
    rows = np.array(sums, dtype=float)
    found = _best_fit(WARM_FORMS, "warm", np.column_stack([rows, warm]))
    found |= _best_fit(COLD_FORMS, "cold", np.column_stack([rows, cold]))
    return Calibration.model_validate({**found, "networks": len(sums)})


# The fits below take a table (N, 5): the four fields of RowSums, and measured ms.

_Fit = Callable[[np.ndarray], dict[str, float]]
"""The fields of a calibration that suit a table."""


def _best_fit(forms: Sequence[_Fit], state: State, data: np.ndarray) -> dict[str, float]:
    """The first form, or a later and freer one that predicts left-out networks clearly better."""
    chosen, least = forms[0], np.inf
    for form in forms if len(data) >= LEAST_FOR_FREE else ():
        errors = []
        for index, row in enumerate(data):
            fitted = Calibration.model_validate(form(np.delete(data, index, axis=0)))
            errors.append(fitted.latency(_sums(row), state) / row[4] - 1)
        if (error := float(np.abs(errors).mean())) <= GAIN * least:
            chosen, least = form, error
    return chosen(data)


def _fit_warm(
    data: np.ndarray,
    *,
    is_free: bool = True,
    traffics: Sequence[float] = TRAFFICS,
    sharpness: float = 2.0,
) -> dict[str, float]:
    """``is_free``: fetching has a factor of its own, and there is an overhead."""
    warm, excess, measured = data[:, 0], data[:, 1] - data[:, 0], data[:, 4]
    best, least = dict[str, float](), np.inf
    for traffic, cache in product(traffics, CACHES):
        passing = data[:, 2] * BYTES / 1e6 + traffic * warm
        fetched = share_fetched(passing, cache, sharpness) * excess
        columns = [warm, fetched, np.ones(len(data))] if is_free else [warm + fetched]
        found, residual = _solve(columns, measured)
        if found[0] > 0 and residual < least:
            least = residual
            best = {
                "factor": found[0],
                "fetching": found[1] if is_free else found[0],
                "cache_megabytes": cache,
                "sharpness": sharpness,
                "traffic_megabytes_per_ms": traffic,
                "overhead_ms": found[2] if is_free else 0.0,
            }
    return best


def _fit_cold(data: np.ndarray, *, is_free: bool = True) -> dict[str, float]:
    """``is_free``: fetching has a factor of its own."""
    warm, excess = data[:, 0], data[:, 1] - data[:, 0]
    parts = [warm, excess] if is_free else [warm + excess]
    (factor, *fetching, overhead), _ = _solve([*parts, np.ones(len(data))], data[:, 4])
    if factor <= 0:
        return {}
    return {
        "cold_factor": factor,
        "cold_fetching": fetching[0] if is_free else factor,
        "cold_overhead_ms": overhead,
    }


def _solve(columns: Sequence[np.ndarray], measured: np.ndarray) -> tuple[list[float], float]:
    """Coefficients of the least squared relative error, and its root.

    None is below zero, and of three the second, of fetching, is within its bound.
    """
    scaled, wanted = np.stack(columns, 1) / measured[:, None], np.ones(len(measured))
    counts = np.sqrt((scaled**2).mean(0)) > NEGLIGIBLE
    found = np.zeros(len(columns))
    found[counts], residual = nnls(scaled[:, counts], wanted)
    if len(columns) == 3 and found[1] > MOST_FETCHING:  # the best within the bound lies on it
        found[1], counts[1] = MOST_FETCHING, False
        rest = wanted - MOST_FETCHING * scaled[:, 1]
        found[counts], residual = nnls(scaled[:, counts], rest)
    return found.tolist(), float(residual)


WARM_FORMS: tuple[_Fit, ...] = (
    partial(_fit_warm, is_free=False, traffics=(0.0,)),
    partial(_fit_warm, traffics=(0.0,)),
    partial(_fit_warm, sharpness=2.0),
    partial(_fit_warm, sharpness=3.0),
)
COLD_FORMS: tuple[_Fit, ...] = (
    lambda data: {},
    partial(_fit_cold, is_free=False),
    _fit_cold,
)


def _sums(row: np.ndarray) -> RowSums:
    warm, cold, params, macs = row[:4].tolist()
    return RowSums(warm, cold, int(params), int(macs))
