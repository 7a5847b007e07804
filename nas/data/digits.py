"""The 1797 handwritten digits of 8x8 pixels that scikit-learn carries: data without a download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nas.data.sources import Pictures, Source


@dataclass(frozen=True, eq=False)
class DigitPictures(Pictures):
    """Grey digits, (N, 8, 8) uint8."""

    grey: NDArray[np.uint8]
    labels: NDArray[np.int64]
    # Bicubic would overshoot at every stroke: the digits are enlarged eight times and more.
    resampling: ClassVar[Image.Resampling] = Image.Resampling.BILINEAR

    def open(self, index: int) -> Image.Image:
        return Image.fromarray(self.grey[index])

    def place(self, index: int) -> str:
        return f"digits: image {index}"


def digits() -> Source:
    """The digits 0 to 9, 174 to 183 of each; mirrored they would be no digits."""
    from sklearn.datasets import load_digits  # heavy, and only this source needs it

    bunch = load_digits()
    grey = np.round(bunch.images * (255 / 16)).astype(np.uint8)  # from 0..16
    pictures = DigitPictures(grey, bunch.target.astype(np.int64))
    classes = tuple(str(name) for name in bunch.target_names)
    return Source("digits", classes, pictures, test=None, mirror=False)
