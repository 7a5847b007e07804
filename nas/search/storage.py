"""The storage of a study: Optuna's journal file with a lock that ends with its process.

Optuna's own lock is a link to the journal. On a relative path it points nowhere, and after a kill
the next worker waits for ever; and half a line, which a full disk leaves, is made one line with
the next and unreadable.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from nas.errors import writing

POLL_SECONDS = 0.005
BLOCK_BYTES = 4096


def open_storage(storage: str) -> BaseStorage:
    """The storage at a database's URL, or in a journal file, whose folder is made if need be."""
    if "://" in storage:
        return RDBStorage(storage)
    return JournalStorage(JournalFile(Path(storage)))


class JournalFile(JournalFileBackend):
    """A file of whole lines; raises UserError if it cannot be written, and leaves it as it was."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._lock_path = self._path.with_name(f"{path.name}.lock")
        self._process_lock = FileLock(self._lock_path, poll_interval=POLL_SECONDS)
        with writing(path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._lock_path.is_symlink():  # a killed worker of an earlier version left it
                self._lock_path.unlink(missing_ok=True)
            super().__init__(str(self._path))
        self.append_logs([])  # drops half a line

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = (json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        rest = memoryview("".join(lines).encode())
        with writing(self._path), self._locked(), self._path.open("rb+", buffering=0) as file:
            file.truncate(end := _whole_bytes(file))
            file.seek(end)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except BaseException:
                with suppress(OSError):
                    file.truncate(end)
                raise

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._process_lock:
            try:
                yield
            finally:
                with suppress(OSError):  # Windows, where filelock deletes it itself
                    self._lock_path.unlink()


def _whole_bytes(file: FileIO) -> int:
    """The length of a file up to its last newline."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - BLOCK_BYTES)
        file.seek(start)
        block = file.read(end - start)
        if b"\n" in block:
            return start + block.rindex(b"\n") + 1
        end = start
    return 0
