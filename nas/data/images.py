"""Labelled images, served in normalised batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.data.augmentation import Augmentation, augment, normalise
from nas.data.resizing import resize


@dataclass(frozen=True, eq=False)
class Request:
    """One batch: which images, and how they are changed, if at all."""

    positions: Tensor  # (B,) int64
    augmentation: Augmentation | None = None
    seed: int = 0


class Images(ABC):
    """Labelled images of one size."""

    labels: Tensor  # (N,) int64

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> Images:
        """The images at these positions, in this order."""

    def at(self, side: int) -> Images:
        """The same images, resized to ``side`` pixels after they were augmented."""
        return ResizedImages(self.labels, self, side)

    @abstractmethod
    def _pixels(self, requests: list[Request]) -> Iterator[Tensor]:
        """One uint8 tensor (B, 3, S, S) per request."""

    def batches(
        self,
        batch_size: int | Sequence[int],
        *,
        rng: np.random.Generator | None = None,
        augmentation: Augmentation | None = None,
        drop_last: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of normalised float32 images (B, 3, S, S) and int64 labels (B,).

        With ``rng`` they are shuffled, and augmented if asked for; the generator's state decides
        both, and has moved by the same amount however many batches are taken. Without it they come
        in order. ``drop_last`` drops a last batch that is not full, unless it is the only one.
        A sequence in place of ``batch_size`` holds the size of each batch; images beyond are left.
        ``share`` (i, n) gives every n-th image of each batch, from the i-th on (from 0).
        """
        if augmentation is not None and rng is None:
            raise ValueError("batches: augmentation needs an rng")
        order = np.arange(len(self)) if rng is None else rng.permutation(len(self))
        sizes = batch_size
        if isinstance(sizes, int):
            full, rest = divmod(len(order), sizes)
            keeps_rest = rest > 0 and not (drop_last and full)
            sizes = [sizes] * full + [rest] * keeps_rest
        *parts, _ = map(torch.from_numpy, np.split(order, np.cumsum(sizes, dtype=int)))
        first, step = share
        requests = [Request(part[first::step]) for part in parts]
        if rng is not None and augmentation is not None:
            seeds = rng.integers(2**63, size=(len(parts), step))[:, first].tolist()
            requests = [
                Request(part[first::step], augmentation, seed)
                for part, seed in zip(parts, seeds, strict=True)
            ]
        return self._serve(requests)

    def _serve(self, requests: list[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        for request, pixels in zip(requests, self._pixels(requests), strict=True):
            yield normalise(pixels), self.labels[request.positions]


@dataclass(frozen=True, eq=False)
class MemoryImages(Images):
    """Decoded images, (N, 3, S, S) uint8."""

    pixels: Tensor
    labels: Tensor

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> MemoryImages:
        positions = torch.as_tensor(np.asarray(indices, np.int64))
        return MemoryImages(self.pixels[positions], self.labels[positions])

    def _pixels(self, requests: list[Request]) -> Iterator[Tensor]:
        for request in requests:
            pixels = self.pixels[request.positions]
            if request.augmentation is not None:
                generator = torch.Generator().manual_seed(request.seed)
                pixels = augment(pixels, request.augmentation, generator)
            yield pixels


@dataclass(frozen=True, eq=False)
class ResizedImages(Images):
    """Images that are resized as they are served."""

    labels: Tensor
    images: Images
    side: int

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> Images:
        return self.images.subset(indices).at(self.side)

    def _pixels(self, requests: list[Request]) -> Iterator[Tensor]:
        return self.images._pixels(requests)

    def _serve(self, requests: list[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.images._serve(requests):
            yield resize(images, self.side), labels
