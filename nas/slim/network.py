"""A network of the final table: extracted, calibrated, exported, measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from torch import nn

from nas.architecture import Architecture
from nas.data import Dataset
from nas.deploy.export import Examples, OnnxNetwork
from nas.deploy.quantize import precision_of
from nas.latency.measure import Measurement
from nas.search.problem import Costs
from nas.space import Assignment

INT8_IMAGES, JUDGED_IMAGES = 128, 512
"""An int8 network is calibrated on training images and judged on images of the search slice, at
most so many."""


@dataclass(frozen=True, eq=False)
class Delivered:
    """One network, with what was predicted and what was measured.

    Accuracies are shares in [0, 1]; weights are inherited from the supernet. ``target`` is what it
    was chosen for, None for the largest. ``measured`` holds the latencies, by the names of their
    costs, that this machine can measure; ``model`` is in the precision of the first. In int8
    ``agreement`` is the share of images for which it predicts what ``network`` predicts.
    """

    name: str
    target: Mapping[str, float] | None
    assignment: Assignment
    architecture: Architecture
    network: nn.Module
    model: onnx.ModelProto
    costs: Costs
    measured: Mapping[str, Measurement]
    score: float
    search_accuracy: float
    agreement: float | None = None
    test_accuracy: float | None = None

    @property
    def delivered(self) -> nn.Module:
        """What computes as the written model does."""
        return OnnxNetwork(self.model) if precision_of(self.model) == "int8" else self.network

    @property
    def missed(self) -> tuple[str, ...]:
        """The measured latencies whose interval ends above their bound."""
        bounds = self.target or {}
        return tuple(
            name
            for name, found in self.measured.items()
            if name in bounds and found.ms_high > bounds[name]
        )


def take_examples(dataset: Dataset) -> Examples:
    """Training images to calibrate an int8 network, and images of the search slice to judge it."""
    draws = [
        next(iter(images.batches(min(count, len(images)), rng=np.random.default_rng(0))))[0]
        for images, count in ((dataset.train, INT8_IMAGES), (dataset.search, JUDGED_IMAGES))
    ]
    return Examples(*draws)
