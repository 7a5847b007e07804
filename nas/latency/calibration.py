"""From sums of rows to latencies of networks: the calibration, and how well it predicts.

Rows are measured with their weights in the cache. A network whose weights fit into the cache runs
as fast as its rows say; a larger one fetches weights from memory in every run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field
from scipy.optimize import nnls

from nas.documents import Value
from nas.statistics import Interval, kendall, spearman, with_interval

BYTES = 4
"""Of one weight in float32."""

CACHES = (*np.geomspace(1.0, 128.0, 29).tolist(),)
"""Cache sizes to try, in MB, a quarter of an octave apart."""

TRAFFICS = (0.0, 2.0, 4.0, 8.0, 16.0)
"""Further megabytes that pass through the cache in each millisecond, to try."""

LEAST_FOR_TWO = 6
"""The fewest networks that two coefficients are fitted to."""

GAIN = 0.9
"""A further term must lower the error on left-out networks to this share to be taken."""

MOST_ERROR, LEAST_SPEARMAN = 0.03, 0.985
"""A search refuses a table beyond these: it would rank networks no better than MACs do."""

SHARE_OF_MACS = 0.5
"""Of the error of a fit on MACs alone; above it a table earns a warning. No refusal: in a space of
one kind of layer MACs predict within the noise."""


class RowSums(NamedTuple):
    """The sums of a network's rows; ``ms`` is not calibrated."""

    ms: float
    params: int
    macs: int


class Calibration(Value):
    """ms = factor * sum of rows + overhead_ms + ms_per_megabyte * (weights fetched, in MB).

    The overhead is the cost of a run beyond its layers. Of M megabytes the share exp(-(C / W)^3) is
    fetched. C is ``cache_megabytes``; W is all data that pass through the cache in a run: M, and
    ``traffic_megabytes_per_ms`` for each ms of the rows, for activations and for other work of the
    machine. Other forms and their errors: benchmarks/README.md.
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
        """The two summands of ``latency``, in ms: computing, and fetching weights."""
        computing = self.factor * sum_ms + self.overhead_ms
        if not self.ms_per_megabyte:
            return computing, 0.0
        megabytes = params * BYTES / 1e6
        passing = megabytes + self.traffic_megabytes_per_ms * sum_ms
        fetched = _fetched(np.array(megabytes), np.array(passing), self.cache_megabytes)
        return computing, self.ms_per_megabyte * float(fetched)


class Figures(Value):
    """Errors of predicted latencies, as shares of the measured ones (0.01 is 1 %)."""

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


class MeasuredNetwork(Value):
    """One whole network: the sums of its rows, the table's prediction, and its measured latency."""

    sum_ms: float
    params: int
    macs: int
    predicted_ms: float
    measured_ms: float
    held_out: bool


