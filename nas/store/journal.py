"""An append-only file of JSON lines, from which work that was stopped goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from pydantic import TypeAdapter, ValidationError

from nas.documents import Value
from nas.errors import UserError, writing

Line = TypeVar("Line", bound=Value)


class Words(str):
    """Annotates a header's field that users do not know, such as a hash, with words for it."""

    __slots__ = ()


class Journal(Generic[Line]):
    """Reads the ``lines`` of a file and appends to them; a context that closes the file.

    The ``header``, its first line, identifies the work that the lines record; in messages the
    ``noun`` is that work, such as "a search", and the ``remedy`` says what to do about a file that
    does not fit. Without ``resume`` the file is replaced. A last line that a kill or a full disk
    cut short is dropped, as are the first line that is not to ``keep`` and all after it.

    Raises UserError if the file is damaged, has another header, or cannot be written.
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
        self.path, self.lines = path, list[Line]()
        self._kind, self._noun, self._remedy = kind, noun, remedy
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

    def _read(self, header: Value | None, keep: Callable[[Line], bool]) -> int:
        """Read the lines; returns the length in bytes of those that are kept."""
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror}") from None
        kept = 0
        for number, text in enumerate(content.splitlines(keepends=True), start=1):
            if not text.endswith(b"\n"):
                break
            try:
                if header is not None and number == 1:
                    self._require_same(type(header).model_validate_json(text), header)
                else:
                    line = self._kind.validate_json(text)
                    if not keep(line):
                        break
                    self.lines.append(line)
            except ValidationError:
                raise UserError(
                    f"{self.path}:{number}: is no line of {self._noun}; {self._remedy}"
                ) from None
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
        text = "".join(json.dumps(line.model_dump(mode="json")) + "\n" for line in lines)
        rest = memoryview(text.encode())
        with writing(self.path):
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())


def _text(value: object) -> str:
    if isinstance(value, str | int | float):
        return str(value)
    return json.dumps(TypeAdapter(Any).dump_python(value, mode="json"))
