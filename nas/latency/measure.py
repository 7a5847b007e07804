"""Timing: graphs take turns in random order, and visits far apart become a latency with interval.

A graph runs a few times at each visit. These runs share the state of the machine, so only the
visits are independent samples. Other work on the machine only ever adds time: so the lower quartile
stands for an undisturbed run, where thread CPU time is measured. With several threads wall-clock
times are bimodal and low quantiles mean nothing: there it is the median.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import onnx
from scipy.special import betainc, stdtrit

from nas.errors import UserError
from nas.latency.graphs import Probe, with_batch
from nas.latency.runtimes import Runtime
from nas.latency.target import Statistic, Target, in_precision, make_runtime

Run = Callable[[], object]
Status = Literal["ok", "noisy"]


class Clock(NamedTuple):
    """A clock in nanoseconds, and the quantile that is taken of its times."""

    read: Callable[[], int]
    quantile: float


CLOCKS: Mapping[Statistic, Clock] = {
    "thread_cpu_quartile": Clock(time.thread_time_ns, 0.25),
    "wall_median": Clock(time.perf_counter_ns, 0.5),
}

WARM_UP_RUNS, WARM_UP_MS = 2, 1.0
"""The least before the timed runs of a visit: other graphs have used the caches in between."""

MOST_RUNS = 50

TOLERANCE_MS = 0.0005
"""No layer needs to be known better than this."""

NOISY = 0.15
"""Half an interval above this share of the estimate makes a row ``noisy``."""

WALL_PATIENCE = 2
"""Times the visits where the wall clock is read: it includes pre-emption and threads' wake-ups."""


@dataclass(frozen=True)
class VisitPlan:
    """Visits of so many runs and ms at least, until half the interval is within the tolerance."""

    runs: int = 5
    span_ms: float = 1.5
    least_visits: int = 6
    most_visits: int = 16
    tolerance: float = 0.04

    def on(self, target: Target) -> VisitPlan:
        """The plan for the clock that the target's statistic reads."""
        if target.statistic != "wall_median":
            return self
        least, most = WALL_PATIENCE * self.least_visits, WALL_PATIENCE * self.most_visits
        return replace(self, least_visits=least, most_visits=most)


LAYER_VISITS = VisitPlan()
PATIENT = VisitPlan(runs=8, span_ms=5.0, least_visits=12, most_visits=40, tolerance=0.01)
"""For whole networks that a user waits for; entries of a table average out in sums."""


