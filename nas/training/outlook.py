"""The pace of a training, told in its first seconds: images per second, and when it will end."""

from __future__ import annotations

import time
from dataclasses import dataclass

from nas.progress import duration

SECONDS, STEPS = 4.0, 4
"""Of steps after the first, which allocates memory: at least so many, or a whole epoch."""
SHORT = 10.0
"""Seconds left: what ends sooner needs no word."""
LONG = 3600.0
"""Seconds left, from which on a supernet's training is told what would take less."""


@dataclass
class Outlook:
    """Hears of each step, and knows the pace when it has heard enough, once."""

    _steps: int = -1
    _images: int = 0
    _seconds: float = 0.0
    _is_told: bool = False

    def pace(self, images: int, seconds: float, *, is_last: bool) -> float | None:
        """Images per second, after a step of so many that took so long; else None.

        ``is_last``: whether an evaluation comes next, before which something is to be said.
        """
        if self._is_told:
            return None
        self._steps += 1
        if self._steps > 0:
            self._images, self._seconds = self._images + images, self._seconds + seconds
        if not is_last and (self._seconds < SECONDS or self._steps < STEPS):
            return None
        self._is_told = True
        return self._images / self._seconds if self._images else images / seconds


def outlook_line(rate: float, images: int, epochs: int, now: float) -> str | None:
    """What is left of ``epochs`` of ``images`` at a rate in images/s; None if that is hardly any.

    ``now`` is the time in seconds since 1970.
    """
    left = images * epochs / rate
    if left < SHORT:
        return None
    end = time.localtime(now + left)
    is_today = end.tm_yday == time.localtime(now).tm_yday and left < 24 * 3600
    clock = time.strftime("%H:%M" if is_today else "%Y-%m-%d %H:%M", end)
    return (
        f"{rate:,.0f} images/s: about {duration(left)} for {epochs} epochs of {images:,} images, "
        f"until {clock}"
    )


def advice(rate: float, images: int, epochs: int, spec: str) -> str:
    """What would take less time than a training of hours; empty for shorter ones."""
    if images * epochs / rate < LONG:
        return ""
    most = int(LONG * rate / images)
    fewer = f"--epochs {most} take an hour; " if most else "an epoch takes more than an hour; "
    return (
        f"; {fewer}nas run --data {spec} --minutes 60 plans space, input size and epochs that fit"
    )
