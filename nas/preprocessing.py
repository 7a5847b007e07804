"""How pictures become a network's inputs: a central part, a mean and a standard deviation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nas.documents import Value

Mean = Annotated[float, Field(ge=-1000, le=1000)]
Spread = Annotated[float, Field(ge=0.001, le=1000)]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
"""Pillow's filters."""
BACKGROUND = "white"
"""The colour behind transparent pictures."""


class Preprocessing(Value):
    """What weights were trained on; by default ImageNet's mean and deviation, and whole pictures.

    ``mean`` and ``std`` are of red, green and blue between 0 and 1. ``crop`` is the share of the
    central square's sides that a network sees. ``interpolation`` brings it to the input size; by
    default that of the data set, which is bicubic for all but digits.
    """

    mean: tuple[Mean, Mean, Mean] = (0.485, 0.456, 0.406)
    std: tuple[Spread, Spread, Spread] = (0.229, 0.224, 0.225)
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    interpolation: Interpolation | None = None

    def __str__(self) -> str:
        numbers = (" ".join(f"{it:g}" for it in part) for part in (self.mean, self.std))
        parts = ["mean {}, deviation {}".format(*numbers)]
        if self.crop != 1:
            parts.append(f"central {100 * self.crop:g} %")
        return ", ".join([*parts, *filter(None, [self.interpolation])])


IMAGENET = Preprocessing()
"""Of ImageNet's images, whole."""
