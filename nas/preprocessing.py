"""How pictures become a network's inputs: a central part, a mean and a standard deviation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nas.documents import Value

Mean = Annotated[float, Field(ge=-1000, le=1000)]
Spread = Annotated[float, Field(ge=0.001, le=1000)]


class Preprocessing(Value):
    """What weights were trained on; by default ImageNet's mean and deviation, and whole pictures.

    ``mean`` and ``std`` are of red, green and blue between 0 and 1. ``crop`` is the share of the
    central square's sides that a network sees.
    """

    mean: tuple[Mean, Mean, Mean] = (0.485, 0.456, 0.406)
    std: tuple[Spread, Spread, Spread] = (0.229, 0.224, 0.225)
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0

    def __str__(self) -> str:
        numbers = (" ".join(f"{it:g}" for it in part) for part in (self.mean, self.std))
        text = "mean {}, deviation {}".format(*numbers)
        return text if self.crop == 1 else f"{text}, central {100 * self.crop:g} %"


IMAGENET = Preprocessing()
"""Of ImageNet's images, whole."""
