"""From sums of rows to latencies of networks: the calibration, and how well it predicts.

A layer is timed warm, with its weights in the caches, and cold. A cold network fetches the weights
of all its layers; a warm one those that the caches have no room for, as it runs over and over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from nas.documents import Value
from nas.latency.estimator import STATES, State
from nas.statistics import Interval, kendall, spearman, with_interval

BYTES = 4
"""Of one weight in float32."""

LARGEST_CACHE = 256.0
"""In MB: a warm network fetches nothing, unless a calibration says otherwise."""

MOST_ERROR = {"warm": 0.04, "cold": 0.035}
"""A search refuses a table beyond these, unless the noise of the measurement explains them."""

NOISE_SHARE = 1.5
"""Of the noise floor, which the mean error of a perfect table may reach by chance."""

MOST_NOISE = 0.04
"""Noise of single networks above which no error of a table can be told."""

LEAST_SPEARMAN = 0.985
"""Or less, where noise alone mixes up networks that lie close together."""

PROMISED_ERROR = 0.02
"""The mean error that a table is meant to have; one that has it may mix up networks so close."""

NOISY_DRAWS = 400
"""Measurements of which the rank correlation that noise leaves is taken."""

MEAN_DEVIATION = 0.8
"""The mean size of a normal deviation, in standard deviations."""

COMPUTING = "factor", "overhead_ms", "cold_factor", "cold_overhead_ms"
FETCHING = "fetching", "cold_fetching"
"""The numbers of a calibration that scale with the time of computing, and of fetching."""

SHARE_OF_MACS = 0.5
"""Of the error of a fit on MACs alone; above it a table earns a warning. No refusal: in a space of
one kind of layer MACs predict within the noise."""


class RowSums(NamedTuple):
    """The sums of a network's rows, in ms, not calibrated; ``params`` are counted."""

    warm: float
    cold: float
    params: int
    macs: int

    @property
    def megabytes(self) -> float:
        """The size of the weights in float32."""
        return self.params * BYTES / 1e6

    def __sub__(self, other: RowSums) -> RowSums:
        """The sums without the rows that ``other`` sums up."""
        return RowSums(
            self.warm - other.warm,
            self.cold - other.cold,
            self.params - other.params,
            self.macs - other.macs,
        )

    def plus(self, other: RowSums) -> RowSums:
        """The sums with the rows of ``other``; ``+`` of tuples would append."""
        return RowSums(
            self.warm + other.warm,
            self.cold + other.cold,
            self.params + other.params,
            self.macs + other.macs,
        )


class Machine(NamedTuple):
    """What a machine is like, as multiples of what it was in a table's hour.

    ``compute``: the time of computing. ``fetching``: the time of fetching weights from memory.
    ``cache``: the room that caches have for weights, of which other guests of a host take a part.
    """

    compute: float = 1.0
    fetching: float = 1.0
    cache: float = 1.0


