"""Sessions: models timed in turns with a reference, in the unit of a table or of this hour."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import onnx

from nas.latency.estimator import STATES, Latency, Measurement, State, Visit, estimate
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
    ``spread``: how much faster and slower it was, 5 % of the time each, than in the median.
    """

    latencies: Mapping[str, Latency]
    shift: Mapping[State, float]
    spread: tuple[float, float]


@dataclass
class Session:
    """Models that are timed in turns on a target, which must be this machine's.

    ``reference`` gives the unit; without one latencies are those of this hour. ``visits`` are all
    so far, of earlier sessions of the same models too; ``graphs`` make the reference.
    """

    target: Target
    models: Mapping[str, Callable[[], onnx.ModelProto]]
    rng: np.random.Generator
    reference: Reference | None = None
    patience: Patience = PATIENT
    progress: Progress = SILENT
    visits: list[Visit] = field(default_factory=list)
    graphs: LayerGraphs = field(default_factory=LayerGraphs)

    def __post_init__(self) -> None:
        models = dict(self.models)
        if self.reference:
            models[REFERENCE] = partial(self.graphs.network, self.reference.network)
        regular = REFERENCE if self.reference else None
        self._turns = Turns(self.target, models, self.rng, regular, self.progress)

    def measure(self) -> Found:
        """Visit all models until each is known well enough, or patience ends."""
        begun, least = time.monotonic(), self.patience.least
        counts = dict.fromkeys(self.models, least)
        while any(counts.values()):
            for chunk in self._turns.visit(counts):
                self.visits += chunk
            counts = self._further() if time.monotonic() - begun < self.patience.seconds else {}
        return self.found()

    def found(self) -> Found:
        """The latencies by all visits so far."""
        by_state = estimate(self.visits)
        factors, errors, shift = dict.fromkeys(STATES, 1.0), dict.fromkeys(STATES, 0.0), {}
        for state, found in by_state.items():
            if self.reference:
                now = found.graphs[REFERENCE]
                factors[state] = self.reference.ms(state) / now.ms
                errors[state] = now.error / now.ms
            shift[state] = 1 / factors[state] - 1
        latencies = {
            name: Latency(
                *(
                    Measurement.of(
                        by_state[state].graphs[name].times(factors[state], errors[state])
                    )
                    for state in STATES
                )
            )
            for name in self.models
        }
        return Found(latencies, shift, by_state["warm"].spread)

    def _further(self) -> dict[str, int]:
        """Visits to the models that are not known well enough: a third more than so far."""
        made = {name: sum(visit.graph == name for visit in self.visits) for name in self.models}
        latencies, patience = self.found().latencies, self.patience
        unsure = [
            name
            for name, latency in latencies.items()
            if max(latency.warm.half_width, latency.cold.half_width) > patience.tolerance
        ]
        return {
            name: min(made[name] // 3 + 1, patience.most - made[name])
            for name in unsure
            if made[name] < patience.most
        }


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
