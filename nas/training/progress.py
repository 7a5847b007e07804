"""What a training tells while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where a training stands.

    ``epoch`` is the one under way, from 1; ``step`` counts the steps done since the first epoch.
    ``losses`` are means over the epoch so far. ``accuracies`` of the ``smallest``, a ``middle`` and
    the ``largest`` subnet are those after the last finished epoch; empty before.
    """

    epoch: int
    epochs: int
    step: int
    total_steps: int
    images_per_second: float
    remaining_seconds: float
    losses: Mapping[str, float]
    accuracies: Mapping[str, float]


Report = Callable[[Progress], None]


class Pace:
    """Time left, from the steps done since it was made; evaluations between them count."""

    def __init__(self, first_step: int, total_steps: int) -> None:
        self._first_step, self._total_steps = first_step, total_steps
        self._started = time.monotonic()

    def remaining_seconds(self, step: int) -> float:
        """Seconds until the last step, after ``step`` steps."""
        elapsed = time.monotonic() - self._started
        return elapsed / (step - self._first_step) * (self._total_steps - step)
