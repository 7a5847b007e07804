"""A file that one process holds at a time: two of them never write the same results."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from nas.errors import UserError

if sys.platform == "win32":
    import msvcrt

    def _take(file: IO[bytes]) -> None:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:  # what Windows says of a byte that another process holds
            raise BlockingIOError(str(error)) from None

else:
    import fcntl

    def _take(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Lock:
    """Entering it as a context takes the lock, which ends with the process however that ends.

    ``path`` is an empty file that exists while the lock is held; a killed process leaves it behind,
    unlocked. ``held`` is the message when another process holds it.

    Raises:
        UserError: another process holds it, or the folder cannot be written.
    """

    def __init__(self, path: Path, *, held: str) -> None:
        self._path, self._held = path, held

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _open_locked(self._path)
        except BlockingIOError:
            raise UserError(self._held) from None
        except OSError as error:
            raise UserError(f"{self._path}: cannot be written: {error.strerror}") from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if sys.platform == "win32":  # where an open file cannot be deleted
            self._file.close()
        try:
            self._path.unlink(missing_ok=True)
        except OSError:  # Windows: the next process has opened it; elsewhere the folder is gone
            pass
        finally:
            self._file.close()


def _open_locked(path: Path) -> IO[bytes]:
    file = path.open("ab")
    try:
        _take(file)
        # The process before deletes the file when it is done: the lock must be on the one in place.
        in_place = path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except BaseException:
        file.close()
        raise
    if not in_place:
        file.close()
        return _open_locked(path)
    if hasattr(os, "register_at_fork"):
        # Children that load images must not hold the lock of a parent that was killed.
        os.register_at_fork(after_in_child=file.close)
    return file
