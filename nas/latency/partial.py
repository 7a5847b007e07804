"""The rows of an unfinished build: appended batch by batch, so that a kill loses one batch only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from nas.documents import Value, read_document, write_json
from nas.errors import UserError
from nas.latency.table import Key, Row, format_rows, parse_rows
from nas.latency.target import Target
from nas.store.lock import Lock


class Purpose(Value):
    """What an unfinished build is for."""

    space: str
    space_sha256: str
    target: Target


class PartialTable:
    """``T.partial.csv`` and ``T.partial.json`` beside the table ``T.csv`` that they will become.

    Entering it as a context takes a lock on them, which ends with the process however that ends.

    Raises:
        UserError: another process is building the same table, or the folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.csv_path = path.with_suffix(".partial.csv")
        self.json_path = path.with_suffix(".partial.json")
        self._lock = Lock(
            path.with_suffix(".partial.lock"),
            held=f"{self.csv_path}: another build is writing it; wait for it or name another --out",
        )

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._lock)
            try:
                self._file = stack.enter_context(self.csv_path.open("ab"))
            except OSError as error:
                raise UserError(f"{self.csv_path}: cannot be written: {error.strerror}") from None
            self._held = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._held:
            if not self.is_started():
                self.remove()

    def is_started(self) -> bool:
        """Whether there is an unfinished build."""
        return self.csv_path.exists() and self.csv_path.stat().st_size > 0

    def start(self, purpose: Purpose, rows: Mapping[Key, Row]) -> None:
        """Begin anew, with rows that are known already."""
        self._file.truncate(0)
        write_json(self.json_path, purpose.model_dump(mode="json"))
        self._write(format_rows(rows, header=True))

    def append(self, rows: Mapping[Key, Row]) -> None:
        """Add rows; they are on disk when this returns."""
        self._write(format_rows(rows, header=False))

    def read(self, purpose: Purpose) -> dict[Key, Row]:
        """The rows so far; a last line that was cut short by a kill is left out.

        Raises:
            UserError: the build was for another target or space.
        """
        found = self._purpose()
        difference = found.target.difference(purpose.target)
        if found.space_sha256 != purpose.space_sha256:
            difference.insert(0, f"space: {found.space} here, {purpose.space} there")
        if difference:
            raise UserError(
                f"{self.csv_path}: is an unfinished build of something else (here: the file, "
                f"there: this build): {'; '.join(difference)}; --force starts afresh"
            )
        content = self.csv_path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        rows = parse_rows(whole, self.csv_path)
        self._file.truncate(len(whole))
        return rows

    def remove(self) -> None:
        """Delete both files."""
        self._file.close()  # on Windows an open file cannot be deleted
        self.json_path.unlink(missing_ok=True)
        self.csv_path.unlink(missing_ok=True)

    def _purpose(self) -> Purpose:
        document = read_document(self.json_path)
        try:
            return Purpose.model_validate(document.data)
        except ValidationError as error:
            raise document.validation_error(error) from None

    def _write(self, text: str) -> None:
        try:
            self._file.write(text.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise UserError(f"{self.csv_path}: cannot be written: {error.strerror}") from None
