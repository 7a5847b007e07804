"""Labelled images, served in normalised batches: from memory, or decoded on demand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset

from nas.data.augmentation import Augmentation, augment, normalise, rand_augment
from nas.data.sources import Pictures, decode, decode_random_crop
from nas.errors import UserError
from nas.preprocessing import IMAGENET, Preprocessing

Positions = Sequence[int] | NDArray[np.int64]


class Request(NamedTuple):
    """One batch: which images, and how they are changed, if at all."""

    positions: Tensor  # (B,) int64
    augmentation: Augmentation | None
    seed: int


class Images(ABC):
    """Labelled images of one size, served as ``preprocessing`` says but for its crop."""

    labels: Tensor  # (N,) int64
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def subset(self, indices: Positions) -> Images:
        """The images at these positions, in this order."""

    def at(self, side: int) -> Images:
        """The same images, resized to ``side`` pixels after they were augmented."""
        return ResizedImages(self.labels, self.preprocessing, self, side)

    @abstractmethod
    def seen_as(self, preprocessing: Preprocessing) -> Images:
        """The same images for another network's mean and deviation."""

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

        ``rng`` shuffles and augments; it advances by the same amount however many batches are
        taken. A sequence as ``batch_size`` holds the size of each batch; further images are left
        out. ``drop_last`` drops a last batch that is not full, unless it is the only one.
        ``share`` (i, n) takes every n-th image of each batch, from the i-th on (from 0).
        """
        if augmentation is not None and rng is None:
            raise ValueError("batches: augmentation needs an rng")
        order = np.arange(len(self)) if rng is None else rng.permutation(len(self))
        sizes = batch_size
        if isinstance(sizes, int):
            full, rest = divmod(len(order), sizes)
            sizes = [sizes] * full + [rest] * (rest > 0 and not (drop_last and full))
        *parts, _ = map(torch.from_numpy, np.split(order, np.cumsum(sizes, dtype=int)))
        first, step = share
        seeds = [0] * len(parts)
        if rng is not None and augmentation is not None:
            seeds = rng.integers(2**63, size=(len(parts), step))[:, first].tolist()
        return self._serve(
            [
                Request(part[first::step], augmentation, seed)
                for part, seed in zip(parts, seeds, strict=True)
            ]
        )

    def _serve(self, requests: list[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        for request, pixels in zip(requests, self._pixels(requests), strict=True):
            yield normalise(pixels, self.preprocessing), self.labels[request.positions]


@dataclass(frozen=True, eq=False)
class MemoryImages(Images):
    """Decoded images, (N, 3, S, S) uint8."""

    pixels: Tensor
    labels: Tensor
    preprocessing: Preprocessing = IMAGENET

    def subset(self, indices: Positions) -> MemoryImages:
        positions = torch.as_tensor(np.asarray(indices, np.int64))
        return replace(self, pixels=self.pixels[positions], labels=self.labels[positions])

    def seen_as(self, preprocessing: Preprocessing) -> MemoryImages:
        return replace(self, preprocessing=preprocessing)

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
    preprocessing: Preprocessing
    images: Images
    side: int

    def subset(self, indices: Positions) -> Images:
        return self.images.subset(indices).at(self.side)

    def seen_as(self, preprocessing: Preprocessing) -> Images:
        return self.images.seen_as(preprocessing).at(self.side)

    def _pixels(self, requests: list[Request]) -> Iterator[Tensor]:
        return self.images._pixels(requests)

    def _serve(self, requests: list[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.images._serve(requests):
            yield resize(images, self.side), labels


@dataclass(frozen=True, eq=False)
class StreamedImages(Images):
    """The pictures at ``indices``, decoded by ``workers`` processes (0: by this one).

    ``preprocessing`` decides the part of a picture that is evaluated; training draws its own.
    """

    pictures: Pictures
    indices: NDArray[np.int64]
    labels: Tensor
    side: int
    workers: int
    preprocessing: Preprocessing = IMAGENET

    def subset(self, indices: Positions) -> StreamedImages:
        positions = np.asarray(indices, np.int64)
        labels = self.labels[torch.from_numpy(positions)]
        return replace(self, indices=self.indices[positions], labels=labels)

    def seen_as(self, preprocessing: Preprocessing) -> StreamedImages:
        return replace(self, preprocessing=preprocessing)

    def _pixels(self, requests: list[Request]) -> Iterator[Tensor]:
        loader = DataLoader(
            _Batches(self, requests),
            batch_size=None,  # an item is a batch already
            num_workers=max(0, min(self.workers, len(requests) - 1)),
            generator=torch.Generator(),  # without it, it would draw from the global generator
        )
        for pixels in loader:
            if isinstance(pixels, UserError):
                raise pixels
            yield pixels


@dataclass(frozen=True, eq=False)
class _Batches(Dataset[Tensor | UserError]):
    """Decodes batch by batch; a UserError, which would lose its line if raised, is returned."""

    images: StreamedImages
    requests: list[Request]

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, number: int) -> Tensor | UserError:
        request = self.requests[number]
        try:
            pixels = torch.from_numpy(np.stack(list(self._decoded(request))))
        except UserError as error:
            return error
        if request.augmentation is None or request.augmentation.distortion is None:
            return pixels
        generator = torch.Generator().manual_seed(request.seed)
        return rand_augment(pixels, request.augmentation.distortion, generator)

    def _decoded(self, request: Request) -> Iterator[NDArray[np.uint8]]:
        pictures, side, augmentation = self.images.pictures, self.images.side, request.augmentation
        rng, seen = np.random.default_rng(request.seed), self.images.preprocessing
        for index in self.images.indices[request.positions.numpy()].tolist():
            if augmentation is None:
                yield decode(pictures, index, side, seen)
            else:
                mirror = augmentation.mirror
                yield decode_random_crop(pictures, index, side, rng, mirror=mirror, seen=seen)


def resize(images: Tensor, side: int) -> Tensor:
    """Images (N, 3, S, S) as (N, 3, side, side), by antialiased bicubic interpolation."""
    if images.shape[2:] == (side, side):
        return images
    return interpolate(images, (side, side), mode="bicubic", antialias=True)
