"""Where images come from: encoded pictures with their classes, before splits and decoding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nas.errors import UserError


class Pictures(ABC):
    """Labelled pictures that are decoded when they are asked for."""

    labels: NDArray[np.int64]  # (N,)
    resampling: ClassVar[Image.Resampling] = Image.Resampling.BICUBIC

    @abstractmethod
    def open(self, index: int) -> Image.Image:
        """The picture, whose pixels Pillow may not have decoded yet."""

    @abstractmethod
    def place(self, index: int) -> str:
        """Where the picture is, for messages: ``photos/cat/3.jpg``."""


@dataclass(frozen=True, eq=False)
class Source:
    """A data set as it was found. ``test`` is None where there is no test set of its own.

    ``mirror`` says whether an image keeps its class when it is mirrored.
    """

    spec: str
    classes: tuple[str, ...]
    train: Pictures
    test: Pictures | None
    mirror: bool


def classes_of(values: NDArray[Any]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The names of the sorted values of a label column (N,), and each row's number among them."""
    classes, labels = np.unique(values, return_inverse=True)
    return tuple(str(value) for value in classes), labels.astype(np.int64)


def check_labels(pictures: Pictures, names: tuple[str, ...]) -> None:
    """Raise UserError unless every label is the number of a name."""
    labels = pictures.labels
    wrong = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if len(wrong):
        row = int(wrong[0])
        raise UserError(
            f"{pictures.place(row)}: label must be 0 to {len(names) - 1}, got {labels[row]}"
        )


def check_test_classes(where: str, train: tuple[str, ...], test: tuple[str, ...]) -> None:
    """Raise UserError unless the test set has exactly the training set's classes."""
    unknown = [f"unknown '{name}'" for name in test if name not in train]
    missing = [f"missing '{name}'" for name in train if name not in test]
    if differences := unknown + missing:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise UserError(
            f"{where}: must have the classes of the training set: "
            f"{', '.join(differences[:3])}{more}"
        )
