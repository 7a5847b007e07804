"""The log of a training: a JSON line per epoch and per setback, and curves for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

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

    def append(
        self,
        epoch: int,
        numbers: dict[str, float],
        paths: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
    ) -> None:
        """Record an epoch, which counts from 1.

        Each of the ``numbers`` is a curve. So is the probability of each kind in each slot of
        ``paths``, which stand together in the line: {"paths": {SLOT: {KIND: ..., ...}, ...}}.
        """
        curves = {name: float(f"{number:.6g}") for name, number in numbers.items()}
        entry: dict[str, Any] = {"epoch": epoch, **curves}
        if paths:
            entry["paths"] = {}
        for slot, chances in paths.items():
            entry["paths"][slot] = {kind: round(it, 4) for kind, it in chances.items()}
            curves |= {f"paths/{slot}/{kind}": it for kind, it in chances.items()}
        self._append(entry)
        try:
            self._curves.add(epoch, curves)
        except OSError as error:
            raise self._unwritable(error) from None

    def append_setback(self, number: int, epoch: int, *, reason: str, step: int) -> None:
        """Record that something went wrong for the ``number``-th time, in ``epoch``, from 1."""
        self._append({"setback": number, "epoch": epoch, "step": step, "reason": reason})

    def _append(self, entry: Mapping[str, Any]) -> None:
        self._lines.append(json.dumps(entry))
        write_atomically(self._path, "\n".join(self._lines) + "\n")

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"{self._folder}: cannot be written: {error.strerror}")