@dataclass(frozen=True)
class Measurement:
    """A latency with its 95 % interval; ``visits``: of the (longer) graph, at each visit, in ms."""

    ms: float
    ms_low: float
    ms_high: float
    runs: int
    status: Status
    visits: tuple[float, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """A latency, its standard error, both in ms, and the number of visits they come from."""

    value: float
    error: float
    visits: int

    @property
    def half_width(self) -> float:
        """Half the 95 % confidence interval."""
        if self.visits < 2:
            return math.inf
        return self.error * float(stdtrit(self.visits - 1, 0.975))

    def is_within(self, tolerance: float) -> bool:
        """Whether half the interval is at most this share of the value, or negligible."""
        return self.half_width <= max(tolerance * self.value, TOLERANCE_MS)

    @property
    def status(self) -> Status:
        """``noisy`` where the value is not to be relied on alone."""
        return "ok" if self.value > 0 and self.is_within(NOISY) else "noisy"


def estimate(visits: Sequence[float], quantile: float) -> Estimate:
    """The quantile of the visits (Harrell and Davis 1982) and its error (Maritz and Jarrett 1978).

    An outlying visit hardly counts; drift and bimodality widen the interval.
    """
    ordered = np.sort(np.asarray(visits, dtype=float))
    weights = _weights(len(ordered), quantile)
    value = float(weights @ ordered)
    variance = float(weights @ (ordered - value) ** 2)
    return Estimate(value, math.sqrt(variance), len(ordered))


def slope(long: Estimate, short: Estimate, copies: int) -> Estimate:
    """The latency of each of the ``copies`` that ``long`` has more than ``short``."""
    error = math.hypot(long.error, short.error) / copies
    return Estimate((long.value - short.value) / copies, error, min(long.visits, short.visits))


def measure(
    models: Sequence[onnx.ModelProto],
    target: Target,
    *,
    rng: np.random.Generator,
    plan: VisitPlan = LAYER_VISITS,
) -> list[Measurement]:
    """The latency of each model on the target, which must be this machine's."""
    return measure_probes([Probe(model) for model in models], target, rng=rng, plan=plan)


def measure_probes(
    probes: Sequence[Probe],
    target: Target,
    *,
    rng: np.random.Generator,
    plan: VisitPlan = LAYER_VISITS,
) -> list[Measurement]:
    """The latency of each probe in the target's precision; all sessions are open at once."""
    runtime = make_runtime(target)
    runs = [[_prepare(runtime, graph, target) for graph in probe.graphs] for probe in probes]
    copies = [probe.copies for probe in probes]
    enabled = gc.isenabled()
    gc.disable()
    try:
        return time_in_turns(runs, copies, CLOCKS[target.statistic], rng=rng, plan=plan.on(target))
    finally:
        if enabled:
            gc.enable()


def time_in_turns(
    runs: Sequence[Sequence[Run]],
    copies: Sequence[int],
    clock: Clock,
    *,
    rng: np.random.Generator,
    plan: VisitPlan,
) -> list[Measurement]:
    """Time each entry, a long run and perhaps a short one, visit by visit in random order."""
    samplers = [_Sampler(*entry, clock, plan) for entry in zip(runs, copies, strict=True)]
    waiting = list(samplers)
    while waiting:
        for index in rng.permutation(len(waiting)):
            waiting[index].visit()
        waiting = [sampler for sampler in waiting if not sampler.is_done()]
    return [sampler.measurement() for sampler in samplers]


def combine(measurements: Sequence[Measurement], target: Target) -> Measurement:
    """The latency of one graph from all visits of several measurements of it."""
    visits = tuple(visit for found in measurements for visit in found.visits)
    runs = sum(found.runs for found in measurements)
    return _measurement(estimate(visits, CLOCKS[target.statistic].quantile), runs, visits)


class _Sampler:
    """One probe's runs, and the visits so far to each."""

    def __init__(self, runs: Sequence[Run], copies: int, clock: Clock, plan: VisitPlan) -> None:
        self.runs, self.copies, self.clock, self.plan = runs, copies, clock, plan
        self.visits: list[list[float]] = [[] for _ in runs]
        self.timed = 0

    def visit(self) -> None:
        for run, visits in zip(self.runs, self.visits, strict=True):
            self._run_for(run, WARM_UP_RUNS, WARM_UP_MS)
            samples = self._run_for(run, self.plan.runs, self.plan.span_ms)
            visits.append(float(np.quantile(samples, self.clock.quantile)))
            self.timed += len(samples)

    def is_done(self) -> bool:
        count, plan = len(self.visits[0]), self.plan
        return count >= plan.least_visits and (
            count >= plan.most_visits or self.estimate().is_within(plan.tolerance)
        )

    def estimate(self) -> Estimate:
        long, *short = (estimate(visits, self.clock.quantile) for visits in self.visits)
        return slope(long, short[0], self.copies) if short else long

    def measurement(self) -> Measurement:
        return _measurement(self.estimate(), self.timed, tuple(self.visits[0]))

    def _run_for(self, run: Run, runs: int, span_ms: float) -> list[float]:
        """The times, in ms, of at least so many runs that take at least so long together."""
        read, total = self.clock.read, 0.0
        samples: list[float] = []
        while len(samples) < runs or (total < span_ms and len(samples) < MOST_RUNS):
            start = read()
            run()
            samples.append((read() - start) / 1e6)
            total += samples[-1]
        return samples


def _prepare(runtime: Runtime, graph: onnx.ModelProto, target: Target) -> Run:
    """A function that runs the graph on a batch."""
    run = runtime.prepare(with_batch(in_precision(graph, target), target.batch))
    if target.batch > 1:
        try:
            run()
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"a model does not run with batch {target.batch}: {reason}") from error
    return run


def _measurement(found: Estimate, runs: int, visits: tuple[float, ...]) -> Measurement:
    low, high = found.value - found.half_width, found.value + found.half_width
    return Measurement(found.value, low, high, runs, found.status, visits)


@lru_cache
def _weights(count: int, quantile: float) -> np.ndarray:
    a, b = (count + 1) * quantile, (count + 1) * (1 - quantile)
    return np.diff(betainc(a, b, np.linspace(0, 1, count + 1)))
