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
