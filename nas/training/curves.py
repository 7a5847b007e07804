"""Curves for TensorBoard, written at once.

TensorBoard's own writer has a thread, in which a full disk ends as a traceback; this is the same
file format by the same record writer.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class Curves:
    """A new file of events in ``folder``; what stands there from ``first_epoch`` on is hidden.

    Raises:
        OSError: it cannot be written, from any method.
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
        """A point of each curve."""
        values = [Summary.Value(tag=name, simple_value=it) for name, it in numbers.items()]
        self._write(Event(wall_time=time.time(), step=epoch, summary=Summary(value=values)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())
