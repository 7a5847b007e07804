"""The log of a training: a JSON line per epoch and per setback, and curves for TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Self

from nas.documents import write_atomically
from nas.errors import UserError
from nas.training.curves import Curves


class Log:
    """Appends to the log of ``finished_epochs`` epochs and ``setbacks`` setbacks.

    What a killed process wrote beyond them is dropped.

    Raises:
        UserError: it cannot be written, or the log that is there is damaged.
    """

    def __init__(
        self, path: Path, curves: Path, *, finished_epochs: int, setbacks: int = 0
    ) -> None:
        self._path, self._folder = path, curves
        self._lines: list[str] = []
        lines = path.read_text().splitlines() if path.exists() else []
        for number, line in enumerate(lines, start=1):
            try:
                entry = json.loads(line)
                is_kept = (
                    entry["setback"] <= setbacks
                    if "setback" in entry
                    else entry["epoch"] <= finished_epochs
                )
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path}:{number}: is damaged; delete that line") from None
            if is_kept:
                self._lines.append(line)
        try:
            self._curves = Curves(curves, first_epoch=finished_epochs + 1)
        except OSError as error:
            raise self._unwritable(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._curves.close()

    def append(self, epoch: int, numbers: dict[str, float]) -> None:
        """Record the numbers of an epoch, which counts from 1; each name is a curve."""
        rounded = {name: float(f"{number:.6g}") for name, number in numbers.items()}
        self._append({"epoch": epoch, **rounded})
        try:
            self._curves.add(epoch, rounded)
        except OSError as error:
            raise self._unwritable(error) from None

    def append_setback(self, number: int, epoch: int, *, reason: str, step: int) -> None:
        """Record that something went wrong for the ``number``-th time, in ``epoch``, from 1."""
        self._append({"setback": number, "epoch": epoch, "step": step, "reason": reason})

    def _append(self, entry: dict[str, float | str]) -> None:
        self._lines.append(json.dumps(entry))
        write_atomically(self._path, "\n".join(self._lines) + "\n")

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"{self._folder}: cannot be written: {error.strerror}")
