"""Which batches an epoch consists of; with several resolutions, of what size and how many images.

Multi-scale training is MobileViT's (Mehta & Rastegari 2022, arXiv 2110.02178, section 3.2): each
batch has one resolution, and the more images the smaller they are, so that steps cost alike. There
a batch size is that of the largest resolution; here that of the network's own input size, so that
naming resolutions changes neither what ``batch_size`` means nor what a step costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from nas.architecture import Architecture
from nas.errors import UserError
from nas.space import SearchSpace

Resolutions = tuple[Annotated[int, Field(gt=0)], ...]
"""Sides of square images in pixels, smallest first; empty: every network at its own input size."""

STREAM = 3
"""Tells the draws of resolutions from the other draws of an epoch, which have 0 to 2."""


class Batch(NamedTuple):
    """How many images, and of how many pixels a side they are."""

    images: int
    resolution: int


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

    def epoch(self, number: int) -> list[Batch]:
        """The batches of an epoch, from 0."""
        drawn = self._drawn(number)
        return [Batch(self.sizes[it], it) for it in drawn[: self._count(drawn)].tolist()]

    @cached_property
    def first_steps(self) -> tuple[int, ...]:
        """The steps before each epoch, and those of all epochs."""
        drawn = (self._drawn(number) for number in range(self.epochs))
        return (0, *np.cumsum([self._count(it) for it in drawn]).tolist())

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
        taken = np.cumsum([self.sizes[it] for it in drawn.tolist()])
        return max(1, int(np.searchsorted(taken, self.images, side="right")))


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
