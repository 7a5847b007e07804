"""One picture: opened within bounds, turned upright, and made RGB.

Pillow reads the size of a picture from its header and the pixels only when they are needed: what
is too large is refused before any memory is taken.
"""

from __future__ import annotations

import warnings
from functools import cache
from io import BytesIO
from typing import NoReturn

import numpy as np
from PIL import Image, ImageOps

from nas.preprocessing import BACKGROUND

# Pillow opens more, of which EPS runs another program and MPEG has no pixels.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")

MOST_PIXELS = 50_000_000
"""Of one picture, 8160 x 6120 of a telephone among them: decoded it takes up to 400 MB."""

LARGE_PIXELS = 10_000_000
"""From which on pictures are decoded one after the other: several at once fill the memory."""

WHITE, SIXTEEN_BITS = 255, 65_535

# Pillow warns from 89 million pixels on; we refuse earlier, in one line.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@cache
def suffixes() -> frozenset[str]:
    """The suffixes, in lower case, of all files that ``open_picture`` may open."""
    return frozenset(
        suffix
        for suffix, name in Image.registered_extensions().items()
        if name in FORMATS and (name in Image.OPEN or name == "MPO")  # JPEG's reader opens these
    )


def open_picture(source: str | BytesIO) -> Image.Image:
    """The picture in a file or in memory, of which only the header is read.

    Raises ValueError above ``MOST_PIXELS``, OSError for what is no picture.
    """
    try:
        image = Image.open(source, formats=_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        _refuse_size("more than twice as many")
    if image.width * image.height > MOST_PIXELS:
        size = f"{image.width} x {image.height}"
        image.close()
        _refuse_size(size)
    return image


@cache
def _formats() -> tuple[str, ...]:
    """Those of ``FORMATS`` that this Pillow has a reader for."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture upright, in RGB: transparent parts on white, 16 bits of grey rounded to 8.

    Raises ValueError for numbers of unknown range.
    """
    image = ImageOps.exif_transpose(image)  # cameras store portraits lying on their side
    if image.mode.startswith(("I", "F")):
        return _from_wide_grey(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    above = image.convert("RGBA")
    below = Image.new("RGBA", above.size, BACKGROUND)
    return Image.alpha_composite(below, above).convert("RGB")


def is_transparent(image: Image.Image) -> bool:
    """Whether a part of the picture is not opaque."""
    if not image.has_transparency_data or image.mode.startswith("I"):
        return image.mode.startswith("I") and "transparency" in image.info
    return bool((np.asarray(image.convert("RGBA").getchannel("A")) < WHITE).any())


def _from_wide_grey(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > SIXTEEN_BITS:
        raise ValueError(f"mode {image.mode} has more than 16 bits per channel")
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 is 257 * 255
    if isinstance(transparent := image.info.get("transparency"), int):
        grey[values == transparent] = WHITE
    return Image.fromarray(grey).convert("RGB")


def _refuse_size(size: str) -> NoReturn:
    raise ValueError(f"has {size} pixels, the most are {MOST_PIXELS / 1e6:g} million; shrink it")