class Calibration(Value):
    """How sums of rows become latencies of networks.

        cold = cold_factor * warm rows + cold_fetching * (cold rows - warm rows) + cold_overhead_ms
        warm = factor * warm rows + share * fetching * (cold rows - warm rows) + overhead_ms

    A cold network is the plain sum of its cold rows, unless freer forms predict networks that had
    no part in the fit clearly better. A warm network fetches the share exp(-(C / W)^p) of its
    weights in each run. C is ``cache_megabytes``; W is all that passes through the caches in a run:
    the weights, and ``traffic_megabytes_per_ms`` for activations and other work of the machine; p
    is ``sharpness``, which differs from one cache to another: 2 or 3. A factor of fetching is below
    1 where the machine fetches while it computes. Overheads are the cost of a run beyond its
    layers. Units are multiples of tables that an earlier version of ``check-lut`` shifted. Other
    forms and their errors: benchmarks/README.md.
    """

    factor: Annotated[float, Field(gt=0)] = 1.0
    fetching: Annotated[float, Field(ge=0)] = 1.0
    cache_megabytes: Annotated[float, Field(gt=0)] = LARGEST_CACHE
    traffic_megabytes_per_ms: Annotated[float, Field(ge=0)] = 0.0
    sharpness: Annotated[float, Field(gt=0)] = 2.0
    overhead_ms: Annotated[float, Field(ge=0)] = 0.0
    cold_factor: Annotated[float, Field(gt=0)] = 1.0
    cold_fetching: Annotated[float, Field(ge=0)] = 1.0
    cold_overhead_ms: Annotated[float, Field(ge=0)] = 0.0
    warm_unit: Annotated[float, Field(gt=0)] = 1.0
    cold_unit: Annotated[float, Field(gt=0)] = 1.0
    networks: int = 0

    def latency(self, sums: RowSums, state: State = "warm") -> float:
        """The latency of a network in ms, from the sums of its rows."""
        excess = sums.cold - sums.warm
        if state == "cold":
            fetched = self.cold_fetching * excess
            return self.cold_unit * (self.cold_factor * sums.warm + fetched + self.cold_overhead_ms)
        passing = sums.megabytes + self.traffic_megabytes_per_ms * sums.warm
        share = float(share_fetched(passing, self.cache_megabytes, self.sharpness))
        fetched = self.fetching * share * excess
        return self.warm_unit * (self.factor * sums.warm + fetched + self.overhead_ms)

    def on(self, machine: Machine) -> Calibration:
        """The calibration where the machine is another than in the table's hour."""
        return self.model_copy(
            update={
                **{name: machine.compute * getattr(self, name) for name in COMPUTING},
                **{name: machine.fetching * getattr(self, name) for name in FETCHING},
                "cache_megabytes": machine.cache * self.cache_megabytes,
            }
        )

    def shares(self, rows: Sequence[RowSums], state: State = "warm") -> list[float]:
        """The part of each of a network's rows in its latency, in ms; they add up to it.

        A part is in proportion to what the network would save without the row.
        """
        total = _total(rows)
        scale = self._scale(rows, state)
        return [scale * self._added(row, total - row, state) for row in rows]

    def prices(
        self,
        rows: Sequence[RowSums],
        place: int,
        candidates: Sequence[RowSums | None],
        state: State = "warm",
    ) -> list[float]:
        """The ms of each candidate for the place of a network's row, on the scale of ``shares``.

        What is there already costs its share, and None, no layer, costs nothing.
        """
        rest, scale = _total(rows) - rows[place], self._scale(rows, state)
        return [scale * self._added(row, rest, state) if row else 0.0 for row in candidates]

    def _added(self, row: RowSums, rest: RowSums, state: State) -> float:
        """How much longer a network takes with a row than without it."""
        return self.latency(rest.plus(row), state) - self.latency(rest, state)

    def _scale(self, rows: Sequence[RowSums], state: State) -> float:
        """The factor by which what each row adds to the others adds up to the latency.

        It is not 1 where rows share caches and an overhead.
        """
        total = _total(rows)
        return self.latency(total, state) / sum(
            self._added(row, total - row, state) for row in rows
        )


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


class StateLatency(Value):
    """A network in one state, in ms: the sum of its rows, the prediction, the measurement.

    ``noise`` is the relative standard error of the measurement.
    """

    sum_ms: float
    predicted_ms: float
    measured_ms: float
    noise: float


class MeasuredNetwork(Value):
    """One whole network, warm and cold; those held out had no part in the calibration."""

    params: int
    macs: int
    held_out: bool
    warm: StateLatency
    cold: StateLatency

    def of(self, state: State) -> StateLatency:
        return self.warm if state == "warm" else self.cold


class StateFigures(Value):
    """Figures of one state on networks that had no part in the calibration.

    ``raw``: sums of rows; ``calibrated``: the table's predictions; ``macs``: a straight line
    through MACs, fitted on the same networks as the calibration, for comparison. ``noise_floor``:
    the mean error that a perfect table would show, as the networks were measured.
    ``reference_deviation``: what the reference network, measured like any other, differs from
    itself. ``table_error``: the mean error less the noise. ``noise_spearman``: the rank correlation
    that noise would leave a perfect table in 95 % of all measurements; files of before have 1.
    """

    raw: Figures
    calibrated: Figures
    macs: Figures
    noise_floor: float
    reference_deviation: float
    table_error: float
    least_ms: float
    most_ms: float
    noise_spearman: float = 1.0


class Validation(Value):
    """How well a table predicts whole networks in both states; ``points``: all of them."""

    warm: StateFigures
    cold: StateFigures
    points: tuple[MeasuredNetwork, ...]

    def of(self, state: State) -> StateFigures:
        return self.warm if state == "warm" else self.cold


class TableVerdict(NamedTuple):
    """Why a table is not to be trusted, and further warnings; each is one clause."""

    failures: tuple[str, ...]
    warnings: tuple[str, ...]


