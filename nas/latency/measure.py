"""Timing: graphs take turns in random order, so that what else the machine does hits all alike.

The variation of a graph's median from pass to pass fell from 9.2 % to 1.6 % by taking turns.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import onnx

from nas.errors import UserError
from nas.latency.estimator import Estimate, Status, estimate, slope, visit_value
from nas.latency.graphs import with_batch
from nas.latency.precision import in_precision
from nas.latency.runtime import Statistic, Target, make_runtime
from nas.latency.runtimes import Runtime

Run = Callable[[], object]


class Clock(NamedTuple):
    """What a statistic reads, in nanoseconds, and the quantile that it takes."""

    read: Callable[[], int]
    quantile: float


CLOCKS: Mapping[Statistic, Clock] = {
    "thread_cpu_quartile": Clock(time.thread_time_ns, 0.25),
    "wall_median": Clock(time.perf_counter_ns, 0.5),
}

WARM_UP_RUNS, WARM_UP_MS = 2, 1.0
"""At least so much before the timed runs of a visit: others have used the caches in between.

A network of 0.065 ms takes 0.16 ms in its first run, 0.10 in its second, 0.08 in the next three.
"""

MOST_RUNS = 50


@dataclass(frozen=True)
class Plan:
    """How often a graph is visited; at each visit it runs so often and so long, at least.

    Visits go on until half the confidence interval is below ``tolerance`` times the latency. Sums
    of 20 to 40 layers average the independent errors of their rows out to a fifth of it.
    """

    runs: int = 5
    span_ms: float = 1.5
    least_visits: int = 6
    most_visits: int = 16
    tolerance: float = 0.04

    def on(self, target: Target) -> Plan:
        """The plan for what the target's statistic reads."""
        times = WALL_PATIENCE if target.statistic == "wall_median" else 1
        return replace(
            self, least_visits=times * self.least_visits, most_visits=times * self.most_visits
        )


WALL_PATIENCE = 2
"""Times the visits where the wall clock is read: pre-emption and wake-ups of threads are in it."""

PATIENT = Plan(runs=8, span_ms=5.0, least_visits=12, most_visits=40, tolerance=0.01)
"""For whole networks that a user waits for; entries of a table average out in sums."""


@dataclass(frozen=True)
class Probe:
    """What stands for one latency: a graph, or the slope between two.

    The latency is (long - short) / copies, where ``long`` holds ``copies`` more of the layer than
    ``short``; both are timed within one visit.
    """

    long: onnx.ModelProto
    short: onnx.ModelProto | None = None
    copies: int = 1


@dataclass(frozen=True)
class Measurement:
    """A latency with its 95 % interval, in milliseconds, and the number of timed runs.

    ``visits`` holds what each visit to the (longer) graph gave.
    """

    ms: float
    ms_low: float
    ms_high: float
    runs: int
    status: Status
    visits: tuple[float, ...] = ()


def measure(
    models: Sequence[onnx.ModelProto],
    target: Target,
    *,
    rng: np.random.Generator,
    plan: Plan = Plan(),
) -> list[Measurement]:
    """The latency of each model on the target, which must be this machine's."""
    return measure_probes([Probe(model) for model in models], target, rng=rng, plan=plan)


def measure_probes(
    probes: Sequence[Probe],
    target: Target,
    *,
    rng: np.random.Generator,
    plan: Plan = Plan(),
) -> list[Measurement]:
    """The latency of each probe in the target's precision.

    All sessions are open at once, so batches should be small.
    """
    runtime = make_runtime(target)
    runs = []
    for probe in probes:
        graphs = [probe.long] if probe.short is None else [probe.long, probe.short]
        runs.append([_prepare(runtime, graph, target) for graph in graphs])
    copies = [probe.copies for probe in probes]
    with _undisturbed():
        return time_in_turns(runs, copies, CLOCKS[target.statistic], rng=rng, plan=plan.on(target))


def _prepare(runtime: Runtime, graph: onnx.ModelProto, target: Target) -> Run:
    """A function that runs the graph on a batch.

    Raises:
        UserError: the graph fixes its batch in a way that ``with_batch`` does not know.
    """
    run = runtime.prepare(with_batch(in_precision(graph, target), target.batch))
    if target.batch > 1:
        try:
            run()
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"a model does not run with batch {target.batch}: {reason}") from error
    return run


def time_in_turns(
    runs: Sequence[Sequence[Run]],
    copies: Sequence[int],
    clock: Clock,
    *,
    rng: np.random.Generator,
    plan: Plan,
) -> list[Measurement]:
    """Time each entry, a long run and perhaps a short one, visit by visit in random order."""
    samplers = [
        _Sampler(pair, count, clock, plan) for pair, count in zip(runs, copies, strict=True)
    ]
    waiting = list(samplers)
    while waiting:
        for index in rng.permutation(len(waiting)):
            waiting[index].visit()
        waiting = [sampler for sampler in waiting if not sampler.is_done()]
    return [sampler.measurement() for sampler in samplers]


def combine(measurements: Sequence[Measurement], target: Target) -> Measurement:
    """The latency of one graph from all visits of several measurements of it."""
    visits = tuple(visit for it in measurements for visit in it.visits)
    runs = sum(it.runs for it in measurements)
    return _measurement(estimate(visits, CLOCKS[target.statistic].quantile), runs, visits)


class _Sampler:
    """One probe's runs, and the visits so far to each."""

    def __init__(self, runs: Sequence[Run], copies: int, clock: Clock, plan: Plan) -> None:
        self.runs, self.copies, self.clock, self.plan = runs, copies, clock, plan
        self.visits: list[list[float]] = [[] for _ in runs]
        self.timed = 0

    def visit(self) -> None:
        for run, visits in zip(self.runs, self.visits, strict=True):
            self._run_for(run, WARM_UP_RUNS, WARM_UP_MS)
            samples = self._run_for(run, self.plan.runs, self.plan.span_ms)
            visits.append(visit_value(samples, self.clock.quantile))
            self.timed += len(samples)

    def is_done(self) -> bool:
        count = len(self.visits[0])
        if count < self.plan.least_visits:
            return False
        return count >= self.plan.most_visits or self.estimate().is_within(self.plan.tolerance)

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


def _measurement(found: Estimate, runs: int, visits: tuple[float, ...]) -> Measurement:
    half = found.half_width
    return Measurement(
        ms=found.value,
        ms_low=found.value - half,
        ms_high=found.value + half,
        runs=runs,
        status=found.status,
        visits=visits,
    )


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """No garbage collection while timing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
