"""How well sums of rows predict whole networks: pure functions on predicted and measured ms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nas.documents import Value
from nas.latency.estimator import estimate
from nas.statistics import Interval, kendall, spearman, with_interval

MOST_ERROR, LEAST_SPEARMAN = 0.03, 0.985
"""A table beyond these is refused by a search: it would rank networks no better than MACs do."""
SHARE_OF_MACS = 0.5
"""Of the error of a fit on MACs alone; above it a table earns a warning. No refusal: in a small
space of one kind of layer MACs predict within the noise, and no table can be twice as good."""


class Figures(Value):
    """Errors of predicted latencies, as shares of the measured ones (0.01 is 1 %).

    The intervals of the rank correlations are at 95 %; tables of the first days lack them.
    """

    networks: int
    mape: float
    bias: float
    max_error: float
    within_5: float
    within_10: float
    spearman: float
    kendall: float
    spearman_interval: Interval | None = None
    kendall_interval: Interval | None = None


class Point(Value):
    """One whole network: the sums of its rows, what the table predicts, and what was measured."""

    sum_ms: float
    params: int
    macs: int
    predicted_ms: float
    measured_ms: float
    held_out: bool


class Validation(Value):
    """Figures on networks that had no part in the calibration.

    ``raw``: sums of rows; ``calibrated``: what the table predicts; ``macs``: a straight line
    through MACs, fitted on the same networks as the calibration, for comparison. ``noise_floor``:
    mean difference of the networks' odd and even visits, which no prediction can beat by much.
    ``points``: all networks, those of the calibration too.
    """

    raw: Figures
    calibrated: Figures
    macs: Figures
    noise_floor: float
    least_ms: float
    most_ms: float
    points: tuple[Point, ...]


class Verdict(NamedTuple):
    """Why a table is not to be trusted, and what else is to be known; each one clause."""

    failures: tuple[str, ...]
    warnings: tuple[str, ...]


def judge(validation: Validation | None) -> Verdict:
    """Whether a search may rely on a table; names each figure that fails, and its bound."""
    if validation is None:
        return Verdict(("it was not validated on whole networks",), ())
    found, macs = validation.calibrated, validation.macs.mape
    failures, warnings = [], []
    if not found.mape <= MOST_ERROR:
        failures.append(
            f"its mean error on held-out networks is {100 * found.mape:.2f} %, "
            f"above {100 * MOST_ERROR:g} %"
        )
    if not found.spearman >= LEAST_SPEARMAN:
        failures.append(
            f"its Spearman correlation is {found.spearman:.3f}, below {LEAST_SPEARMAN:g}"
        )
    if not found.mape <= SHARE_OF_MACS * macs:
        warnings.append(
            f"its mean error, {100 * found.mape:.1f} %, is more than half of the "
            f"{100 * macs:.1f} % of a fit on MACs alone"
        )
    return Verdict(tuple(failures), tuple(warnings))


def validate(points: Sequence[Point], floor: float) -> Validation:
    """The figures of the held-out points; ``floor`` is the noise floor."""
    held = [point for point in points if point.held_out]
    fitted = [point for point in points if not point.held_out]
    truth = [point.measured_ms for point in held]
    slope, intercept = fit_line([it.macs for it in fitted], [it.measured_ms for it in fitted])
    return Validation(
        raw=figures([point.sum_ms for point in held], truth),
        calibrated=figures([point.predicted_ms for point in held], truth),
        macs=figures([slope * point.macs + intercept for point in held], truth),
        noise_floor=floor,
        least_ms=min(truth),
        most_ms=max(truth),
        points=tuple(points),
    )


def figures(predicted: Sequence[float], measured: Sequence[float]) -> Figures:
    """Compare predictions with measurements; both in the same unit."""
    truth = np.asarray(measured)
    errors = np.asarray(predicted) / truth - 1
    rho, rho_interval = with_interval(spearman, predicted, measured)
    tau, tau_interval = with_interval(kendall, predicted, measured)
    return Figures(
        networks=len(truth),
        mape=float(np.abs(errors).mean()),
        bias=float(errors.mean()),
        max_error=float(np.abs(errors).max()),
        within_5=float((np.abs(errors) <= 0.05).mean()),
        within_10=float((np.abs(errors) <= 0.10).mean()),
        spearman=rho,
        kendall=tau,
        spearman_interval=rho_interval,
        kendall_interval=tau_interval,
    )


def fit_line(x: Sequence[float], measured: Sequence[float]) -> tuple[float, float]:
    """Slope and intercept of the least squared relative error."""
    truth = np.asarray(measured)
    columns = np.stack([np.asarray(x) / truth, 1 / truth], axis=1)
    (slope, intercept), *_ = np.linalg.lstsq(columns, np.ones_like(truth), rcond=None)
    return float(slope), float(intercept)


def noise_floor(visits: Sequence[Sequence[float]], quantile: float) -> float:
    """Mean relative difference between the estimates from odd and from even visits."""
    halves = [(estimate(it[0::2], quantile), estimate(it[1::2], quantile)) for it in visits]
    return float(np.mean([abs(odd.value / even.value - 1) for odd, even in halves]))


def spread_over(values: Sequence[float], count: int) -> list[int]:
    """Indices of ``count`` values spread evenly between the least and the most, by ratio.

    Of each of ``count`` equal strata of the logarithm the value nearest its middle is taken; strata
    without a value leave theirs to the values nearest to what is missing.
    """
    logs = np.log(np.asarray(values))
    low, high = float(logs.min()), float(logs.max())
    free = set(range(len(values)))
    chosen: list[int] = []
    for place in np.linspace(low, high, count):
        best = min(free, key=lambda index: abs(float(logs[index]) - float(place)))
        free.remove(best)
        chosen.append(best)
    return chosen
