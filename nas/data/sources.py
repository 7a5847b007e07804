"""Sources of images, such as folders: encoded pictures, decoded to square RGB pixels."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageOps

from nas.errors import UserError
from nas.machine import usable_cores
from nas.preprocessing import BACKGROUND, IMAGENET, Interpolation, Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
TEST_NAMES = ("test", "val", "valid", "validation")

# The errors that Pillow raises for broken files depend on their format.
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
# Area and aspect ratio of a random resized crop, from Szegedy et al. 2015, section 6.
CROP_AREA = (0.08, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10

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


@dataclass(frozen=True, eq=False)
class FilePictures(Pictures):
    """One file for each picture, at ``names[index]`` below ``path``."""

    path: Path
    names: pa.LargeBinaryArray  # a million objects would be copied into every worker process
    labels: NDArray[np.int64]

    def open(self, index: int) -> Image.Image:
        return Image.open(self.place(index))

    def encoded(self, index: int) -> bytes:
        return Path(self.place(index)).read_bytes()

    def place(self, index: int) -> str:
        return str(self.path / os.fsdecode(self.names[index].as_py()))


def digits() -> Source:
    """The 1,797 handwritten digits that scikit-learn carries: data without a download."""
    from sklearn.datasets import load_digits  # heavy, and only this source needs it

    bunch = load_digits()
    grey = np.round(bunch.images * (255 / 16)).astype(np.uint8)  # from 0..16
    pictures = DigitPictures(grey, bunch.target.astype(np.int64))
    classes = tuple(str(name) for name in bunch.target_names)
    return Source("digits", classes, pictures, mirror=False)


def folder(spec: str, path: Path) -> Source:
    """The images in one folder per class, below ``path`` or below its ``train`` and ``test``."""
    if not path.is_dir():
        problem = "is no folder" if path.exists() else "no such folder"
        raise UserError(f"{spec}: {problem}; give a folder with one folder of images per class")
    try:
        return _folder(spec, path)
    except OSError as error:
        raise UserError(f"{spec}: cannot be read: {error.strerror}: {error.filename}") from None


def require_test_classes(where: str, train: tuple[str, ...], test: tuple[str, ...]) -> None:
    """Raise UserError unless the test set has exactly the training set's classes."""
    unknown = [f"unknown '{name}'" for name in test if name not in train]
    missing = [f"missing '{name}'" for name in train if name not in test]
    if differences := unknown + missing:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        found = ", ".join(differences[:3]) + more
        raise UserError(f"{where}: must have the classes of the training set: {found}")


def decode(
    pictures: Pictures, index: int, side: int, seen: Preprocessing = IMAGENET
) -> NDArray[np.uint8]:
    """The part of the picture that is ``seen``, at ``side`` pixels, (3, side, side)."""
    # JPEG can be decoded at 1/2, 1/4 or 1/8: a photo of 12 megapixels in 16 ms, not 115
    least = round(2 * side / seen.crop)
    image = _open(pictures, index, draft=(least, least))
    box = _central_square(*image.size, seen.crop)
    return _pixels(image, side, box, pictures.interpolation_for(seen))


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
    image = _open(pictures, index)
    box = _random_box(*image.size, rng)
    pixels = _pixels(image, side, box, pictures.interpolation_for(seen))
    return pixels[:, :, ::-1] if mirror and rng.random() < 0.5 else pixels


def decode_all(
    pictures: Pictures,
    indices: Sequence[int] | NDArray[np.int64],
    side: int,
    seen: Preprocessing = IMAGENET,
) -> Tensor:
    """``decode`` of many pictures, (N, 3, side, side) uint8."""
    pixels = np.empty((len(indices), 3, side, side), np.uint8)

    def fill(positions: range) -> None:
        for position in positions:
            pixels[position] = decode(pictures, int(indices[position]), side, seen)

    parts = [range(len(indices))[start : start + 64] for start in range(0, len(indices), 64)]
    with ThreadPoolExecutor(usable_cores()) as threads:  # Pillow decodes without the GIL
        try:
            for _ in threads.map(fill, parts):
                pass
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    import torch

    return torch.from_numpy(pixels)


def _open(pictures: Pictures, index: int, draft: tuple[int, int] | None = None) -> Image.Image:
    try:
        with pictures.open(index) as file:
            if draft:
                file.draft("RGB", draft)
            if file.mode.startswith(("I", "F")):
                raise ValueError(f"mode {file.mode} has more than 8 bits per channel")
            image = ImageOps.exif_transpose(file)  # cameras store portraits lying on their side
            if not image.has_transparency_data:
                return image.convert("RGB")
            # what hides behind transparent pixels is anything, often black
            above = image.convert("RGBA")
            below = Image.new("RGBA", above.size, BACKGROUND)
            return Image.alpha_composite(below, above).convert("RGB")
    except UNREADABLE as error:
        raise unreadable(pictures, index, error) from None


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


def _folder(spec: str, path: Path) -> Source:
    train_path = path / "train"
    if not (train_path.is_dir() and _class_folders(train_path)):  # "train" may be a class
        train_path = path
    classes, train = _pictures(spec, train_path)
    test_path = next((path / name for name in TEST_NAMES if (path / name).is_dir()), None)
    if train_path == path or test_path is None:
        return Source(spec, classes, train)
    test_classes, test = _pictures(spec, test_path)
    require_test_classes(str(test_path), classes, test_classes)
    return Source(spec, classes, train, test)


def _pictures(spec: str, path: Path) -> tuple[tuple[str, ...], FilePictures]:
    folders = _class_folders(path)
    files = [_image_files(class_folder) for class_folder in folders]
    if not any(files):
        raise UserError(
            f"{spec}: holds no images; put them at {path}/CLASS/*.jpg, or at "
            f"{path}/train/CLASS/*.jpg and {path}/test/CLASS/*.jpg"
        )
    for class_folder, images in zip(folders, files, strict=True):
        if not images:
            raise UserError(f"{spec}: class '{class_folder.name}': holds no images")
    labels = np.repeat(np.arange(len(files)), [len(images) for images in files])
    names = pa.array([os.fsencode(name) for images in files for name in images], pa.large_binary())
    return tuple(each.name for each in folders), FilePictures(path, names, labels)


def _class_folders(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_dir() and each.name[0] != ".")


def _image_files(path: Path) -> list[Path]:
    """The images of one class, by their paths from the folder around ``path`` on."""
    return sorted(
        Path(folder, name).relative_to(path.parent)
        for folder, _, names in os.walk(path, onerror=_refuse)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    )


def _refuse(error: OSError) -> None:
    raise error
