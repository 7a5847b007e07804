"""Finished networks on pictures, as their files alone describe them: classes, and accuracy."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from nas.architecture import Architecture
from nas.data import load_dataset
from nas.data.augmentation import normalise
from nas.data.folders import FilePictures
from nas.data.sources import decode_all
from nas.deploy.description import Description, describe_weights
from nas.deploy.finished import by_name, open_finished
from nas.deploy.pretrained import load_finished
from nas.errors import UserError
from nas.network import build
from nas.progress import SILENT, Progress
from nas.training.evaluation import accuracy
from nas.training.retraining import record_beside, remark_on_tests
from nas.training.run import ImagesRecord

AT_ONCE = 64
"""Pictures that are kept decoded."""


class Chance(NamedTuple):
    """A class and its probability."""

    name: str
    probability: float


class Classified(NamedTuple):
    """A picture, and the probability of every class, the most probable first."""

    picture: Path
    chances: tuple[Chance, ...]


class Evaluated(NamedTuple):
    """Test accuracy on so many images; ``note`` tells how classes were matched, if not as usual.

    ``remark`` tells if the images are not those that the training beside the weights held out.
    """

    test_accuracy: float
    images: int
    note: str | None
    remark: str | None = None


def classify(model: Path, pictures: Sequence[Path]) -> Iterator[Classified]:
    """What a model, an ONNX file or a delivered folder, sees in each picture.

    Raises UserError if a picture cannot be read, or the model does not say how it sees them.
    """
    found = open_finished(model)
    found.require_description()
    side, seen = found.input_size, found.description.preprocessing
    names = pa.array([os.fsencode(picture) for picture in pictures], pa.large_binary())
    files = FilePictures(Path(), names, np.zeros(len(pictures), np.int64))
    for start in range(0, len(pictures), AT_ONCE):
        indices = np.arange(start, min(start + AT_ONCE, len(pictures)))
        images = normalise(decode_all(files, indices, side, seen), seen)
        with torch.inference_mode():
            chances = found.network(images).softmax(1)
        classes = _names(found.description, chances.shape[1], str(model))
        for index, row in zip(indices.tolist(), chances, strict=True):
            yield Classified(pictures[index], _ranked(classes, row))


def evaluate_model(model: Path, data: str, progress: Progress = SILENT) -> Evaluated:
    """The test accuracy of an ONNX file or of a delivered folder, as it sees pictures itself."""
    found = open_finished(model)
    found.require_description()
    return _evaluate(
        found.network, found.description, found.input_size, data, str(model), progress=progress
    )


def evaluate_weights(
    architecture: Architecture, weights: Path, data: str, progress: Progress = SILENT
) -> Evaluated:
    """The test accuracy of an architecture with weights."""
    architecture.require_colour()
    network = build(architecture)
    load_finished(network, architecture, weights, progress)
    classes = describe_weights(weights).classes
    described = Description.of(architecture, classes=classes)
    record = record_beside(weights)
    size, where = architecture.input_size, str(weights)
    return _evaluate(network.eval(), described, size, data, where, record, progress=progress)


def _evaluate(
    network: nn.Module,
    described: Description,
    side: int,
    data: str,
    where: str,
    record: ImagesRecord | None = None,
    *,
    progress: Progress,
) -> Evaluated:
    seen = described.preprocessing
    dataset = load_dataset(data, side, preprocessing=seen, progress=progress)
    if described.classes:
        matched = by_name(network, described.classes, dataset.classes, where=where, data=data)
        note = None if matched is network else f"{data} has its classes in another order"
    else:
        matched = network
        note = f"{where} does not name its classes: they are taken in the order of {data}"
        _require_count(network, len(dataset.classes), side, data, where)
    is_of_these = record is not None and record.classes == dataset.classes
    remark = remark_on_tests(record, dataset) if record and is_of_these else None
    return Evaluated(accuracy(matched, dataset.test), len(dataset.test), note, remark)


def _require_count(network: nn.Module, classes: int, side: int, data: str, where: str) -> None:
    with torch.inference_mode():
        known = network(torch.zeros(1, 3, side, side)).shape[1]
    if known != classes:
        raise UserError(f"{data}: has {classes} classes, {where} tells {known} apart")


def _names(described: Description, count: int, where: str) -> tuple[str, ...]:
    """The names of the classes; their numbers where the file does not tell."""
    classes = described.classes or tuple(map(str, range(count)))
    if len(classes) != count:
        raise UserError(f"{where}: names {len(classes)} classes, and tells {count} apart")
    return classes


def _ranked(classes: Sequence[str], chances: Tensor) -> tuple[Chance, ...]:
    order = chances.argsort(descending=True, stable=True).tolist()
    return tuple(Chance(classes[place], float(chances[place])) for place in order)
