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

    @abstractmethod
    def _pixels(self, requests: list[Request]) -> Iterator[Tensor]:
        """One uint8 tensor (B, 3, S, S) per request."""

    def batches(
        self,
        batch_size: int,
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
        ``share`` (i, n) gives every n-th image of each batch, from the i-th on (from 0).
        """
        if augmentation is not None and rng is None:
            raise ValueError("batches: augmentation needs an rng")
        order = np.arange(len(self)) if rng is None else rng.permutation(len(self))
        parts = [
            torch.from_numpy(order[start : start + batch_size])
            for start in range(0, len(order), batch_size)
        ]
        if drop_last and len(parts) > 1 and len(parts[-1]) < batch_size:
            parts.pop()
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
