"""Folders of pictures, whose layout is confirmed, never guessed.

    PATH/CLASS/**                              a part is held out to test
    PATH/train/CLASS/** and PATH/test/CLASS/** or val; in any case, also ``Train`` and ``test_set``

A folder that is named like a split is one, or it is refused. What is not used is counted: hidden
files and folders, files that are no pictures, links to folders that are read already.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from nas.data.pictures import open_picture, suffixes
from nas.data.sources import Pictures, Source, require_test_classes
from nas.errors import UserError

Role = Literal["train", "test", "validation"]

ROLES: dict[str, Role] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
}
SPLIT_NAME = re.compile(
    rf"({'|'.join(ROLES)})[ _.-]*(set|split|data|images?|imgs?|pictures?)?[ _.-]*\d*"
)

SYSTEM_NAMES = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found")
"""Folders of archives and file servers, some of which hold small copies of all pictures."""

SHOWN = 3
"""Suffixes or folders that a message names."""


@dataclass(frozen=True, eq=False)
class FilePictures(Pictures):
    """One file for each picture, at ``names[index]`` below ``path``."""

    path: Path
    names: pa.LargeBinaryArray  # a million objects would be copied into every worker process
    labels: NDArray[np.int64]

    def open(self, index: int) -> Image.Image:
        return open_picture(self.place(index))

    def encoded(self, index: int) -> bytes:
        return Path(self.place(index)).read_bytes()

    def place(self, index: int) -> str:
        return str(self.path / os.fsdecode(self.names[index].as_py()))


def split_role(name: str) -> Role | None:
    """The split that a folder is named like: ``Test``, ``test1`` and ``testing_set`` are tests."""
    found = SPLIT_NAME.fullmatch(name.casefold())
    return ROLES[found[1]] if found else None


def folder(spec: str, path: Path) -> Source:
    """The images in one folder per class, below ``path`` or below its ``train`` and ``test``.

    Raises UserError for any other layout.
    """
    if not path.is_dir():
        problem = "is no folder" if path.exists() else "no such folder"
        raise UserError(f"{spec}: {problem}; give a folder with one folder of images per class")
    try:
        return _Reading(spec, path).source()
    except OSError as error:
        raise UserError(f"{spec}: cannot be read: {error.strerror}: {error.filename}") from None


class _Listing(NamedTuple):
    """What a folder holds, sorted by name."""

    folders: list[Path]
    images: list[Path]


class _Splits(NamedTuple):
    """The folders of the training and of the test images, and others beside them."""

    train: Path
    test: Path | None
    unused: list[Path]


@dataclass
class _Reading:
    """One pass over a folder; ``visited`` holds device and number of each folder that was seen."""

    spec: str
    path: Path
    visited: set[tuple[int, int]] = field(default_factory=set)
    left_out: Counter[str] = field(default_factory=Counter)
    foreign: Counter[str] = field(default_factory=Counter)

    def source(self) -> Source:
        top = self._list(self.path)
        splits = self._splits(top.folders)
        if splits is None:
            classes, train = self._classes(self.path, top)
            return Source(self.spec, classes, train, unused=self._unused())
        self._not_used(top.images)
        listings = {each: self._list(each) for each in splits[:2] if each is not None}
        for split, listing in listings.items():
            self._require_folders(split, listing)
        classes, train = self._classes(splits.train, listings[splits.train])
        test = None
        if splits.test is not None:
            names, test = self._classes(splits.test, listings[splits.test])
            require_test_classes(str(splits.test), classes, names)
        return Source(self.spec, classes, train, test, unused=self._unused(splits.unused))

    def _splits(self, folders: Sequence[Path]) -> _Splits | None:
        """The splits among the folders at the top; None where these are classes."""
        by_role: dict[Role | None, list[Path]] = {}
        for each in folders:
            by_role.setdefault(split_role(each.name), []).append(each)
        others = by_role.pop(None, [])
        for role, found in by_role.items():
            if len(found) > 1:
                names = " and ".join(f"'{each.name}'" for each in found)
                raise UserError(f"{self.spec}: holds {names}; keep one folder for the {role} split")
        if not by_role:
            return None
        train, test, val = (by_role.get(it, [None])[0] for it in ("train", "test", "validation"))
        if train is None:
            (odd, *_), *_ = by_role.values()
            raise UserError(
                f"{self.spec}: '{odd.name}' is named like a split, but there is no folder 'train' "
                f"beside it; put the training images at {self.path}/train/CLASS/, or rename it if "
                "it is a class"
            )
        surplus = [val] if test is not None and val is not None else []
        return _Splits(train, test or val, [*surplus, *others])

    def _require_folders(self, split: Path, listing: _Listing) -> None:
        if not listing.folders:
            raise UserError(
                f"{self.spec}: '{split.name}' is named like a split, but holds no folders of "
                f"classes; sort its images into {split}/CLASS/, or move it away, or rename it if "
                "it is a class"
            )

    def _classes(self, path: Path, listing: _Listing) -> tuple[tuple[str, ...], FilePictures]:
        """The classes below a folder, and their pictures."""
        self._not_used(listing.images)
        for each in listing.folders:
            if split_role(each.name):
                raise UserError(
                    f"{self.spec}: '{each.relative_to(self.path)}' is named like a split, where "
                    f"folders of classes must be; if images are a folder deeper, give "
                    f"folder:{path}, else rename it"
                )
        inside = path.resolve()
        files = [sorted(self._images(each, inside)) for each in listing.folders]
        if not any(files):
            raise UserError(
                f"{self.spec}: holds no images; put them at {path}/CLASS/*.jpg, or at "
                f"{path}/train/CLASS/*.jpg and {path}/test/CLASS/*.jpg"
            )
        for class_folder, images in zip(listing.folders, files, strict=True):
            if not images:
                raise UserError(f"{self.spec}: class '{class_folder.name}': holds no images")
        labels = np.repeat(np.arange(len(files)), [len(images) for images in files])
        names = [os.fsencode(file.relative_to(path)) for images in files for file in images]
        pictures = FilePictures(path, pa.array(names, pa.large_binary()), labels)
        return tuple(each.name for each in listing.folders), pictures

    def _images(self, path: Path, inside: Path) -> Iterator[Path]:
        """The images of one class, at any depth."""
        listing = self._list(path, inside)
        yield from listing.images
        for each in listing.folders:
            if split_role(each.name):
                raise UserError(
                    f"{self.spec}: '{each.relative_to(self.path)}' is named like a split, inside a "
                    "class; splits hold classes: PATH/train/CLASS/, PATH/test/CLASS/"
                )
            yield from self._images(each, inside)

    def _list(self, path: Path, inside: Path | None = None) -> _Listing:
        """A folder's folders and images; links into ``inside`` and folders seen before count."""
        folders: list[Path] = []
        images: list[Path] = []
        with os.scandir(path) as entries:  # real folders first: links are second names
            ordered = sorted(entries, key=lambda entry: (entry.is_symlink(), entry.name))
        for entry in ordered:
            place = Path(entry.path)
            if entry.name.startswith(".") or entry.name in SYSTEM_NAMES:
                self.left_out["hidden"] += 1
            elif entry.is_dir():
                if self._is_new(entry, place, inside):
                    folders.append(place)
            elif not entry.is_file():
                self.left_out["broken link or special file"] += 1
            elif place.suffix.lower() in suffixes():
                images.append(place)
            else:
                self.foreign[place.suffix.lower()] += 1
        return _Listing(sorted(folders), images)

    def _is_new(self, entry: os.DirEntry[str], place: Path, inside: Path | None) -> bool:
        found = place.stat()
        key = (found.st_dev, found.st_ino)
        is_inner = (
            inside is not None and entry.is_symlink() and place.resolve().is_relative_to(inside)
        )
        if key in self.visited or is_inner:
            self.left_out["link to a folder that is read already"] += 1
            return False
        self.visited.add(key)
        return True

    def _not_used(self, images: Sequence[Path]) -> None:
        if images:
            self.left_out["image outside the folders of classes"] += len(images)

    def _unused(self, folders: Sequence[Path] = ()) -> tuple[str, ...]:
        """What was left out, as phrases."""
        found = [f"folder '{each.name}'" for each in folders[:SHOWN]]
        if len(folders) > SHOWN:
            found.append(f"{len(folders) - SHOWN} more folders")
        found += [f"{count} x {what}" for what, count in self.left_out.items()]
        if count := self.foreign.total():
            kinds = [kind or "without suffix" for kind, _ in self.foreign.most_common(SHOWN)]
            found.append(f"{count} x no image ({', '.join(kinds)})")
        return tuple(found)
