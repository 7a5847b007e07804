"""Images at another size, by antialiased interpolation on the device where they are."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate


def resize(images: Tensor, side: int) -> Tensor:
    """Images (N, 3, S, S) as (N, 3, side, side); the very same ones where that is their size.

    Bicubic, as pictures are decoded.
    """
    if images.shape[2:] == (side, side):
        return images
    return interpolate(images, (side, side), mode="bicubic", antialias=True)
