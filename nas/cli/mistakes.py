"""The last net: whatever ends a command becomes one line and an exit code.

A ``UserError`` is a mistake that we have foreseen. Of all other errors only two kinds are certainly
bugs of ours: an assertion of ours that fails, as ``assert`` stands for what cannot happen, and a
name that does not exist. These end in a traceback. Any other may come from the user's files, from
another program or from the machine: it is told in one line that names the place, and ``--debug``
shows its traceback.
"""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from typer import TyperException

from nas.errors import StoppedError, UserError

DEBUG = "--debug"
MISTAKE, INTERRUPTED, CLOSED_PIPE = 2, 130, 141
"""Exit codes; the last two are those of a shell for a process that SIGINT or SIGPIPE ends."""

PACKAGE = Path(__file__).parents[1]

NO_MEMORY = re.compile(
    r"out of memory|not enough memory|(can't|cannot|unable to|failed to) allocate|bad_?alloc|"
    r"malloc of size|killed by signal: Killed",
    re.IGNORECASE,
)
"""How torch, numpy, pyarrow, onnxruntime and the system say so."""

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Ending(NamedTuple):
    """The line that is shown, empty for none, and the exit code."""

    line: str
    code: int


def explain(error: BaseException) -> Ending | None:
    """How a command that raised ``error`` ends; None where that is a bug of ours."""
    if isinstance(error, StoppedError):
        return Ending(str(error), INTERRUPTED)
    if isinstance(error, KeyboardInterrupt):
        return Ending("interrupted; what was written before is kept", INTERRUPTED)
    if isinstance(error, UserError):
        return Ending(str(error), MISTAKE)
    if isinstance(error, TyperException):
        return Ending(_usage(error), MISTAKE)
    if any(isinstance(it, BrokenPipeError) for it in _causes(error)):  # of ``nas show ... | head``
        return Ending("", CLOSED_PIPE)
    if _is_ours(error):
        return None
    if any(_lacks_memory(it) for it in _causes(error)):
        return Ending(
            f"not enough memory ({_first_line(error)}); take less at once, such as a smaller "
            "--batch-size, --batch or --limit, or close other programs",
            MISTAKE,
        )
    if isinstance(error, SystemExit):
        return Ending(f"{_place(error)}: ended the program by sys.exit({error.code!r})", MISTAKE)
    if isinstance(error, OSError) and error.strerror:
        problem = "cannot be written: " if error.errno in NO_SPACE else ""
        where = f"{error.filename}: " if error.filename else ""
        return Ending(f"{where}{problem}{error.strerror}", MISTAKE)
    return Ending(
        f"{_place(error)}: {type(error).__name__}: {_first_line(error)}; nas did not foresee "
        f"this: check what you gave it, and please report it with what {DEBUG} shows",
        MISTAKE,
    )


def _is_ours(error: BaseException) -> bool:
    """Whether the error is certainly a bug of ours, or an exit that we chose."""
    if not isinstance(error, (AssertionError, NameError, SystemExit)):
        return False
    *_, (path, _) = _frames(error.__traceback__)
    return path.is_relative_to(PACKAGE)


def _place(error: BaseException) -> str:
    """The innermost line of ours, or of a block file of the user's, on the way to the error."""
    frames = list(_frames(error.__traceback__))
    libraries = ("site-packages", "dist-packages", Path(traceback.__file__).parent.name)
    own = [it for it in frames if not {*libraries} & {*it[0].parts} and it[0].is_absolute()]
    path, line = (own or frames)[-1]
    shown = path.relative_to(PACKAGE.parent) if path.is_relative_to(PACKAGE) else path
    return f"{shown}:{line}"


def _frames(trace: TracebackType | None) -> Iterator[tuple[Path, int]]:
    yield Path(__file__), 0
    for frame, line in traceback.walk_tb(trace):
        yield Path(frame.f_code.co_filename), line


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _lacks_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and bool(NO_MEMORY.search(str(error)))
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _usage(error: TyperException) -> str:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    message = message.replace(": Value error, ", ": ")  # pydantic's, by which typer checks
    return message if message.startswith("Usage:") else " ".join(message.split())
