"""A machine of known truth: two states, drift, and pre-emptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nas.latency.estimator import STATES, State, Visit, estimate

DWELL_SECONDS, SLOWER, DRIFT, PREEMPTED = (0.1, 10.0), 1.35, 0.2, 0.05
COLD, FLUSH_MS, RUNS = 1.5, 10.0, 7
GRAPHS, VISITS, EVERY = 60, 12, 8
REFERENCE = "reference"


class Machine:
    """Runs that take longer in the slow state, later in the session, and when pre-empted."""

    def __init__(self, seed: int, session_ms: float) -> None:
        self._rng = np.random.default_rng(seed)
        self._session_ms, self._now_ms = session_ms, 0.0
        self._is_slow, self._until_ms = bool(self._rng.integers(2)), 0.0

    def run(self, ms: float) -> float:
        """The time that a run takes now, which would take ``ms`` on a quiet machine."""
        self.wait(0.0)
        taken = ms * (SLOWER if self._is_slow else 1.0)
        taken *= 1 + DRIFT * self._now_ms / self._session_ms
        taken *= float(np.exp(self._rng.normal(0, 0.02)))
        if self._rng.random() < PREEMPTED:
            taken *= float(self._rng.uniform(1.5, 8))
        self.wait(taken)
        return taken

    def wait(self, ms: float) -> None:
        """Let time pass, and the state with it."""
        self._now_ms += ms
        while self._now_ms >= self._until_ms:
            self._is_slow = not self._is_slow
            low, high = np.log(DWELL_SECONDS)
            self._until_ms += 1000 * float(np.exp(self._rng.uniform(low, high)))


class Score(NamedTuple):
    """Mean error of latencies relative to the reference's, coverage of intervals, and runs."""

    error: float
    coverage: float
    runs: float


def measure_simulated(
    seed: int, *, graphs: int = GRAPHS, visits: int = VISITS
) -> tuple[dict[str, float], list[Visit]]:
    """The true warm ms of each graph, and random visits to them with the reference in between."""
    rng = np.random.default_rng(seed)
    truth = {f"graph {index}": float(np.exp(rng.uniform(-3, 2.3))) for index in range(graphs)}
    truth[REFERENCE] = 1.0
    order = [name for name in truth if name != REFERENCE for _ in range(visits)]
    order = [order[index] for index in rng.permutation(len(order))]
    for place in range(len(order), -1, -EVERY):
        order.insert(place, REFERENCE)
    machine = Machine(seed, sum(FLUSH_MS + 1.3 * RUNS * truth[name] for name in order))
    found = []
    for name in order:
        machine.wait(FLUSH_MS)
        cold = machine.run(COLD * truth[name])
        warm = [machine.run(truth[name]) for _ in range(RUNS - 1)]
        found.append(Visit(name, float(np.median(warm[-3:])), cold, RUNS, 0.0))
    return truth, found


def score_estimator(seeds: Sequence[int]) -> dict[State, Score]:
    """How well the estimator removes the machine, over several sessions."""
    errors: dict[State, list[float]] = {state: [] for state in STATES}
    covered: dict[State, list[bool]] = {state: [] for state in STATES}
    for seed in seeds:
        truth, visits = measure_simulated(seed)
        for state, (found, _) in estimate(visits).items():
            unit = (COLD if state == "cold" else 1.0) / found[REFERENCE].ms
            unit_error = found[REFERENCE].error / found[REFERENCE].ms
            for name, ms in truth.items():
                if name == REFERENCE:
                    continue
                true_ms = ms * (COLD if state == "cold" else 1.0)
                told = found[name].times(unit, unit_error)
                errors[state].append(abs(told.ms / true_ms - 1))
                covered[state].append(abs(told.ms - true_ms) <= told.half_width)
    return {
        state: Score(float(np.mean(errors[state])), float(np.mean(covered[state])), VISITS * RUNS)
        for state in STATES
    }
