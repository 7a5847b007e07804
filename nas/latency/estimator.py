"""From visits to latencies: the speed of the machine is estimated from the visits, and removed.

A visit runs a graph a few times; visits to all graphs follow one another in random order. So

    log time = graph + speed(t) + noise

and what the visits before and after a visit have in common is the machine's state, not their
graphs': a busy neighbour on the host, a clock rate, a cache that others fill. ``estimate`` takes
the two by turns: each graph is the robust centre of its visits less speed, and the speed at a visit
is predicted by its neighbours' residuals at three distances, each with the weight that it has
earned (randomised interleaved trials: Abedi and Brecht, ICPE 2017; duet measurements:
arXiv 2001.05811). On a machine without states nothing is predicted, and nothing removed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field
from scipy.special import stdtrit

State = Literal["warm", "cold"]
STATES: tuple[State, ...] = ("warm", "cold")
Status = Literal["ok", "noisy"]

REACHES = (1.0, 4.0, 16.0)
"""Visits over which the weight of a neighbour falls to a third: states last from 0.1 to 10 s."""

ROUNDS = 8
OUTLYING = 2.5
"""Standard deviations at which residuals are cut off: pre-empted runs count no more than these."""

PRIOR_VISITS = 4
"""The weight of all graphs' noise in the estimate of one graph's, which has few visits."""

RESAMPLES = 200

TOLERANCE_MS = 0.0005
"""No graph needs to be known better than this."""

NOISY = 0.15
"""Half an interval above this share of the estimate makes a row ``noisy``."""

LEAST_FOR_SPEED = 24
"""Visits from which the weights of neighbours can be told."""


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Visit(NamedTuple):
    """A visit to a graph: the runs once warm, and the run after the caches were then read over.

    Latencies are ms; ``runs`` counts all runs, ``seconds`` is the time of the whole visit. Journals
    hold visits: the bounds are for what is read from them.
    """

    graph: str
    warm: Positive
    cold: Positive
    runs: Annotated[int, Field(gt=0)]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Estimate:
    """A latency and its standard error, both in ms; ``visits`` is the number that they come from.

    ``noise`` is the standard deviation of one visit, as a share of the latency.
    """

    ms: float
    error: float
    visits: int
    noise: float = 0.0

    @property
    def half_width(self) -> float:
        """Half the 95 % confidence interval."""
        if self.visits < 2:
            return math.inf
        return self.error * float(stdtrit(self.visits - 1, 0.975))

    def times(self, factor: float, factor_error: float = 0.0) -> Estimate:
        """The latency in another unit; ``factor_error`` is the relative error of the factor."""
        error = factor * math.hypot(self.error, self.ms * factor_error)
        return Estimate(factor * self.ms, error, self.visits, self.noise)


class Measurement(NamedTuple):
    """A latency in ms with its 95 % interval."""

    ms: float
    ms_low: float
    ms_high: float

    @classmethod
    def of(cls, found: Estimate) -> Measurement:
        return cls(found.ms, max(found.ms - found.half_width, 0.0), found.ms + found.half_width)

    @property
    def half_width(self) -> float:
        """Half the interval, as a share of the latency."""
        return (self.ms_high - self.ms_low) / 2 / self.ms if self.ms > 0 else math.inf

    @property
    def status(self) -> Status:
        """``noisy`` where the value is not to be relied on alone."""
        is_known = self.half_width <= max(NOISY, TOLERANCE_MS / max(self.ms, 1e-9))
        return "ok" if self.ms > 0 and is_known else "noisy"


class Latency(NamedTuple):
    """Both latencies of a graph: run again and again, and run after other work."""

    warm: Measurement
    cold: Measurement

    def of(self, state: State) -> Measurement:
        return self.warm if state == "warm" else self.cold


class Estimates(NamedTuple):
    """The latency of each graph in one state, and ``speeds``: log time of the machine by visit."""

    graphs: Mapping[str, Estimate]
    speeds: np.ndarray

    @property
    def spread(self) -> tuple[float, float]:
        """How much faster and slower than usual the machine was, 5 % of the time each; shares."""
        return spread_of(self.speeds)


def spread_of(speeds: np.ndarray) -> tuple[float, float]:
    """How much less and more than their median log times (N,) take, 5 % of them each; shares."""
    low, high = np.expm1(np.quantile(speeds, (0.05, 0.95)) - np.median(speeds))
    return float(low), float(high)


def estimate(visits: Sequence[Visit]) -> Mapping[State, Estimates]:
    """The latency of each graph that was visited, at the median speed of the machine.

    ``visits`` stand in the order in which they were made. Intervals come from resampling a graph's
    visits, with Student's t for their small number.
    """
    names = list(dict.fromkeys(visit.graph for visit in visits))
    index = {name: place for place, name in enumerate(names)}
    owners = np.array([index[visit.graph] for visit in visits])
    logs = np.log([(visit.warm, visit.cold) for visit in visits]).T  # (2, N)
    groups = _Groups(owners)
    speeds, scales = np.zeros_like(logs), np.array([math.inf, math.inf])
    centres = np.zeros((2, len(names)))
    for _ in range(ROUNDS):
        centres = np.stack([groups.centres(*it) for it in zip(logs - speeds, scales, strict=True)])
        residuals = logs - centres[:, owners]
        speeds = _speeds(residuals, speeds)
        scales = np.array([_scale(row) for row in residuals - speeds])
    found: dict[State, Estimates] = {}
    for row, state in enumerate(STATES):
        values = groups.cut(logs[row] - speeds[row], scales[row])
        estimates = _with_errors(centres[row], [values[it] for it in groups.places])
        found[state] = Estimates(dict(zip(names, estimates, strict=True)), speeds[row])
    return found


class _Groups:
    """Values by the graph that they belong to; ``places`` are the indices of each graph's."""

    def __init__(self, owners: np.ndarray) -> None:
        self.owners = owners
        self.counts = np.bincount(owners)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        order = np.argsort(owners, kind="stable")
        self.places = np.split(order, self.starts[1:])

    def cut(self, values: np.ndarray, scale: float) -> np.ndarray:
        """The values (N,), none farther from its graph's median than outlying ones may be."""
        ordered = values[np.lexsort((values, self.owners))]
        lower = ordered[self.starts + (self.counts - 1) // 2]
        middles = ((lower + ordered[self.starts + self.counts // 2]) / 2)[self.owners]
        reach = OUTLYING * scale
        cut: np.ndarray = np.clip(values, middles - reach, middles + reach)
        return cut

    def centres(self, values: np.ndarray, scale: float) -> np.ndarray:
        """The mean of each graph's values, outliers cut off."""
        sums: np.ndarray = np.bincount(self.owners, self.cut(values, scale))
        return sums / self.counts


def _with_errors(centres: np.ndarray, values: Sequence[np.ndarray]) -> list[Estimate]:
    """An estimate of each graph's centre, a log time, from resampling its ``values``."""
    variances = [float(of_graph.var()) for of_graph in values if len(of_graph) > 1] or [0.0]
    pooled, rng, found = float(np.mean(variances)), np.random.default_rng(0), []
    for centre, of_graph in zip(centres, values, strict=True):
        count, ms = len(of_graph), math.exp(centre)
        total = count * float(of_graph.var()) + PRIOR_VISITS * pooled
        drawn = of_graph[rng.integers(0, count, (RESAMPLES, count))].mean(1).std()
        error = ms * float(drawn) * math.sqrt(count / max(count - 1, 1))
        found.append(Estimate(ms, error, count, math.sqrt(total / (count + PRIOR_VISITS))))
    return found


def combine(terms: Sequence[tuple[Estimate, float]]) -> Estimate:
    """The sum of multiples of latencies."""
    ms = sum(times * found.ms for found, times in terms)
    error = math.hypot(*(times * found.error for found, times in terms))
    return Estimate(ms, error, min(found.visits for found, _ in terms))


def pool(estimates: Sequence[Estimate]) -> Estimate:
    """The latency of one graph by several sessions, each weighted by its visits."""
    visits = sum(found.visits for found in estimates)
    shares = [(found, found.visits / visits) for found in estimates]
    noise = math.sqrt(sum(share * found.noise**2 for found, share in shares))
    pooled = combine(shares)
    return Estimate(pooled.ms, pooled.error, visits, noise)


def _scale(residuals: np.ndarray) -> float:
    """The standard deviation of most residuals (the median absolute one of a normal is 0.674)."""
    return float(np.median(np.abs(residuals - np.median(residuals)))) / 0.674


def _speeds(residuals: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The part of each residual (2, N) that others predict: neighbours, and the other state's.

    ``before`` is an earlier result, around which outliers are cut off. Medians over time are 0.
    """
    if residuals.shape[1] < LEAST_FOR_SPEED:
        return np.zeros_like(residuals)
    rest = residuals - before
    middles = np.median(rest, axis=1, keepdims=True)
    reach = OUTLYING * np.array([[_scale(row)] for row in rest])
    cut = before + np.clip(rest, middles - reach, middles + reach)
    near = [np.stack([_neighbours(row, reach) for reach in REACHES]) for row in cut]
    found = []
    for row, other in ((0, 1), (1, 0)):
        columns = np.concatenate([near[row], near[other]]).T
        columns = columns - columns.mean(0)
        solution, *_ = np.linalg.lstsq(columns, cut[row] - cut[row].mean(), rcond=None)
        predicted = columns @ solution
        found.append(predicted - np.median(predicted))
    return np.stack(found)


def _neighbours(values: np.ndarray, reach: float) -> np.ndarray:
    """Of each value the mean of its neighbours, itself left out, weighted by their distance."""
    total, weight = np.zeros(len(values)), np.zeros(len(values))
    for distance in range(1, min(math.ceil(4 * reach), len(values) - 1) + 1):
        share = math.exp(-(distance - 1) / reach)
        total[distance:] += share * values[:-distance]
        total[:-distance] += share * values[distance:]
        weight[distance:] += share
        weight[:-distance] += share
    found: np.ndarray = total / weight
    return found
