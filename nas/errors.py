"""The exception for users' mistakes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """A mistake that the user can correct; the command line prints one line and exits with 2.

    The message says where the mistake is, the rule, the value, and the remedy if there is one.
    """


class StoppedError(UserError):
    """Ctrl-C stopped the work; the message says what is kept and how to go on."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError of the block, such as a full disk, into a UserError about ``path``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
