"""Sessions: models timed in turns with a reference, in the unit of a table or of this hour."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import onnx

from nas.latency.estimator import (
    STATES,
    Estimate,
    Estimates,
    Latency,
    Measurement,
    State,
    Visit,
    estimate,
    pool,
    spread_of,
)
from nas.latency.graphs import LayerGraphs
from nas.latency.target import Target
from nas.latency.unit import Reference
from nas.latency.visits import Turns
from nas.progress import SILENT, Progress

REFERENCE, HIDDEN = "reference", "reference, hidden"
"""Names of the reference network in its turns, and as a candidate like any other."""


class Patience(NamedTuple):
    """Visits to each graph: at least and at most so many, and no more after so many seconds.

    It is enough when half the interval is within a share of the latency, ``tolerance``.
    """

    least: int = 8
    most: int = 64
    tolerance: float = 0.01
    seconds: float = 60.0


PATIENT = Patience()
"""For whole networks that a user waits for."""


class Found(NamedTuple):
    """Latencies by model, and what the machine was like.

    ``shift``: how much slower the machine is now than in the table's hour, by state; a share.
    ``spread``: how much faster and slower it was in all sessions, 5 % of the time each, than in the
    median.
    """

    latencies: Mapping[str, Latency]
    shift: Mapping[State, float]
    spread: tuple[float, float]


@dataclass
class Session:
    """Models that are timed in turns on a target, which must be this machine's.

    ``reference`` gives the unit; without one latencies are those of this hour. ``earlier`` are the
    visits of sessions before, with the same reference: each is told in the unit by itself, as the
    machine was another then. ``graphs`` make the reference.
    """

    target: Target
    models: Mapping[str, Callable[[], onnx.ModelProto]]
    rng: np.random.Generator
    reference: Reference | None = None
    patience: Patience = PATIENT
    progress: Progress = SILENT
    earlier: Sequence[Sequence[Visit]] = ()
    visits: list[Visit] = field(default_factory=list)
    graphs: LayerGraphs = field(default_factory=LayerGraphs)

    def __post_init__(self) -> None:
        models = dict(self.models)
        if self.reference:
            models[REFERENCE] = partial(self.graphs.network, self.reference.network)
        regular = REFERENCE if self.reference else None
        self._turns = Turns(self.target, models, self.rng, regular, self.progress)

    def measure(self) -> Found:
        """Visit all models until each is known well enough, or patience ends.

        All are visited equally often: what is compared saw the same machine.
        """
        begun, least = time.monotonic(), self.patience.least
        counts = dict.fromkeys(self.models, least)
        while any(counts.values()):
            for chunk in self._turns.visit(counts):
                self.visits += chunk
            counts = self._further() if time.monotonic() - begun < self.patience.seconds else {}
        return self.found()

    def found(self) -> Found:
        """The latencies by all visits so far."""
        sessions = [estimate(visits) for visits in (*self.earlier, self.visits) if visits]
        latencies = {
            name: Latency(*(Measurement.of(self._pooled(sessions, name, it)) for it in STATES))
            for name in self.models
        }
        latest = sessions[-1]
        shift = {state: 1 / self._factor(latest[state], state)[0] - 1 for state in STATES}
        speeds = [
            it["warm"].speeds - math.log(self._factor(it["warm"], "warm")[0]) for it in sessions
        ]
        return Found(latencies, shift, spread_of(np.concatenate(speeds)))

    def _pooled(
        self, sessions: Sequence[Mapping[State, Estimates]], name: str, state: State
    ) -> Estimate:
        """The latency of a model by all sessions that visited it, in the unit."""
        by_session = [session[state] for session in sessions if name in session[state].graphs]
        return pool([it.graphs[name].times(*self._factor(it, state)) for it in by_session])

    def _factor(self, found: Estimates, state: State) -> tuple[float, float]:
        """What brings the latencies of a session into the unit, and its relative error."""
        if not self.reference:
            return 1.0, 0.0
        now = found.graphs[REFERENCE]
        return self.reference.ms(state) / now.ms, now.error / now.ms

    def _further(self) -> dict[str, int]:
        """Visits to each model, if one is not known well enough: a third more than so far."""
        made = sum(visit.graph in self.models for visit in self.visits) // len(self.models)
        more = min(made // 3 + 1, self.patience.most - made)
        is_known = all(
            max(latency.warm.half_width, latency.cold.half_width) <= self.patience.tolerance
            for latency in self.found().latencies.values()
        )
        return {} if is_known else dict.fromkeys(self.models, more)


def measure(
    models: Sequence[onnx.ModelProto],
    target: Target,
    *,
    rng: np.random.Generator,
    reference: Reference | None = None,
    patience: Patience = PATIENT,
    progress: Progress = SILENT,
) -> list[Latency]:
    """The latency of each model on the target, warm and cold, in the unit of ``reference``."""
    named = {f"model {index}": (lambda model=model: model) for index, model in enumerate(models)}
    session = Session(target, named, rng, reference, patience, progress)
    return list(session.measure().latencies.values())
