"""From an encoded picture to square RGB pixels."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from nas.data.sources import Pictures
from nas.errors import UserError
from nas.machine import usable_cores

# What Pillow raises for broken files depends on their format.
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
# Area and aspect ratio of a random resized crop, from Szegedy et al. 2015, section 6.
CROP_AREA = (0.08, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10

Box = tuple[float, float, float, float]  # left, top, right, bottom


def decode(pictures: Pictures, index: int, side: int) -> NDArray[np.uint8]:
    """The picture's central square at ``side`` pixels, (3, side, side)."""
    try:
        with pictures.open(index) as file:
            # JPEG can be decoded at 1/2, 1/4 or 1/8: a photo of 12 megapixels in 16 ms, not 115.
            file.draft("RGB", (2 * side, 2 * side))
            image = _rgb(file)
    except UNREADABLE as error:
        raise _unreadable(pictures, index, error) from None
    return _pixels(image, side, _central_square(*image.size), pictures.resampling)


def decode_random_crop(
    pictures: Pictures, index: int, side: int, rng: np.random.Generator, *, mirror: bool
) -> NDArray[np.uint8]:
    """A random part of the picture at ``side`` pixels, (3, side, side), for training."""
    try:
        with pictures.open(index) as file:
            image = _rgb(file)
    except UNREADABLE as error:
        raise _unreadable(pictures, index, error) from None
    pixels = _pixels(image, side, _random_box(*image.size, rng), pictures.resampling)
    return pixels[:, :, ::-1] if mirror and rng.random() < 0.5 else pixels


def decode_all(pictures: Pictures, indices: Sequence[int] | NDArray[np.int64], side: int) -> Tensor:
    """The central squares of many pictures, (N, 3, side, side) uint8."""
    pixels = np.empty((len(indices), 3, side, side), np.uint8)

    def fill(positions: range) -> None:
        for position in positions:
            pixels[position] = decode(pictures, int(indices[position]), side)

    parts = [range(start, min(start + 64, len(indices))) for start in range(0, len(indices), 64)]
    with ThreadPoolExecutor(usable_cores()) as threads:  # Pillow decodes without the GIL
        try:
            for _ in threads.map(fill, parts):
                pass
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    return torch.from_numpy(pixels)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"mode {image.mode} has more than 8 bits per channel")
    image = ImageOps.exif_transpose(image)  # cameras store portraits lying on their side
    if "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns on the direct way
    return image.convert("RGB")


def _pixels(
    image: Image.Image, side: int, box: Box, resampling: Image.Resampling
) -> NDArray[np.uint8]:
    square = image.resize((side, side), resampling, box=box)
    return np.asarray(square).transpose(2, 0, 1)  # (3, side, side)


def _central_square(width: int, height: int) -> Box:
    shorter = min(width, height)
    left, top = (width - shorter) // 2, (height - shorter) // 2
    return left, top, left + shorter, top + shorter


def _random_box(width: int, height: int, rng: np.random.Generator) -> Box:
    for _ in range(CROP_ATTEMPTS):
        area = width * height * rng.uniform(*CROP_AREA)
        ratio = np.exp(rng.uniform(*np.log(CROP_RATIO)))
        crop_width, crop_height = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(rng.integers(width - crop_width + 1))
            top = int(rng.integers(height - crop_height + 1))
            return left, top, left + crop_width, top + crop_height
    return _central_square(width, height)


def _unreadable(pictures: Pictures, index: int, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"{pictures.place(index)}: unreadable image ({reason}); replace or remove it")
