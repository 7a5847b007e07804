"""Progress bars on standard error; where that is no terminal, now and then a line."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_SECONDS = 20.0


class Bar:
    """One bar: ``update`` it with what is done, ``say`` lines above it."""

    def __init__(self, title: str, *, quiet: bool = False) -> None:
        self._title, self._quiet = title, quiet
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._progress: Progress | None = None
        if self._console.is_terminal and not quiet:
            self._progress = Progress(
                TextColumn("{task.fields[text]}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._progress.add_task(title, text=title, total=None)
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._progress:
            self._progress.stop()

    def update(self, text: str, done: int, total: int | None = None) -> None:
        """Show ``done`` of ``total`` (unknown if None) with a text before it."""
        if self._progress:
            label = f"{self._title}: {text}" if text else self._title
            self._progress.update(self._task, text=label, completed=done, total=total)
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            of = f" of {total}" if total else ""
            self.say(f"{self._title}: {text} {done}{of}")

    def say(self, line: str) -> None:
        """Print a line that stays."""
        if self._quiet:
            return
        self._last_line = time.monotonic()
        if self._progress:
            self._progress.console.print(line)
        else:
            print(line, file=sys.stderr, flush=True)
