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

from nas.latency.calibration import Machine, RowSums
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
from nas.latency.graphs import LayerGraphs, count_parameters
from nas.latency.target import Target
from nas.latency.unit import Change, Factor, Unit
from nas.latency.visits import Turns
from nas.progress import SILENT, Progress

REFERENCE, HIDDEN = "reference", "reference, hidden"
"""Names of the first reference network in its turns, and as a candidate like any other."""


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

OTHER_STATE = 3.0
"""Times the tolerance in a state that is told and that nothing is decided by."""


class Found(NamedTuple):
    """Latencies by model, and what the machine was like.

    ``shift``: how much slower the machine is now than in the table's hour, by state; a share, by
    the first reference. ``machine``: what it is like now by all of them.
    ``spread``: how much faster and slower it was in all sessions, 5 % of the time each, than in the
    median.
    """

    latencies: Mapping[str, Latency]
    shift: Mapping[State, float]
    machine: Machine
    spread: tuple[float, float]


class _Seen(NamedTuple):
    """A session: what graphs took, and what the machine was like."""

    estimates: Mapping[State, Estimates]
    change: Change | None


def reference_names(count: int) -> tuple[str, ...]:
    """The names of so many references in their turns."""
    return tuple(
        f"{REFERENCE} {place}" if place > 1 else REFERENCE for place in range(1, count + 1)
    )


@dataclass
class Session:
    """Models that are timed in turns on a target, whose device must be at hand.

    Latencies are told in the ``unit``; without one they are those of this hour. ``sums`` are those
    of a model's rows, where they are known. ``earlier`` are the visits of sessions before, with the
    same references: each is told in the unit by itself, as the machine was another then. ``graphs``
    make the references. ``state`` is the one that something is decided by; None where both are.
    ``asked`` are the models on whose account a session goes on; by default all.
    """

    target: Target
    models: Mapping[str, Callable[[], onnx.ModelProto]]
    rng: np.random.Generator
    unit: Unit | None = None
    patience: Patience = PATIENT
    progress: Progress = SILENT
    earlier: Sequence[Sequence[Visit]] = ()
    sums: Mapping[str, RowSums] = field(default_factory=dict)
    visits: list[Visit] = field(default_factory=list)
    graphs: LayerGraphs = field(default_factory=LayerGraphs)
    state: State | None = None
    asked: Sequence[str] | None = None

    def __post_init__(self) -> None:
        networks = [it.network for it in self.unit.references] if self.unit else []
        makers: dict[str, Callable[[], onnx.ModelProto]] = {
            name: partial(self.graphs.network, network)
            for name, network in zip(reference_names(len(networks)), networks, strict=True)
        }
        models = {**self.models, **makers}
        self.turns = Turns(self.target, models, self.rng, tuple(makers), self.progress)
        self._parameters: dict[str, int] = {}

    def measure(self) -> Found:
        """Visit models until each that is asked for is known well enough, or patience ends.

        All take the first turns; those that are asked for are visited equally often.
        """
        begun, least = time.monotonic(), self.patience.least
        counts = dict.fromkeys(self.models, least)
        while any(counts.values()):
            for chunk in self.turns.visit(counts):
                self.visits += chunk
            counts = self._further() if time.monotonic() - begun < self.patience.seconds else {}
        return self.found()

    def found(self) -> Found:
        """The latencies by all visits so far."""
        sessions = [
            _Seen(it, self._change(it))
            for it in (estimate(visits) for visits in (*self.earlier, self.visits) if visits)
        ]
        latencies = {
            name: Latency(*(Measurement.of(self._pooled(sessions, name, it)) for it in STATES))
            for name in self.models
        }
        latest = sessions[-1]
        speeds = [
            it.estimates["warm"].speeds + math.log(1 + self._shift(it, "warm")) for it in sessions
        ]
        return Found(
            latencies,
            {state: self._shift(latest, state) for state in STATES},
            latest.change.machine if latest.change else Machine(),
            spread_of(np.concatenate(speeds)),
        )

    def _pooled(self, sessions: Sequence[_Seen], name: str, state: State) -> Estimate:
        """The latency of a model by all sessions that visited it, in the unit."""
        seen = [it for it in sessions if name in it.estimates[state].graphs]
        return pool(
            [it.estimates[state].graphs[name].times(*self._factor(it, name, state)) for it in seen]
        )

    def _factor(self, seen: _Seen, name: str, state: State) -> Factor:
        """What brings the latency of a model in a session into the unit."""
        if not self.unit or not seen.change:
            return Factor(1.0, 0.0)
        sums = self.sums.get(name) or self.unit.guess_sums(
            self._count(name), seen.estimates["warm"].graphs[name].ms
        )
        return self.unit.factor(seen.change, sums, state)

    def _count(self, name: str) -> int:
        """The number of a model's parameters."""
        if name not in self._parameters:
            self._parameters[name] = count_parameters(self.models[name]())
        return self._parameters[name]

    def _change(self, found: Mapping[State, Estimates]) -> Change | None:
        """What the machine was like in a session."""
        if not self.unit:
            return None
        names = reference_names(len(self.unit.references))
        return self.unit.find_change(
            {state: [found[state].graphs.get(name) for name in names] for state in STATES}
        )

    def _shift(self, seen: _Seen, state: State) -> float:
        """How much slower the first reference was in a session than in the table's hour."""
        if not self.unit:
            return 0.0
        now = seen.estimates[state].graphs[REFERENCE].ms
        return now / self.unit.references[0].ms(state) - 1

    def _further(self) -> dict[str, int]:
        """Visits to what is asked for, if one is not known well: a third more than so far."""
        asked = list(self.models) if self.asked is None else self.asked
        if self._is_known(asked):
            return {}
        made = sum(visit.graph in asked for visit in self.visits) // len(asked)
        more = min(made // 3 + 1, self.patience.most - made)
        return dict.fromkeys(asked, more)

    def half_widths(self) -> Mapping[tuple[str, State], float]:
        """Half the interval of each model that is due to its visits, as a share of its latency.

        What the unit lacks further visits do not mend.
        """
        sessions = [estimate(visits) for visits in (*self.earlier, self.visits) if visits]

        def half_width(name: str, state: State) -> float:
            graphs = [it[state].graphs for it in sessions]
            found = pool([it[name] for it in graphs if name in it])
            return found.half_width / found.ms

        return {(name, state): half_width(name, state) for name in self.models for state in STATES}

    def _is_known(self, names: Sequence[str]) -> bool:
        """Whether further visits would tell nothing new of these models."""
        return all(
            it <= self._tolerance(state)
            for (name, state), it in self.half_widths().items()
            if name in names
        )

    def _tolerance(self, state: State) -> float:
        """The share of a latency in which half the interval is to be."""
        return self.patience.tolerance * (OTHER_STATE if self.state not in (None, state) else 1.0)


def measure(
    models: Sequence[onnx.ModelProto],
    target: Target,
    *,
    rng: np.random.Generator,
    patience: Patience = PATIENT,
    progress: Progress = SILENT,
) -> list[Latency]:
    """The latency of each model on the target, warm and cold, in ms of this hour."""
    named = {f"model {index}": (lambda model=model: model) for index, model in enumerate(models)}
    session = Session(target, named, rng, None, patience, progress)
    return list(session.measure().latencies.values())
