"""Finalists are timed together: in turns with each other and with the reference of a table.

A device that is not at hand times them by hand: a folder goes there, and comes back.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from nas.errors import UserError
from nas.latency import runner
from nas.latency.by_hand import RUN, read_folder, target_of, write_folder
from nas.latency.calibration import RowSums
from nas.latency.device import BY_HAND
from nas.latency.estimator import Latency, State, Visit
from nas.latency.graphs import LayerGraphs
from nas.latency.measure import Patience, Session
from nas.latency.table import LatencyTable
from nas.latency.unit import describe_spread
from nas.progress import SILENT, Progress
from nas.slim.journal import Memory, Timed

PATIENCE = Patience(least=6, most=64, tolerance=0.01, seconds=30.0)
"""Of one session: its visits join those of the sessions before."""

BY_HAND_MINUTES = 1.0
"""For one session; --minutes there prolongs it."""


@dataclass
class Finalists:
    """Networks timed on this machine in the unit of a table, session after session.

    Visits of all sessions count; the ``memory`` answers for those of a stopped search. Networks go
    by the names of ``nas.latency.survey.network_name``; ``sums`` are those of their rows. Below
    ``folder`` are those that are measured by hand. ``state`` is the one that targets are of.
    """

    table: LatencyTable
    memory: Memory = field(default_factory=Memory)
    progress: Progress = SILENT
    folder: Path = Path("finalists")
    state: State = "warm"
    sums: dict[str, RowSums] = field(default_factory=dict, init=False)
    latencies: dict[str, Latency] = field(default_factory=dict, init=False)
    sessions: list[tuple[Visit, ...]] = field(default_factory=list, init=False)
    _half_widths: dict[str, float] = field(default_factory=dict, init=False)
    _graphs: LayerGraphs = field(default_factory=LayerGraphs, init=False)
    _spread: tuple[float, float] = field(default=(0.0, 0.0), init=False)
    _counts: Counter[tuple[str, ...]] = field(default_factory=Counter, init=False)
    _asked: Counter[str] = field(default_factory=Counter, init=False)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self._unit = unit_sha256(self.table)
        self._has_told_shift = False

    def measure(
        self,
        makers: Mapping[str, Callable[[], onnx.ModelProto]],
        asked: Sequence[str] | None = None,
    ) -> None:
        """Time these models in one session, unless the memory holds it; sets ``latencies``.

        It goes on until those are known that are asked for, by default all.
        """
        names = tuple(makers)
        asked = names if asked is None else asked
        is_whole = self._recall(names)
        models = makers if is_whole else _made(makers)
        session = Session(
            self.table.target,
            models,
            self._rng,
            self.table.unit,
            PATIENCE,
            self.progress,
            self.sessions,
            self.sums,
            graphs=self._graphs,
            state=self.state,
            asked=asked,
        )
        if not is_whole and self.table.target.place.carrier == BY_HAND:
            self._take(names, session)
        elif not is_whole:
            self._time(names, session)
        self._asked.update(asked)
        found = session.found()
        self.sessions.append(tuple(session.visits))
        self.latencies |= found.latencies
        half_widths = session.half_widths()
        self._half_widths |= {name: half_widths[name, self.state] for name in names}
        self._spread = found.spread
        line = self.table.unit.describe_shift(found.shift, str(self.table.path))
        if line and not self._has_told_shift:
            self._has_told_shift = True
            self.progress.say(line)

    def uncertainty(self, name: str) -> float:
        """Half the interval of a latency, as a share of it; 0 where two sessions asked for it.

        One by hand is not asked for again.
        """
        is_by_hand = self.table.target.place.carrier == BY_HAND
        return 0.0 if is_by_hand or self._asked[name] > 1 else self._half_widths[name]

    def tell_spread(self) -> None:
        """Say if the machine's speed varied much."""
        if line := describe_spread(self._spread):
            self.progress.say(line)

    def _recall(self, names: tuple[str, ...]) -> bool:
        """Take the visits of the next session of these networks from the memory; is it whole?"""
        for line in self.memory.sessions.get((self._unit, names), [])[self._counts[names] :]:
            self._counts[names] += 1
            self.sessions.append(line.visits)
            if line.is_whole:
                return True
        return False

    def _time(self, names: tuple[str, ...], session: Session) -> None:
        is_whole = False
        try:
            session.measure()
            is_whole = True
        finally:  # what was measured until somebody stopped it is kept too
            visits = tuple(session.visits)
            line = Timed(unit_sha256=self._unit, models=names, visits=visits, is_whole=is_whole)
            self.memory.add(line)
            self._counts[names] += 1

    def _take(self, names: tuple[str, ...], session: Session) -> None:
        """Take the visits of a folder that has come back; UserError if it has to be run yet."""
        key = hashlib.sha256("".join((self._unit, *names)).encode()).hexdigest()
        folder, turns, target = self.folder / key[:12], session.turns, self.table.target
        if not (folder / runner.SAMPLES).exists():
            minutes, most = BY_HAND_MINUTES, PATIENCE.most
            write_folder(
                folder, turns.graphs, turns.regular, target, minutes=minutes, most=most, seed=0
            )
            raise UserError(
                f"{folder}: networks to be measured on {target.device}: copy the folder there, run "
                f"in it python3 {RUN}, copy it back; then the same command with --resume goes on"
            )
        measured = read_folder(folder)
        name = target.device.partition(":")[2].partition("/")[0]
        if other := target.difference(target_of(target, measured.header, name)):
            raise UserError(
                f"{folder}: was run on another device than the table: {'; '.join(other)}"
            )
        measured.require_enough(turns.graphs.keys(), folder)
        session.visits += measured.visits
        self._note(names, session, is_whole=True)

    def _note(self, names: tuple[str, ...], session: Session, *, is_whole: bool) -> None:
        visits = tuple(session.visits)
        line = Timed(unit_sha256=self._unit, models=names, visits=visits, is_whole=is_whole)
        self.memory.add(line)
        self._counts[names] += 1


def _made(
    makers: Mapping[str, Callable[[], onnx.ModelProto]],
) -> dict[str, Callable[[], onnx.ModelProto]]:
    """Makers of models that are made now: nothing is exported while others are timed."""
    models = {name: make() for name, make in makers.items()}
    return {name: lambda model=model: model for name, model in models.items()}  # type: ignore[misc]


def unit_sha256(table: LatencyTable) -> str:
    """Stands in the journal for a target and the reference networks that are visited on it."""
    networks = "".join(reference.network.to_json() for reference in table.unit.references)
    return hashlib.sha256(f"{table.target.model_dump_json()}{networks}".encode()).hexdigest()
