"""Images decoded whenever they are needed, for data sets that do not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nas.data.decoding import decode, decode_random_crop
from nas.data.images import Images, Request
from nas.data.rand_augment import rand_augment
from nas.data.sources import Pictures
from nas.errors import UserError


@dataclass(frozen=True, eq=False)
class StreamedImages(Images):
    """The pictures at ``indices``, decoded by ``workers`` processes (0: by this one).

    An augmented image is a random resized crop, distorted if asked for.
    """

    pictures: Pictures
    indices: NDArray[np.int64]
    labels: Tensor
    side: int
    workers: int

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> StreamedImages:
        positions = np.asarray(indices, np.int64)
        labels = self.labels[torch.from_numpy(positions)]
        return StreamedImages(
            self.pictures, self.indices[positions], labels, self.side, self.workers
        )

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
    """Decodes batch by batch. A UserError is returned: raised in a worker it would lose its line.

    Every batch has its own seed, so that the number of workers changes nothing.
    """

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
        if request.augmentation is not None and request.augmentation.distortion is not None:
            generator = torch.Generator().manual_seed(request.seed)
            pixels = rand_augment(pixels, request.augmentation.distortion, generator)
        return pixels

    def _decoded(self, request: Request) -> Iterator[NDArray[np.uint8]]:
        pictures, side = self.images.pictures, self.images.side
        rng = np.random.default_rng(request.seed)
        for index in self.images.indices[request.positions.numpy()].tolist():
            if request.augmentation is None:
                yield decode(pictures, index, side)
            else:
                mirror = request.augmentation.mirror
                yield decode_random_crop(pictures, index, side, rng, mirror=mirror)
