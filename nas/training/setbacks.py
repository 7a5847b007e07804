"""When a training goes wrong, it goes back to the last good state and on with half the rate.

It has gone wrong when a loss or, after an epoch, a weight is not finite, or when the loss of the
largest subnet, or of a network that is trained alone, has a spike: the median of the last 5 steps
lies above the median of the 32 steps before them by more than 10 standard deviations (1.4826 times
the median absolute deviation) and by more than a quarter of what guessing costs, ln(classes). A
single bad batch is no spike, and neither is noise around a loss that is small already. Losses go
from epoch to epoch, and into checkpoints; after a setback they start empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor, nn

MOST_SETBACKS = 3
"""The fourth ends the training: then the recipe is wrong, not the luck."""
RATE_FACTOR = 0.5
CHECK_STEPS = 100
"""Losses are read that often, and at the end of an epoch: reading makes a GPU wait."""

RECENT_STEPS, EARLIER_STEPS = 5, 32
DEVIATIONS = 10.0
SHARE_OF_GUESSING = 0.25


class SetbackError(Exception):
    """What went wrong, and in which step of the training, from 1."""

    def __init__(self, reason: str, step: int) -> None:
        super().__init__(reason)
        self.reason, self.step = reason, step


class Watch:
    """Collects the losses of steps and judges them in order, whenever they are read.

    So what it finds does not depend on when it looks, and all processes find the same.
    """

    def __init__(self, classes: int, earlier: Sequence[float] = ()) -> None:
        self.losses = list(earlier)
        """In nats, of as many of the last steps as a spike is judged by."""
        self._classes = classes
        self._unread: list[Tensor] = []

    def after(self, earlier: Sequence[float]) -> Watch:
        """One that goes on from the losses of ``earlier`` steps."""
        return Watch(self._classes, earlier)

    def add(self, losses: Tensor, step: int) -> None:
        """Take the losses (L,) of a step, the one that is judged first; read all now and then.

        Raises:
            SetbackError: a step since the last reading went wrong.
        """
        self._unread.append(losses)
        if step % CHECK_STEPS == 0:
            self.read(step)

    def read(self, step: int) -> None:
        """Judge all steps up to ``step``, the last one that was added.

        Raises:
            SetbackError: one of them went wrong.
        """
        if not self._unread:
            return
        first = step - len(self._unread) + 1
        read = torch.stack(self._unread).tolist()
        self._unread.clear()
        for number, losses in enumerate(read, start=first):
            if not all(math.isfinite(loss) for loss in losses):
                raise SetbackError("the loss is not finite", number)
            self.losses = [*self.losses, losses[0]][-(RECENT_STEPS + EARLIER_STEPS) :]
            if is_spike(self.losses, self._classes):
                raise SetbackError(
                    f"the loss rose to {median(self.losses[-RECENT_STEPS:]):.3g}", number
                )


def is_finite(model: nn.Module) -> bool:
    """Whether all weights and statistics are."""
    return bool(torch.stack([it.isfinite().all() for it in model.state_dict().values()]).all())


def is_spike(losses: Sequence[float], classes: int) -> bool:
    """Whether the last losses, in nats, lie far above those before them; see this file's head."""
    if len(losses) < RECENT_STEPS + EARLIER_STEPS:
        return False
    earlier, recent = losses[-RECENT_STEPS - EARLIER_STEPS : -RECENT_STEPS], losses[-RECENT_STEPS:]
    usual = median(earlier)
    deviation = 1.4826 * median(abs(loss - usual) for loss in earlier)  # of a normal distribution
    rise = median(recent) - usual
    return rise > DEVIATIONS * deviation and rise > SHARE_OF_GUESSING * math.log(classes)
