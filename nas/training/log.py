"""The log of a training: a JSON line per epoch, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch.utils.tensorboard import SummaryWriter

from nas.documents import write_atomically


class Log:
    """Appends epochs; what a killed process wrote beyond ``finished_epochs`` is dropped."""

    def __init__(self, path: Path, curves: Path, *, finished_epochs: int) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._lines = lines[:finished_epochs]
        self._curves = SummaryWriter(str(curves), purge_step=finished_epochs + 1)

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
        self, epoch: int, numbers: dict[str, float], paths: Mapping[str, Mapping[str, float]]
    ) -> None:
        """Record an epoch, which counts from 1.

        Each of the ``numbers`` is a curve. So is the probability of each kind in each slot of
        ``paths``, which stand together in the line: {"paths": {SLOT: {KIND: ..., ...}, ...}}.
        """
        line: dict[str, Any] = {name: float(f"{number:.6g}") for name, number in numbers.items()}
        curves = dict(line)
        if paths:
            line["paths"] = {}
        for slot, chances in paths.items():
            line["paths"][slot] = {kind: round(it, 4) for kind, it in chances.items()}
            curves |= {f"paths/{slot}/{kind}": it for kind, it in chances.items()}
        self._lines.append(json.dumps({"epoch": epoch, **line}))
        write_atomically(self._path, "\n".join(self._lines) + "\n")
        for name, number in curves.items():
            self._curves.add_scalar(name, number, epoch)
        self._curves.flush()
