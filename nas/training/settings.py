"""How networks are trained: the values of run.json and retraining.json; without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import AfterValidator, Field, model_serializer, model_validator

from nas.architecture import Architecture
from nas.documents import GrownValue, Value
from nas.families import LAYERS
from nas.preprocessing import IMAGENET, Preprocessing
from nas.progress import SILENT, Progress

if TYPE_CHECKING:
    from torch import Tensor

    from nas.data import Dataset
    from nas.latency.table import LatencyTable
    from nas.space import SearchSpace

Divergence = Literal["kl", "alpha"]
TrainingPrecision = Literal["float32", "bfloat16"]
Norms = Literal["train", "keep"]
Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0)]
Resolutions = Annotated[tuple[Count, ...], AfterValidator(lambda sizes: tuple(sorted(set(sizes))))]
"""Sides of square images in pixels, smallest first; empty: every network at its own input size."""
Importance = Literal["taylor", "magnitude", "none"]
FROM_WEIGHTS = {"learning_rate": 3e-4, "batch_size": 32}
"""The defaults of a supernet's training that starts from pretrained weights."""
PUBLISHED_IMAGES = 100_000  # from which on ``published`` is the default; fewer make too few steps


class Settings(GrownValue):
    """The settings of every training; descriptions are the help texts of options."""

    FILE_ORDER: ClassVar[tuple[str, ...]] = ()  # finished trainings are known by that text

    epochs: Count = Field(10, description="Passes over the training images.")
    batch_size: int = Field(64, gt=1, description="Images of a step.")
    resolutions: Resolutions = Field((), description="Image sides of batches, such as 48,64,80.")
    learning_rate: Rate = Field(4e-3, description="Peak of the rate, which falls to 0 by a cosine.")
    weight_decay: NonNegative = Field(0.025, description="Weight decay of kernels and matrices.")
    warmup: Share = Field(0.1, description="Share of the steps in which the rate rises.")
    layer_scale: Rate = Field(0.1, description="Start value of the residuals' scales.")
    drop_path: float = Field(0.0, ge=0, lt=1, description="Rate of dropping the last branches.")
    precision: TrainingPrecision | None = Field(
        None, description="Numbers of products; if left out, bfloat16 on GPUs that have it."
    )
    seed: Seed = Field(0, description="Same seed, same result.")

    @model_serializer(mode="wrap")
    def _in_file_order(self, serialize: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        found = self._without_later(serialize)
        return {name: found[name] for name in (*self.FILE_ORDER, *found) if name in found}


class LatencyTerm(Value):
    """``weight`` times the expected ms of all path choices, as a share of the largest network's."""

    weight: Rate
    table: str
    largest_ms: Rate
    ms: dict[str, tuple[NonNegative, ...]]  # of each slot's candidates at the largest widths

    def __str__(self) -> str:
        return f"{self.weight:g} (largest network {self.largest_ms:.3f} ms by {self.table})"

    def __call__(self, logits: Mapping[str, Tensor]) -> Tensor:
        """The term, a scalar; expected under the softmax of the logits, without their noise."""
        first, *others = [
            (vector.softmax(0) * vector.new_tensor(self.ms[slot])).sum()
            for slot, vector in logits.items()
        ]
        return self.weight * sum(others, start=first) / self.largest_ms


class SupernetSettings(Settings):
    """How a supernet is trained: by AdamW and the sandwich rule."""

    FILE_ORDER = (
        *("epochs", "batch_size", "accumulate", "resolutions", "learning_rate", "weight_decay"),
        *("warmup", "random_subnets", "staggered", "distillation", "divergence", "teacher"),
        *("layer_scale", "precision", "drop_path", "path_choice", "path_interval"),
        *("path_learning_rate", "first_temperature", "last_temperature", "latency"),
        *("path_sampling", "seed"),
    )
    later = frozenset({"weights", "architecture", "importance", "reference_epochs"})

    accumulate: Count = Field(1, description="Parts of a batch, to save memory.")
    random_subnets: int = Field(2, ge=0, description="Random subnets of a step.")
    staggered: bool = Field(True, description="Each subnet of a step learns from another batch.")
    distillation: Share = Field(1.0, description="Largest share of a teacher's outputs in labels.")
    divergence: Divergence = Field("kl", description="Loss by a teacher: kl, or AlphaNet's alpha.")
    teacher: str | None = Field(
        None, description="Teacher in place of the largest: ARCHITECTURE:WEIGHTS, or ONNX file."
    )
    path_choice: bool = Field(True, description="Learn which kinds of each slot matter.")
    path_interval: Count = Field(4, description="Steps from one mixture of all kinds to the next.")
    path_learning_rate: Rate = Field(0.05, description="Learning rate of the path logits.")
    first_temperature: Rate = Field(5.0, description="Temperature of paths' noise at the start.")
    last_temperature: Rate = Field(0.5, description="Temperature of paths' noise at the end.")
    latency: LatencyTerm | None = Field(None, description="Expected latency in the mixture's loss.")
    path_sampling: bool = Field(False, description="Draw later subnets by path probabilities.")
    weights: str | None = Field(
        None, description="Pretrained weights to start from: .safetensors, .pth or hf:timm/NAME."
    )
    architecture: str | None = Field(
        None, description="Network that the weights are of; if left out, the space's largest."
    )
    importance: Importance = Field(
        "taylor", description="With --weights: which channels narrower networks keep."
    )
    reference_epochs: Count = Field(
        12, description="With --weights: epochs in which the largest network learns the images."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_weights(cls, data: object) -> object:
        """With weights other defaults hold."""
        if isinstance(data, Mapping) and data.get("weights"):
            return {**FROM_WEIGHTS, **data}
        return data


class Recipe(Settings):
    """How one network is trained alone, by AdamW."""

    FILE_ORDER = (
        *("name", "epochs", "batch_size", "resolutions", "learning_rate", "weight_decay", "warmup"),
        *("layer_scale", "clipping", "distortions", "magnitude", "erasing", "mixup", "cutmix"),
        *("smoothing", "drop_path", "distillation", "averaging", "precision", "seed"),
    )
    later = frozenset({"head_epochs", "head_learning_rate", "norms"})

    name: str = Field(description="Recipe that the settings come from.")
    clipping: Rate | None = Field(5.0, description="Largest norm of the gradient.")
    distortions: int = Field(0, ge=0, description="RandAugment's operations on every other image.")
    magnitude: float = Field(9.0, ge=0, description="Magnitude of these operations, at most 10.")
    erasing: Share = Field(0.0, description="Share of the images that lose a rectangle.")
    mixup: NonNegative = Field(0.0, description="Alpha of mixup's Beta distribution; 0: never.")
    cutmix: NonNegative = Field(0.0, description="Alpha of cutmix's Beta distribution; 0: never.")
    smoothing: Share = Field(0.0, description="Share of each label that goes to all classes.")
    distillation: Share = Field(0.5, description="Share of a teacher's outputs in labels.")
    averaging: float | None = Field(None, gt=0, lt=1, description="Decay of the weights' average.")
    head_epochs: int = Field(
        0, ge=0, description="Of the epochs, the first ones, in which the classifier alone learns."
    )
    head_learning_rate: Rate = Field(5e-3, description="Peak of the rate in these epochs.")
    norms: Norms = Field("train", description="Statistics of norms: of each batch, or kept.")

    @model_validator(mode="after")
    def _require_epochs(self) -> Self:
        if self.head_epochs >= self.epochs:
            raise ValueError(
                f"head_epochs must be fewer than the {self.epochs} epochs, got {self.head_epochs}"
            )
        return self

    @model_validator(mode="after")
    def _require_magnitude(self) -> Self:
        if "magnitude" in self.model_fields_set:
            from nas.data.augmentation import RandAugment  # loads torch

            RandAugment(magnitude=self.magnitude)
        return self


class DataSettings(Value):
    """Which images: the arguments of ``load_dataset``."""

    spec: str = Field("digits", description="digits, shapes, folder:PATH, parquet:PATH or hf:NAME.")
    seed: Seed = Field(0, description="Same seed, same split.")
    search_share: float = Field(0.1, gt=0, lt=1, description="Share of images kept for searches.")
    limit: Count | None = Field(None, description="Use only this many training images.")

    def load(
        self,
        image_size: int,
        preprocessing: Preprocessing = IMAGENET,
        progress: Progress = SILENT,
    ) -> Dataset:
        from nas.data import load_dataset

        return load_dataset(
            image_size=image_size, preprocessing=preprocessing, progress=progress, **dict(self)
        )


RECIPES: Mapping[str, Recipe] = {
    "light": Recipe(name="light", epochs=30, smoothing=0.1),
    # of pretrained weights: benchmarks/pretrained.py
    "finetuning": Recipe(
        name="finetuning",
        epochs=12,
        batch_size=32,
        learning_rate=3e-4,
        weight_decay=0.05,
        smoothing=0.1,
        head_epochs=2,
        norms="keep",
    ),
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


def like_the_supernet(settings: SupernetSettings) -> Recipe:
    """The recipe of one network that is trained as a supernet was, but by the labels alone."""
    shared = settings.model_dump(include=Settings.model_fields.keys() - {"drop_path"})
    return Recipe(name="supernet", clipping=None, **shared)


def published_drop_path(architecture: Architecture) -> float:
    """The rate that its family was published with, interpolated by the number of parameters."""
    from nas.network import measure_size  # loads torch

    kinds = {type(layer) for layer in architecture.layers}
    for kind in LAYERS.values():
        if kind in kinds and kind.published_drop_path:
            params, rates = zip(*kind.published_drop_path, strict=True)
            return float(np.interp(measure_size(architecture).params, params, rates))
    return 0.0


def price_paths(space: SearchSpace, table: LatencyTable, weight: float) -> LatencyTerm:
    """The term for a space; raises UserError if the table lacks a layer of it.

    A candidate costs what it adds to the largest network, ``Calibration.prices``.
    """
    table.require_layers(space)
    placed = list(space.largest().placed())
    rows = [table.row(*place).sums for place in placed]
    places = {layer.slot: index for index, (layer, _) in enumerate(placed)}
    prices: dict[str, tuple[float, ...]] = {}
    for slot, candidates in space.paths.items():
        sums = [table.row(*it).sums if it else None for it in candidates]
        found = table.calibration.prices(rows, places[slot], sums)
        prices[slot] = tuple(max(ms, 0.0) for ms in found)  # noise alone makes a layer free
    return LatencyTerm(
        weight=weight,
        table=str(table.path),
        largest_ms=table.predict(space.largest()),
        ms=prices,
    )
