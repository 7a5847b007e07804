"""Which images the networks of one step learn from.

On the same images the gradients of several networks are nearly parallel, those of one network on
different images are not: in a supernet trained on CIFAR-10 their cosines were 0.4 to 0.8, and 0.0
(means of six batches of 50, benchmarks/gradients.py). So a step whose networks all learn from other
images tells the shared weights more, for the same work: after 12 epochs on 10,000 images twelve
subnets inherit 65.1 and 64.1 % of the test images (two seeds; benchmarks/ranking.py), and 61.7 %
where they learn from the same (one). Alone they reach 62.9 %. The teacher has seen the batches of
earlier steps: what it made of them then is kept with them, so that it need not see them again.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from torch import Tensor

SPACING = 20
"""Steps. What others learnt from a moment ago tells a network little; that 20 are best was not
tested."""
MOST_BYTES = 256 * 10**6
"""Of images of one size. The lessons of a step more than there are pupils are kept anyway."""


class Lesson(NamedTuple):
    """Images (N, channels, S, S), labels (N,), and what the teacher made of them (N, classes)."""

    images: Tensor
    labels: Tensor
    target: Tensor


class Lessons:
    """The lessons of an epoch's last steps, which ``pupils`` subnets learn from, each from its own.

    The first learns from that of ``spacing`` steps ago, the second from that of twice as many, and
    so on. While an epoch is young, and where images would take more than ``most_bytes``, steps are
    nearer to each other, evenly. Only images as large as this step's count. A step may have several
    ``parts``, see ``add_in_parts``; each is preceded by its like.
    """

    def __init__(
        self,
        pupils: int,
        *,
        parts: int = 1,
        spacing: int = SPACING,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._shares, self._parts = pupils + 1, parts
        self._spacing, self._most_bytes = spacing, most_bytes
        self._kept: dict[int, deque[Lesson]] = {}
        self._side = 0

    def add(self, lesson: Lesson) -> None:
        """Make it that of this step, or of the part of a step that comes now."""
        self._side = lesson.images.shape[-1]
        kept = self._kept.setdefault(self._side, deque())
        kept.append(lesson)
        room = self._most_bytes // (lesson.images.nbytes * self._parts)
        steps = self._shares * max(1, min(self._spacing, room // self._shares))
        while len(kept) > 1 + steps * self._parts:
            kept.popleft()

    def of(self, pupil: int) -> Lesson:
        """What a subnet, from 1, learns from in this step."""
        kept = self._kept[self._side]
        earlier = (len(kept) - 1) // self._parts
        return kept[-1 - earlier * pupil // self._shares * self._parts]
