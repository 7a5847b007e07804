"""The batches of a training: what an epoch consists of, and what the networks of a step learn from.

Multi-scale training is MobileViT's (Mehta & Rastegari 2022, arXiv 2110.02178, section 3.2): each
batch has one resolution, and the more images the smaller they are, so that steps cost alike.
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

    from nas.training.relative import Anchors

STREAM = 3  # tells the draws of resolutions from the other draws of an epoch, which have 0 to 2
SPACING = 20  # steps from one network's batch to the next one's; others were not tested
MOST_BYTES = 256 * 10**6  # of kept images of one size; each network's batch is kept anyway


class PlannedBatch(NamedTuple):
    """The number of images of a batch, and their side in pixels."""

    size: int
    resolution: int


class Batch(NamedTuple):
    """Images (N, 3, S, S), labels (N,): part of a step's ``size`` images, over all processes."""

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
        pairs = zip(self.images.tensor_split(parts), self.labels.tensor_split(parts), strict=True)
        return [self._replace(images=images, labels=labels) for images, labels in pairs]


@dataclass(frozen=True)
class BatchPlan:
    """The batches of a training of ``epochs`` epochs of ``images`` images, without partial ones.

    A batch of ``input_size`` pixels holds ``batch_size`` images, one of another resolution as many
    as have the same area together. Resolutions are drawn from (seed, epoch).
    """

    images: int
    batch_size: int
    input_size: int
    resolutions: Resolutions
    epochs: int
    seed: int

    @cached_property
    def sizes(self) -> dict[int, int]:
        """The images of a full batch of each resolution; two or more, as norms need."""
        return {
            side: min(self.images, max(2, round(self.batch_size * (self.input_size / side) ** 2)))
            for side in self.resolutions or (self.input_size,)
        }

    def epoch(self, number: int) -> list[PlannedBatch]:
        """The batches of an epoch, from 0: as many of those drawn as there are images for."""
        rng = np.random.default_rng((self.seed, number, STREAM))
        drawn = rng.choice(list(self.sizes), max(1, self.images // min(self.sizes.values())))
        batches = [PlannedBatch(self.sizes[side], side) for side in drawn.tolist()]
        taken = np.cumsum([batch.size for batch in batches])
        return batches[: max(1, int(np.searchsorted(taken, self.images, side="right")))]

    @cached_property
    def first_steps(self) -> tuple[int, ...]:
        """The steps before each epoch, and those of all epochs."""
        counts = [len(self.epoch(number)) for number in range(self.epochs)]
        return (0, *np.cumsum(counts).tolist())

    @property
    def total_steps(self) -> int:
        return self.first_steps[-1]


class TaughtBatch(NamedTuple):
    """Images (N, 3, S, S), labels (N,), and the teacher's outputs (N, classes) of a part.

    ``anchors`` is what norms of the largest network saw, in a supernet that is anchored.
    """

    images: Tensor
    labels: Tensor
    target: Tensor
    anchors: Anchors | None = None


class BatchHistory:
    """The batches of an epoch's last steps, from which ``students`` learn, each from another one.

    Gradients on the same images are nearly parallel, see benchmarks/README.md. The n-th student
    learns from n times ``spacing`` steps ago; from evenly nearer ones while an epoch is young, or
    for ``most_bytes``. Only this step's resolution counts, and of ``parts`` the same part.
    """

    def __init__(
        self, students: int, *, parts: int = 1, spacing: int = SPACING, most_bytes: int = MOST_BYTES
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
    """The largest side that any network sees; UserError if the resolutions do not suit them all."""
    if isinstance(trained, SearchSpace):
        own = trained.input_sizes
        trained.require_input_sizes(resolutions)
    else:
        own = (trained.input_size,)
        for pixels in resolutions:
            trained.with_input_size(pixels)
    if not resolutions:
        return own[-1]
    missing = [str(size) for size in own if size not in resolutions]
    if missing:
        raise UserError(
            f"resolutions: must contain the input size of '{trained.name}', {', '.join(missing)}, "
            f"got {', '.join(map(str, resolutions))}"
        )
    return max(resolutions)
