"""How measuring, training and searching report their progress."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives progress; a terminal's bar is one implementation, ``SILENT`` another."""

    def update(self, text: str, done: int, total: int | None = None) -> None:
        """Take what is being done, how much of it is done, and how much there is, if known."""

    def say(self, line: str) -> None:
        """Take a line that the user should keep."""


class _Silent:
    def update(self, text: str, done: int, total: int | None = None) -> None:
        pass

    def say(self, line: str) -> None:
        pass


SILENT: Progress = _Silent()
"""Reports nothing."""


def duration(seconds: float) -> str:
    """``48 s``, ``2 min 10 s`` or ``1 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{max(1, whole)} s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(whole / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
