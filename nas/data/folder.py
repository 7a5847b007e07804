"""Image files in one folder per class, below ``PATH`` or below ``PATH/train`` and ``PATH/test``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from nas.data.sources import Pictures, Source, require_test_classes
from nas.errors import UserError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
TEST_NAMES = ("test", "val", "valid", "validation")


@dataclass(frozen=True, eq=False)
class FilePictures(Pictures):
    """One file for each picture, at ``names[index]`` below ``path``.

    Names lie in one block of memory: a million Python objects would be copied page by page into
    every worker process, as each is touched when it is read.
    """

    path: Path
    names: pa.LargeBinaryArray
    labels: NDArray[np.int64]

    def open(self, index: int) -> Image.Image:
        return Image.open(self.place(index))

    def place(self, index: int) -> str:
        return str(self.path / os.fsdecode(self.names[index].as_py()))


def folder(spec: str, path: Path) -> Source:
    """The images below ``path``; class names and files are taken in sorted order."""
    if not path.is_dir():
        problem = "is no folder" if path.exists() else "no such folder"
        raise UserError(f"{spec}: {problem}; give a folder with one folder of images per class")
    try:
        return _folder(spec, path)
    except OSError as error:
        raise UserError(f"{spec}: cannot be read: {error.strerror}: {error.filename}") from None


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
