"""Sources of images: encoded pictures, decoded to square RGB pixels."""

from __future__ import annotations

import os
import shlex
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nas.data.pictures import LARGE_PIXELS, is_transparent, to_rgb
from nas.errors import UserError
from nas.machine import usable_cores
from nas.preprocessing import IMAGENET, Interpolation, Preprocessing
from nas.progress import SILENT, Progress

if TYPE_CHECKING:
    from torch import Tensor

# The errors that Pillow raises for broken files depend on their format.
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, ArithmeticError, LookupError)
# Area and aspect ratio of a random resized crop, from Szegedy et al. 2015, section 6.
CROP_AREA = (0.08, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10

MOST_TRIED, TRIED_SIDE = 20_000, 64
"""Pictures that are tried before a run, and the side at which JPEG is decoded for it."""

NAMED, REMOVED = 3, 100
"""How many of those that cannot be read are named with the reason, and how many in a command."""

_ONE_LARGE = threading.Lock()

Box = tuple[float, float, float, float]  # left, top, right, bottom


class Pictures(ABC):
    """Labelled pictures that are decoded on demand."""

    labels: NDArray[np.int64]  # (N,)
    interpolation: ClassVar[Interpolation] = "bicubic"

    @abstractmethod
    def open(self, index: int) -> Image.Image:
        """The picture, whose pixels Pillow may not have decoded yet."""

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """What the picture is, as it is stored; raises OSError if it cannot be read."""

    @abstractmethod
    def place(self, index: int) -> str:
        """The place of the picture, for messages: ``photos/cat/3.jpg``."""

    def interpolation_for(self, seen: Preprocessing) -> Interpolation:
        """How a network wants them to be resized; their own way where it does not mind."""
        return seen.interpolation or self.interpolation


@dataclass(frozen=True, eq=False)
class Source:
    """A data set before splits and decoding; ``test`` is None where it has no test set."""

    spec: str
    classes: tuple[str, ...]
    train: Pictures
    test: Pictures | None = None
    mirror: bool = True  # whether a mirrored image keeps its class
    unused: tuple[str, ...] = ()  # what else was found, and left out

    @property
    def summary(self) -> str:
        """What was found, and what of it is not used: one line for the user to confirm."""
        test = "no test images (a part is held out)"
        if self.test is not None:
            test = f"{len(self.test.labels):,} test images"
        found = f"{len(self.classes)} classes, {len(self.train.labels):,} training images, {test}"
        unused = f"; not used: {', '.join(self.unused)}" if self.unused else ""
        return f"{self.spec}: {found}{unused}"

    def __post_init__(self) -> None:
        """Raise UserError for a class whose name no document can hold."""
        for name in self.classes:
            if "\0" in name or name.encode(errors="replace").decode() != name:
                raise UserError(f"{self.spec}: the name of class {name!r} is no text; rename it")


@dataclass(frozen=True, eq=False)
class DigitPictures(Pictures):
    """Grey digits, (N, 8, 8) uint8."""

    grey: NDArray[np.uint8]
    labels: NDArray[np.int64]
    # Bicubic would overshoot at every stroke: the digits are enlarged eight times and more.
    interpolation: ClassVar[Interpolation] = "bilinear"

    def open(self, index: int) -> Image.Image:
        return Image.fromarray(self.grey[index])

    def encoded(self, index: int) -> bytes:
        return bytes(self.grey[index].tobytes())

    def place(self, index: int) -> str:
        return f"digits: image {index}"


def digits() -> Source:
    """The 1,797 handwritten digits that scikit-learn carries: data without a download."""
    from sklearn.datasets import load_digits  # heavy, and only this source needs it

    bunch = load_digits()
    grey = np.round(bunch.images * (255 / 16)).astype(np.uint8)  # from 0..16
    pictures = DigitPictures(grey, bunch.target.astype(np.int64))
    classes = tuple(str(name) for name in bunch.target_names)
    return Source("digits", classes, pictures, mirror=False)


def require_test_classes(where: str, train: tuple[str, ...], test: tuple[str, ...]) -> None:
    """Raise UserError unless the test set has exactly the training set's classes."""
    unknown = [f"unknown '{name}'" for name in test if name not in train]
    missing = [f"missing '{name}'" for name in train if name not in test]
    if differences := unknown + missing:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        found = ", ".join(differences[:3]) + more
        raise UserError(f"{where}: must have the classes of the training set: {found}")


class Decoded(NamedTuple):
    """A picture at the wanted size, (3, side, side), and whether a part of it was transparent."""

    pixels: NDArray[np.uint8]
    is_transparent: bool


def decode(
    pictures: Pictures, index: int, side: int, seen: Preprocessing = IMAGENET
) -> NDArray[np.uint8]:
    """The part of the picture that is ``seen``, at ``side`` pixels, (3, side, side)."""
    return _decode(pictures, index, side, seen).pixels


def decode_random_crop(
    pictures: Pictures,
    index: int,
    side: int,
    rng: np.random.Generator,
    *,
    mirror: bool,
    seen: Preprocessing = IMAGENET,
) -> NDArray[np.uint8]:
    """A random part of the picture at ``side`` pixels, (3, side, side), for training."""
    image, _ = _open(pictures, index)
    box = _random_box(*image.size, rng)
    pixels = _pixels(image, side, box, pictures.interpolation_for(seen))
    return pixels[:, :, ::-1] if mirror and rng.random() < 0.5 else pixels


def decode_all(
    pictures: Pictures,
    indices: Sequence[int] | NDArray[np.int64],
    side: int,
    seen: Preprocessing = IMAGENET,
    *,
    progress: Progress = SILENT,
) -> Tensor:
    """``decode`` of many pictures, (N, 3, side, side) uint8; transparent ones are counted."""
    pixels = np.empty((len(indices), 3, side, side), np.uint8)

    def fill(positions: range) -> list[int]:
        transparent = []
        for position in positions:
            found = _decode(pictures, int(indices[position]), side, seen)
            pixels[position] = found.pixels
            transparent += [int(indices[position])] if found.is_transparent else []
        return transparent

    parts = [range(len(indices))[start : start + 64] for start in range(0, len(indices), 64)]
    with ThreadPoolExecutor(usable_cores()) as threads:  # Pillow decodes without the GIL
        try:
            transparent = [index for found in threads.map(fill, parts) for index in found]
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    _tell_transparent(pictures, transparent, len(indices), progress)
    import torch

    return torch.from_numpy(pixels)


def look_for_transparency(
    pictures: Pictures, indices: Sequence[int] | NDArray[np.int64], progress: Progress
) -> None:
    """Count transparent pictures among those at ``indices``, as ``decode_all`` does."""
    found = [int(index) for index in indices if _open(pictures, int(index))[1]]
    _tell_transparent(pictures, found, len(indices), progress)


def _tell_transparent(
    pictures: Pictures, found: Sequence[int], among: int, progress: Progress
) -> None:
    if found:
        progress.say(
            f"{len(found):,} of {among:,} images are partly transparent and read on white, "
            f"such as {pictures.place(found[0])}"
        )


def _decode(pictures: Pictures, index: int, side: int, seen: Preprocessing) -> Decoded:
    # JPEG can be decoded at 1/2, 1/4 or 1/8: a photo of 12 megapixels in 16 ms, not 115
    least = round(2 * side / seen.crop)
    image, had_alpha = _open(pictures, index, draft=(least, least))
    box = _central_square(*image.size, seen.crop)
    pixels = _pixels(image, side, box, pictures.interpolation_for(seen))
    return Decoded(pixels, had_alpha)


def _open(
    pictures: Pictures, index: int, draft: tuple[int, int] | None = None
) -> tuple[Image.Image, bool]:
    """The picture in RGB, and whether a part of it was transparent."""
    try:
        with pictures.open(index) as file:
            if draft:
                file.draft("RGB", draft)
            large = file.width * file.height > LARGE_PIXELS
            with _ONE_LARGE if large else nullcontext():
                return to_rgb(file), is_transparent(file)
    except UNREADABLE as error:
        raise unreadable(pictures, index, error) from None


def require_readable(source: Source) -> None:
    """Raise one UserError on all pictures that cannot be read; of very many a part is tried."""
    for pictures in filter(None, (source.train, source.test)):
        count = len(pictures.labels)
        tried = np.linspace(0, count - 1, min(count, MOST_TRIED)).round().astype(int).tolist()
        with ThreadPoolExecutor(usable_cores()) as threads:
            complaints = threads.map(partial(_complaint, pictures), tried)
            found = {index: it for index, it in zip(tried, complaints, strict=True) if it}
        first = list(found.values())[:NAMED]
        if len(found) > 1:
            more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
            places = [pictures.place(index) for index in found]
            command = ""
            if len(places) <= REMOVED and all(map(os.path.isfile, places)):
                command = f": rm {shlex.join(places)}"
            raise UserError(
                f"{source.spec}: {len(found)} of {len(tried):,} images are unreadable: "
                f"{'; '.join(first)}{more}; replace or remove them{command}"
            )
        if found:
            raise UserError(f"{first[0]}; replace or remove it")


def _complaint(pictures: Pictures, index: int) -> str | None:
    """What is wrong with a picture that cannot be read."""
    try:
        _open(pictures, index, draft=(TRIED_SIDE, TRIED_SIDE))
    except UserError as error:
        return str(error).removesuffix("; replace or remove it")
    return None


def unreadable(pictures: Pictures, index: int, error: Exception) -> UserError:
    """The error about a picture that cannot be read."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"{pictures.place(index)}: unreadable image ({reason}); replace or remove it")


def _pixels(
    image: Image.Image, side: int, box: Box, interpolation: Interpolation
) -> NDArray[np.uint8]:
    resampling = Image.Resampling[interpolation.upper()]
    square = image.resize((side, side), resampling, box=box)
    return np.asarray(square).transpose(2, 0, 1)  # (3, side, side)


def _central_square(width: int, height: int, crop: float = 1.0) -> Box:
    shorter = crop * min(width, height)
    left, top = (width - shorter) / 2, (height - shorter) / 2
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
