"""An append-only file of JSON lines, from which work that was stopped goes on.

The last field of each line, ``check``, is the checksum of the line without it. Journals of earlier
versions have none: their lines are only held to the bounds of their fields, and counted.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from pydantic import TypeAdapter, ValidationError

from nas.documents import Value
from nas.errors import UserError, writing

Line = TypeVar("Line", bound=Value)
Header = TypeVar("Header", bound=Value)
SEAL = re.compile(rb', "check": "([0-9a-f]{8})"}\n\Z')
"""The end of a line with a checksum."""


class Words(str):
    """Annotates a header's field that users do not know, such as a hash, with words for it."""

    __slots__ = ()


class Journal(Generic[Line]):
    """Reads the ``lines`` of a file and appends to them; a context that closes the file.

    The ``header``, its first line, identifies the work that the lines record; in messages the
    ``noun`` is that work, such as "a search", and the ``remedy`` says what to do about a file that
    does not fit. Without ``resume`` the file is replaced. A last line that a kill or a full disk
    cut short is dropped, as are the first line that is not to ``keep`` and all after it. Of the
    lines that are read, so many are ``unchecked``: they have no checksum. Two processes would
    destroy each other's lines, so whoever opens a journal holds a lock.

    Raises UserError if the file is damaged, has another header, is a link, or cannot be written;
    ``append`` also if it was deleted or replaced.
    """

    def __init__(
        self,
        path: Path,
        kind: TypeAdapter[Line],
        *,
        noun: str,
        remedy: str,
        header: Value | None = None,
        resume: bool = True,
        keep: Callable[[Line], bool] = lambda line: True,
    ) -> None:
        self.path, self.lines, self.unchecked = path, list[Line](), 0
        self._kind, self._noun, self._remedy = kind, noun, remedy
        if path.is_symlink():
            if resume:
                raise UserError(f"{path}: is a link, through which nothing is written; {remedy}")
            path.unlink()
        kept = self._read(header, keep) if resume and path.exists() else 0
        with writing(path):
            self._file = path.open("ab", buffering=0)  # nothing is left to write when it is closed
            self._file.truncate(kept)
        if header is not None and not kept:
            self._write(header)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def append(self, *lines: Line) -> None:
        """Add lines, which are on disk when it returns; raises UserError if the disk is full."""
        self._write(*lines)
        self.lines.extend(lines)

    @property
    def remark(self) -> str | None:
        """What a user should know about the lines that were read."""
        if not self.unchecked:
            return None
        return (
            f"{self.path}: {self.unchecked} of its lines are of a version that wrote no checksums; "
            "they are taken as they are"
        )

    def _read(self, header: Value | None, keep: Callable[[Line], bool]) -> int:
        """Read the lines; returns the length in bytes of those that are kept."""
        kept = 0
        for number, (text, body) in enumerate(_whole_lines(self.path, self._remedy), start=1):
            try:
                if header is not None and number == 1:
                    self._require_same(type(header).model_validate_json(body), header)
                else:
                    line = self._kind.validate_json(body)
                    if not keep(line):
                        break
                    self.lines.append(line)
                    self.unchecked += body is text
            except ValidationError:
                raise _no_line(self.path, number, self._noun, self._remedy) from None
            kept += len(text)
        return kept

    def _require_same(self, was: Value, now: Value) -> None:
        for name, field in type(now).model_fields.items():
            before, given = getattr(was, name), getattr(now, name)
            if before == given:
                continue
            if isinstance(before, Value):
                self._require_same(before, given)
            words = next((it for it in field.metadata if isinstance(it, Words)), None)
            difference = f"was started with {name} {_text(before)}, got {_text(given)}"
            if words:
                difference = f"is of {self._noun} with {words}"
            raise UserError(f"{self.path}: {difference}; {self._remedy}")

    def _write(self, *lines: Value) -> None:
        self._require_there()
        rest = memoryview(b"".join(map(_sealed, lines)))
        with writing(self.path):
            end = self._file.seek(0, os.SEEK_END)
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
                os.fsync(self._file.fileno())
            except BaseException:
                with suppress(OSError):  # else what is written next would follow half a line
                    self._file.truncate(end)
                raise

    def _require_there(self) -> None:
        """Raise UserError if the open file is no longer the one at the path."""
        try:
            is_there = os.path.samestat(os.fstat(self._file.fileno()), self.path.lstat())
        except OSError:
            is_there = False
        if not is_there:
            raise UserError(
                f"{self.path}: was deleted or replaced while {self._noun} was under way"
            )


def read_lines(path: Path, kind: TypeAdapter[Line], *, noun: str, remedy: str) -> list[Line]:
    """The lines of a journal without a header, which another process may be writing.

    Raises UserError as ``Journal`` does.
    """
    lines = []
    for number, (_, body) in enumerate(_whole_lines(path, remedy), start=1):
        try:
            lines.append(kind.validate_json(body))
        except ValidationError:
            raise _no_line(path, number, noun, remedy) from None
    return lines


def first_line(path: Path, kind: type[Header], *, noun: str, remedy: str) -> Header:
    """The header of a journal; raises UserError if it is damaged or not there."""
    try:
        _, body = next(_whole_lines(path, remedy))
        return kind.model_validate_json(body)
    except (StopIteration, ValidationError):
        raise _no_line(path, 1, noun, remedy) from None


def _whole_lines(path: Path, remedy: str) -> Iterator[tuple[bytes, bytes]]:
    """Each line of a file up to its newline, and the line without its checksum, if it has one.

    Raises UserError at a line that is not what was written, or that lacks the checksum that a line
    before it had.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    is_checked = False
    for number, text in enumerate(content.split(b"\n")[:-1], start=1):
        line = text + b"\n"
        seal = SEAL.search(line)
        body = line[: seal.start()] + b"}" if seal else line
        if (seal and _checksum(body) != seal[1]) or (is_checked and not seal):
            raise UserError(f"{path}:{number}: is damaged: is not what was written; {remedy}")
        is_checked = seal is not None
        yield line, body


def _sealed(line: Value) -> bytes:
    """The line as JSON with its checksum."""
    body = json.dumps(line.model_dump(mode="json")).encode()
    return body[:-1] + b', "check": "' + _checksum(body) + b'"}\n'


def _checksum(body: bytes) -> bytes:
    return f"{zlib.crc32(body):08x}".encode()


def _no_line(path: Path, number: int, noun: str, remedy: str) -> UserError:
    return UserError(f"{path}:{number}: is no line of {noun}; {remedy}")


def _text(value: object) -> str:
    if isinstance(value, str | int | float):
        return str(value)
    return json.dumps(TypeAdapter(Any).dump_python(value, mode="json"))