class Validation(Value):
    """Figures on networks that had no part in the calibration.

    ``raw``: sums of rows; ``calibrated``: the table's predictions; ``macs``: a straight line
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
    points: tuple[MeasuredNetwork, ...]


class TableVerdict(NamedTuple):
    """Why a table is not to be trusted, and further warnings; each is one clause."""

    failures: tuple[str, ...]
    warnings: tuple[str, ...]


def fit_calibration(sums: Sequence[RowSums], measured: Sequence[float]) -> Calibration:
    """The calibration of the least squared relative error on networks measured in ms."""
    fetching = [partial(_fit_fetching, overhead=overhead) for overhead in (0.0, 1.0)]
    return _best_fit([_fit_factor, _fit_with_overhead, *fetching], _table_of(sums, measured))


def reanchor(
    calibration: Calibration, sums: Sequence[RowSums], measured: Sequence[float]
) -> Calibration:
    """The calibration brought up to date by networks that were measured again, in ms.

    One factor multiplies everything; or one the rows and another the fetching of weights: other
    work on a machine takes its share of the caches, which slows large networks only.
    """
    fits = [partial(_rescaled, calibration, separately=False)]
    if any(calibration.terms(size.ms, size.params)[1] for size in sums):
        fits.append(partial(_rescaled, calibration, separately=True))
    return _best_fit(fits, _table_of(sums, measured))


def fit_factor(predicted: np.ndarray, measured: np.ndarray) -> float:
    """The factor by which predictions (N,) have the least squared relative error."""
    ratio = predicted / measured
    return float(ratio.sum() / (ratio**2).sum())


def judge(validation: Validation | None) -> TableVerdict:
    """Whether a search may rely on a table; names each figure that fails, and its bound."""
    if validation is None:
        return TableVerdict(("it was not validated on whole networks",), ())
    found, macs = validation.calibrated, validation.macs.mape
    failures, warnings = [], []
    if not found.mape <= MOST_ERROR:
        error = f"its mean error on held-out networks is {100 * found.mape:.2f} %"
        failures.append(f"{error}, above {100 * MOST_ERROR:g} %")
    if not found.spearman >= LEAST_SPEARMAN:
        rank = f"its Spearman correlation is {found.spearman:.3f}"
        failures.append(f"{rank}, below {LEAST_SPEARMAN:g}")
    if not found.mape <= SHARE_OF_MACS * macs:
        error = f"its mean error, {100 * found.mape:.1f} %, is more than half of the"
        warnings.append(f"{error} {100 * macs:.1f} % of a fit on MACs alone")
    return TableVerdict(tuple(failures), tuple(warnings))


def validate(points: Sequence[MeasuredNetwork], noise_floor: float) -> Validation:
    """The figures of the held-out points."""
    held = [point for point in points if point.held_out]
    fitted = [point for point in points if not point.held_out]
    truth = [point.measured_ms for point in held]
    macs, ms = [point.macs for point in fitted], [point.measured_ms for point in fitted]
    slope, intercept = fit_line(macs, ms)
    return Validation(
        raw=figures([point.sum_ms for point in held], truth),
        calibrated=figures([point.predicted_ms for point in held], truth),
        macs=figures([slope * point.macs + intercept for point in held], truth),
        noise_floor=noise_floor,
        least_ms=min(truth),
        most_ms=max(truth),
        points=tuple(points),
    )


def figures(predicted: Sequence[float], measured: Sequence[float]) -> Figures:
    """Compare predictions with measurements; both in the same unit."""
    errors = np.asarray(predicted) / np.asarray(measured) - 1
    sizes = np.abs(errors)
    rho, rho_interval = with_interval(spearman, predicted, measured)
    tau, tau_interval = with_interval(kendall, predicted, measured)
    return Figures(
        networks=len(errors),
        mape=float(sizes.mean()),
        bias=float(errors.mean()),
        max_error=float(sizes.max()),
        within_5=float((sizes <= 0.05).mean()),
        within_10=float((sizes <= 0.10).mean()),
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


# The fits below take a table (N, 3) of sums of ms, sums of parameters, and measured ms.

_Fit = Callable[[np.ndarray], Calibration]


def _table_of(sums: Sequence[RowSums], measured: Sequence[float]) -> np.ndarray:
    rows = [(size.ms, size.params, ms) for size, ms in zip(sums, measured, strict=True)]
    return np.array(rows, dtype=float)


def _best_fit(fits: Sequence[_Fit], data: np.ndarray) -> Calibration:
    """The first fit, or a later one that predicts left-out networks clearly better."""
    chosen, least = fits[0], np.inf
    for fit in fits if len(data) >= LEAST_FOR_TWO else ():
        errors = [
            abs(fit(np.delete(data, index, axis=0)).latency(sum_ms, params) / measured - 1)
            for index, (sum_ms, params, measured) in enumerate(data)
        ]
        if (error := float(np.mean(errors))) <= GAIN * least:
            chosen, least = fit, error
    return chosen(data)


def _fit_factor(data: np.ndarray) -> Calibration:
    return Calibration(factor=fit_factor(data[:, 0], data[:, 2]), networks=len(data))


def _fit_with_overhead(data: np.ndarray) -> Calibration:
    columns = np.stack([data[:, 0], np.ones(len(data))], 1) / data[:, 2:]
    (factor, overhead), _ = nnls(columns, np.ones(len(data)))
    if factor <= 0:
        return _fit_factor(data)
    return Calibration(factor=float(factor), overhead_ms=float(overhead), networks=len(data))


def _fit_fetching(data: np.ndarray, overhead: float) -> Calibration:
    """A fit with fetching, and with an overhead if ``overhead`` is 1, not 0."""
    sums, megabytes, measured = data[:, 0], data[:, 1] * BYTES / 1e6, data[:, 2]
    overheads = np.full(len(data), overhead)
    best, least = _fit_factor(data), np.inf
    for cache, traffic in itertools.product(CACHES, TRAFFICS):
        if cache > megabytes.max():  # hardly anything is fetched, so its price cannot be told
            break
        fetched = _fetched(megabytes, megabytes + traffic * sums, cache)
        columns = np.stack([sums, overheads, fetched], 1) / measured[:, None]
        (factor, overhead_ms, fetching), residual = nnls(columns, np.ones(len(data)))
        if factor > 0 and residual < least:
            least = residual
            best = Calibration(
                factor=float(factor),
                overhead_ms=float(overhead_ms),
                ms_per_megabyte=float(fetching),
                cache_megabytes=cache,
                traffic_megabytes_per_ms=traffic,
                networks=len(data),
            )
    return best


def _rescaled(calibration: Calibration, data: np.ndarray, *, separately: bool) -> Calibration:
    """The calibration times one factor, or with one for the rows and one for the fetching."""
    terms = np.array([calibration.terms(sum_ms, params) for sum_ms, params, _ in data])
    rows = fetching = 0.0
    if separately:
        rows, fetching = map(float, nnls(terms / data[:, 2:], np.ones(len(data)))[0])
    if rows <= 0:
        rows = fetching = fit_factor(terms[:, 0] + terms[:, 1], data[:, 2])
    update = {
        "factor": rows * calibration.factor,
        "overhead_ms": rows * calibration.overhead_ms,
        "ms_per_megabyte": fetching * calibration.ms_per_megabyte,
    }
    return calibration.model_copy(update=update)


def _fetched(megabytes: np.ndarray, passing: np.ndarray, cache: float) -> np.ndarray:
    """Megabytes of weights fetched from memory in each run, of those passing through the cache."""
    found: np.ndarray = megabytes * np.exp(-((cache / np.maximum(passing, 1e-9)) ** 3))
    return found
