"""The batches of a training: what an epoch consists of, and what the networks of a step learn from.

Multi-scale training is MobileViT's (Mehta & Rastegari 2022, arXiv 2110.02178, section 3.2): each
batch has one resolution, and the more images the smaller they are, so that steps cost alike. There
a batch size is that of the largest resolution; here that of the network's own input size, so that
naming resolutions changes neither what ``batch_size`` means nor what a step costs.

The gradients of several networks on the same images are nearly parallel, those of one network on
different images are not, see benchmarks/README.md. So each network of a supernet's step learns from
other images. The teacher has seen the batches of earlier steps: its outputs are kept with them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nas.architecture import Architecture
from nas.errors import UserError
from nas.space import SearchSpace
from nas.training.settings import Resolutions

if TYPE_CHECKING:
    from torch import Tensor

STREAM = 3
"""Tells the draws of resolutions from the other draws of an epoch, which have 0 to 2."""
SPACING = 20
"""Steps from one network's batch to the next one's; that 20 are best was not tested."""
MOST_BYTES = 256 * 10**6
"""Of kept images of one size; one batch for each network of a step is kept anyway."""


class PlannedBatch(NamedTuple):
    """The number of images of a batch, and their side in pixels."""

    size: int
    resolution: int


class Batch(NamedTuple):
    """Images (N, 3, S, S) and labels (N,) of a step: its whole batch, or a part of it.

    ``size`` is the number of images of the whole batch, over all parts and processes.
    ``resolution`` is the side at which networks without an input size of their own see them.
    """

    images: Tensor
    labels: Tensor
    size: int
    resolution: int

    @property
    def weight(self) -> float:
        """The share of the whole batch."""
        return len(self.labels) / self.size

    def split(self, parts: int) -> list[Batch]:
        """Parts that differ by one image at most."""
        images, labels = self.images.tensor_split(parts), self.labels.tensor_split(parts)
        return [
            self._replace(images=some, labels=theirs)
            for some, theirs in zip(images, labels, strict=True)
        ]


@dataclass(frozen=True)
class BatchPlan:
    """The batches of a training of ``epochs`` epochs of ``images`` images.

    A batch of ``input_size`` pixels holds ``batch_size`` images, one of another resolution as many
    as have the same area together. Each resolution is drawn from (seed, epoch, step), so that all
    processes and a resumed training draw alike. An epoch takes each image once, but for those of a
    last batch that would not be full, as without resolutions; so epochs differ in their steps, and
    the learning rate follows the steps of all of them.
    """

    images: int
    batch_size: int
    input_size: int
    resolutions: Resolutions
    epochs: int
    seed: int

    @cached_property
    def sizes(self) -> dict[int, int]:
        """The images of a full batch of each resolution."""
        return {
            resolution: min(
                self.images, max(2, round(self.batch_size * (self.input_size / resolution) ** 2))
            )  # a norm needs two
            for resolution in self.resolutions or (self.input_size,)
        }

    def epoch(self, number: int) -> list[PlannedBatch]:
        """The batches of an epoch, from 0."""
        drawn = self._drawn(number)
        taken = drawn[: self._count(drawn)].tolist()
        return [PlannedBatch(self.sizes[resolution], resolution) for resolution in taken]

    @cached_property
    def first_steps(self) -> tuple[int, ...]:
        """The steps before each epoch, and those of all epochs."""
        counts = [self._count(self._drawn(number)) for number in range(self.epochs)]
        return (0, *np.cumsum(counts).tolist())

    @property
    def total_steps(self) -> int:
        """The steps of all epochs."""
        return self.first_steps[-1]

    def _drawn(self, epoch: int) -> np.ndarray:
        """A resolution for each step that an epoch may have."""
        resolutions = np.array(list(self.sizes))
        most = max(1, self.images // min(self.sizes.values()))
        if len(resolutions) == 1:
            return resolutions.repeat(most)
        return np.random.default_rng((self.seed, epoch, STREAM)).choice(resolutions, most)

    def _count(self, drawn: np.ndarray) -> int:
        """How many of these batches there are images for."""
        taken = np.cumsum([self.sizes[resolution] for resolution in drawn.tolist()])
        return max(1, int(np.searchsorted(taken, self.images, side="right")))


class TaughtBatch(NamedTuple):
    """Images (N, 3, S, S), labels (N,), and the teacher's outputs (N, classes) of a part."""

    images: Tensor
    labels: Tensor
    target: Tensor


class BatchHistory:
    """The batches of an epoch's last steps, from which ``students`` learn, each from another one.

    The first student learns from the batch of ``spacing`` steps ago, the second from that of twice
    as many, and so on. While an epoch is young, and where images would take more than
    ``most_bytes``, steps are nearer to each other, evenly. Only images as large as this step's
    count. A step may have several ``parts``; each is preceded by its like.
    """

    def __init__(
        self,
        students: int,
        *,
        parts: int = 1,
        spacing: int = SPACING,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._shares, self._parts = students + 1, parts
        self._spacing, self._most_bytes = spacing, most_bytes
        self._kept: dict[int, deque[TaughtBatch]] = {}
        self._side = 0

    def add(self, batch: TaughtBatch) -> None:
        """Keep the batch of this step, or of the part of a step that comes now."""
        self._side = batch.images.shape[-1]
        kept = self._kept.setdefault(self._side, deque())
        kept.append(batch)
        room = self._most_bytes // (batch.images.nbytes * self._parts)
        steps = self._shares * max(1, min(self._spacing, room // self._shares))
        while len(kept) > 1 + steps * self._parts:
            kept.popleft()

    def batch_of(self, student: int) -> TaughtBatch:
        """The batch from which a student, from 1, learns in this step."""
        kept = self._kept[self._side]
        earlier = (len(kept) - 1) // self._parts
        return kept[-1 - earlier * student // self._shares * self._parts]


def reading_size(trained: SearchSpace | Architecture, resolutions: Sequence[int]) -> int:
    """The side at which images are read for a training: the largest that any network sees.

    Raises:
        UserError: the strides do not divide a resolution, or an own input size is not among them.
    """
    own = trained.input_sizes if isinstance(trained, SearchSpace) else (trained.input_size,)
    if not resolutions:
        return own[-1]
    if isinstance(trained, SearchSpace):
        trained.require_input_sizes(resolutions)
    else:
        for pixels in resolutions:
            trained.with_input_size(pixels)
    missing = [str(size) for size in own if size not in resolutions]
    if missing:
        raise UserError(
            f"resolutions: must contain the input size of '{trained.name}', {', '.join(missing)}, "
            f"got {', '.join(map(str, resolutions))}"
        )
    return max(resolutions)
