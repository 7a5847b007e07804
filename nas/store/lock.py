"""Locks: one process at a time writes a folder, or a file.

They are filelock's: on Linux and macOS an flock, which ends with the process; children of a fork
do not hold it. On a network file system without flock, filelock warns and uses a marker file: a
killed process leaves it behind, and processes of two machines may both hold it. A process that asks
in the moment in which another one releases the lock may be refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from nas.errors import UserError, writing

LOCK_FILE = ".lock"
PARTIAL = ".nas-partial"
"""How the names of files end that are renamed when they are whole."""


class HeldError(UserError):
    """Another process holds a lock."""


class Lock:
    """A lock that this process holds."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._file = self._path.stat()

    @property
    def is_there(self) -> bool:
        """Whether the file of the lock is still the one that was locked."""
        try:
            return os.path.samestat(self._path.stat(), self._file)
        except OSError:
            return False

    def require(self) -> None:
        """Raise UserError if somebody deleted the folder around the lock meanwhile."""
        if not self.is_there:
            raise UserError(
                f"{self._path.parent}: was deleted or replaced while this process was writing "
                f"there ({self._path.name} is gone)"
            )


@contextmanager
def hold_lock(path: Path, *, held: str) -> Iterator[Lock]:
    """Hold the lock of a file, which exists meanwhile; a killed process leaves it, unlocked.

    Raises HeldError with the message ``held`` if another process holds the lock; UserError if the
    folder cannot be written, or at the end if it was deleted meanwhile: what was written is lost.
    """
    file_lock = FileLock(path, timeout=0)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file_lock.acquire()
        except Timeout:
            raise HeldError(held) from None
    lock = Lock(path)
    try:
        yield lock
        lock.require()
    finally:
        with suppress(OSError):  # Windows, where filelock deletes it itself; or the folder is gone
            if lock.is_there:  # and not another process's
                path.unlink()
        file_lock.release()


@contextmanager
def hold_folder(path: Path, *, activity: str, option: str) -> Iterator[Lock]:
    """Keep other processes from an activity in a folder; ``option`` names another folder.

    What a killed process had not written to its end is removed.
    """
    held = f"{path}: another process is {activity} there; wait for it or name another {option}"
    with hold_lock(path / LOCK_FILE, held=held) as lock:
        remove_partial(path)
        yield lock


def remove_partial(folder: Path, name: str = "") -> None:
    """Remove files that were being written in a folder, to have names that begin with ``name``."""
    for file in folder.glob(f".{name}*{PARTIAL}"):
        file.unlink(missing_ok=True)


def require_unheld(path: Path, *, activity: str, option: str) -> None:
    """Raise HeldError if another process is at an activity in a folder."""
    if (path / LOCK_FILE).is_file():  # else none is, and nothing needs to be written to see that
        with hold_folder(path, activity=activity, option=option):
            pass