def fit_factor(predicted: np.ndarray, measured: np.ndarray) -> float:
    """The factor by which predictions (N,) have the least squared relative error."""
    ratio = predicted / measured
    return float(ratio.sum() / (ratio**2).sum())


def judge(validation: Validation | None, states: Sequence[State] = STATES) -> TableVerdict:
    """Whether a search may rely on a table's latencies of some states; names what fails, why."""
    if validation is None:
        return TableVerdict(("it was not validated on whole networks",), ())
    failures, warnings = [], []
    for state in states:
        figures = validation.of(state)
        found, noise = figures.calibrated, figures.noise_floor
        allowed = max(MOST_ERROR[state], NOISE_SHARE * min(noise, MOST_NOISE))
        is_within = found.mape <= allowed
        if not is_within and noise > MOST_NOISE:
            failures.append(
                f"this machine's noise is {_percent(noise)} ({state}), no table can show less: "
                "run it longer (--minutes) or elsewhere"
            )
        elif not is_within:
            error = f"its mean error on held-out networks is {_percent(found.mape, 2)} ({state})"
            failures.append(f"{error}, above {_percent(allowed)}; noise explains {_percent(noise)}")
        least = min(LEAST_SPEARMAN, figures.noise_spearman)
        if not (found.spearman >= least or found.mape <= PROMISED_ERROR):
            rank = f"its Spearman correlation is {found.spearman:.3f} ({state})"
            failures.append(f"{rank}, below {least:.3g}")
        if not found.mape <= SHARE_OF_MACS * figures.macs.mape:
            error = f"its mean error, {_percent(found.mape)} ({state}), is more than half of the"
            warnings.append(
                f"{error} {_percent(figures.macs.mape)} of a fit on MACs alone; noise explains "
                f"{_percent(noise)}"
            )
    return TableVerdict(tuple(failures), tuple(warnings))


def validate(
    points: Sequence[MeasuredNetwork], reference_deviation: tuple[float, float]
) -> Validation:
    """The figures of the held-out points, warm and cold."""
    held = [point for point in points if point.held_out]
    fitted = [point for point in points if not point.held_out]
    found = {}
    for state, deviation in zip(STATES, reference_deviation, strict=True):
        measured = [point.of(state) for point in held]
        truth = [it.measured_ms for it in measured]
        slope, intercept = fit_line(
            [point.macs for point in fitted], [point.of(state).measured_ms for point in fitted]
        )
        calibrated = figures([it.predicted_ms for it in measured], truth)
        floor = MEAN_DEVIATION * float(np.mean([it.noise for it in measured]))
        found[state] = StateFigures(
            raw=figures([it.sum_ms for it in measured], truth),
            calibrated=calibrated,
            macs=figures([slope * point.macs + intercept for point in held], truth),
            noise_floor=floor,
            reference_deviation=deviation,
            table_error=float(np.sqrt(max(calibrated.mape**2 - floor**2, 0.0))),
            noise_spearman=noisy_spearman(
                [it.predicted_ms for it in measured], [it.noise for it in measured]
            ),
            least_ms=min(truth),
            most_ms=max(truth),
        )
    return Validation(warm=found["warm"], cold=found["cold"], points=tuple(points))


def noisy_spearman(truth: Sequence[float], noise: Sequence[float]) -> float:
    """The rank correlation that a perfect table exceeds in 95 % of all measurements of networks.

    ``noise`` is the relative standard error of each measurement, of which ``truth`` is the mean.
    """
    rng, exact = np.random.default_rng(0), np.asarray(truth)
    draws = exact * (1 + rng.standard_normal((NOISY_DRAWS, len(exact))) * np.asarray(noise))
    found = [spearman(exact, drawn, np.ones((1, len(exact))))[0] for drawn in draws]
    return float(np.quantile(found, 0.05))


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


def share_fetched(passing: float | np.ndarray, cache: float, sharpness: float) -> np.ndarray:
    """The share of a warm network's weights that is fetched from memory in each run.

    ``passing``: megabytes that pass through the caches in a run.
    """
    found: np.ndarray = np.exp(-((cache / np.maximum(passing, 1e-9)) ** sharpness))
    return found


def _total(rows: Iterable[RowSums]) -> RowSums:
    return reduce(RowSums.plus, rows, RowSums(0.0, 0.0, 0, 0))


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"
