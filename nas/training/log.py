"""The log of a training: a JSON line per epoch and per setback, and curves for TensorBoard."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, TypeAdapter
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from nas.documents import Value
from nas.errors import UserError
from nas.store.journal import Journal


class SetbackLine(Value):
    """The ``setback``-th time that something went wrong, in ``epoch``, from 1."""

    setback: int
    epoch: int
    step: int
    reason: str


class EpochLine(Value):
    """A finished epoch, from 1, with its numbers, and under ``paths`` its path probabilities."""

    model_config = ConfigDict(extra="allow")

    epoch: int


_KIND: TypeAdapter[SetbackLine | EpochLine] = TypeAdapter(
    Annotated[SetbackLine | EpochLine, Field(union_mode="left_to_right")]
)


class Log:
    """Appends to the log of ``finished_epochs`` epochs and ``setbacks`` setbacks.

    Lines beyond them, from a process that was killed before it saved its weights, are dropped.

    Raises:
        UserError: the log cannot be written, or the one that is there is damaged.
    """

    def __init__(
        self, path: Path, curves: Path, *, finished_epochs: int, setbacks: int = 0
    ) -> None:
        def is_kept(line: SetbackLine | EpochLine) -> bool:
            if isinstance(line, SetbackLine):
                return line.setback <= setbacks
            return line.epoch <= finished_epochs

        self._folder = curves
        self._journal = Journal(
            path, _KIND, noun="a training", remedy="delete that line", keep=is_kept
        )
        try:
            self._curves = Curves(curves, first_epoch=finished_epochs + 1)
        except OSError as error:
            self._journal.close()
            raise self._unwritable(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.close()
        self._curves.close()

    def append(
        self,
        epoch: int,
        numbers: Mapping[str, float],
        paths: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
    ) -> None:
        """Record an epoch, which counts from 1.

        Each of the ``numbers`` is a curve. So is the probability of each kind in each slot of
        ``paths``, which stand together in the line: {"paths": {SLOT: {KIND: ..., ...}, ...}}.
        """
        curves = {name: float(f"{number:.6g}") for name, number in numbers.items()}
        entry: dict[str, Any] = {"epoch": epoch, **curves}
        if paths:
            entry["paths"] = {}
        for slot, chances in paths.items():
            entry["paths"][slot] = {kind: round(it, 4) for kind, it in chances.items()}
            curves |= {f"paths/{slot}/{kind}": it for kind, it in chances.items()}
        self._journal.append(EpochLine.model_validate(entry))
        try:
            self._curves.add(epoch, curves)
        except OSError as error:
            raise self._unwritable(error) from None

    def append_setback(self, number: int, epoch: int, *, reason: str, step: int) -> None:
        """Record that something went wrong for the ``number``-th time, in ``epoch``, from 1."""
        self._journal.append(SetbackLine(setback=number, epoch=epoch, step=step, reason=reason))

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"{self._folder}: cannot be written: {error.strerror}")


class Curves:
    """A new file of TensorBoard events in ``folder``; earlier points from ``first_epoch`` on hide.

    TensorBoard's own writer has a thread, in which a full disk ends as a traceback; this writes the
    same format with the same record writer at once.

    Raises:
        OSError: the file cannot be written, from any method.
    """

    def __init__(self, folder: Path, *, first_epoch: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{now:.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("wb", buffering=0)  # nothing is left to write at the end
        self._writer = RecordWriter(self._file)
        self._write(Event(wall_time=now, file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=now, step=first_epoch, session_log=start))

    def add(self, epoch: int, numbers: Mapping[str, float]) -> None:
        """Write a point of each curve."""
        values = [Summary.Value(tag=name, simple_value=it) for name, it in numbers.items()]
        self._write(Event(wall_time=time.time(), step=epoch, summary=Summary(value=values)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())
