"""The log of a training: a JSON line per epoch and per setback, and curves for TensorBoard."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Self

from pydantic import Field, TypeAdapter, model_serializer
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from nas.documents import Value
from nas.errors import UserError, writing
from nas.store.journal import Journal, read_lines
from nas.training.settings import Count, Share

Epoch = Annotated[int, Field(gt=0, lt=10**6)]


class SetbackLine(Value):
    """The ``setback``-th time that something went wrong, in ``epoch``, from 1."""

    setback: Count
    epoch: Epoch
    step: Count
    reason: str


class EpochLine(Value, extra="allow", allow_inf_nan=True):
    """A finished epoch, from 1, with its numbers and ``paths``, its path probabilities."""

    __pydantic_extra__: dict[str, float | None]
    epoch: Epoch
    paths: dict[str, dict[str, Share]] | None = None

    @model_serializer(mode="wrap")
    def _paths_last(self, serialize: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        found = serialize(self)
        paths = found.pop("paths")
        return found if paths is None else {**found, "paths": paths}


Line = Annotated[SetbackLine | EpochLine, Field(union_mode="left_to_right")]
KIND: TypeAdapter[SetbackLine | EpochLine] = TypeAdapter(Line)
NOUN, REMEDY = "a training", "delete that line"


def read_log(path: Path) -> list[SetbackLine | EpochLine]:
    """The lines of a log that may be under way; raises UserError at the first damaged one."""
    return read_lines(path, KIND, noun=NOUN, remedy=REMEDY)


class Log:
    """Appends to a log; lines beyond what was saved with the weights are dropped.

    Curves go through TensorBoard's record writer: its event writer has a thread, in which a full
    disk ends as a traceback. Raises UserError if the log is damaged, or a file cannot be written.
    """

    def __init__(
        self, path: Path, curves: Path, *, finished_epochs: int, setbacks: int = 0
    ) -> None:
        def is_kept(line: SetbackLine | EpochLine) -> bool:
            if isinstance(line, SetbackLine):
                return line.setback <= setbacks
            return line.epoch <= finished_epochs

        self._curves = curves
        self._journal = Journal(path, KIND, noun=NOUN, remedy=REMEDY, keep=is_kept)
        self.remark = self._journal.remark
        hide_later = SessionLog(status=SessionLog.START)
        try:
            with writing(curves):
                curves.mkdir(parents=True, exist_ok=True)
                name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
                self._events = (curves / name).open("wb", buffering=0)  # closing writes nothing
                self._write(Event(file_version="brain.Event:2"))
                self._write(Event(step=finished_epochs + 1, session_log=hide_later))
        except UserError:
            self._journal.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.close()
        self._events.close()

    def append(
        self,
        epoch: int,
        numbers: Mapping[str, float],
        paths: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
    ) -> None:
        """Record an epoch, from 1, with the probability of each kind in each slot of ``paths``."""
        curves = {name: float(f"{number:.6g}") for name, number in numbers.items()}
        entry: dict[str, Any] = {"epoch": epoch, **curves}
        for slot, chances in paths.items():
            rounded = {kind: round(chance, 4) for kind, chance in chances.items()}
            entry.setdefault("paths", {})[slot] = rounded
            curves |= {f"paths/{slot}/{kind}": chance for kind, chance in chances.items()}
        self._journal.append(EpochLine.model_validate(entry))
        points = [Summary.Value(tag=name, simple_value=point) for name, point in curves.items()]
        with writing(self._curves):
            self._write(Event(step=epoch, summary=Summary(value=points)))

    def append_setback(self, number: int, epoch: int, *, reason: str, step: int) -> None:
        self._journal.append(SetbackLine(setback=number, epoch=epoch, step=step, reason=reason))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        rest = record.getbuffer()
        while rest:  # a disk that is nearly full takes a part, and says nothing
            rest = rest[self._events.write(rest) :]
