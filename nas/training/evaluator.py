"""What a search asks a supernet: the accuracy of one architecture after another."""

from __future__ import annotations

import numpy as np

from nas.architecture import Architecture
from nas.data import Dataset
from nas.supernet import Supernet
from nas.training.evaluate import accuracy, calibrate

CALIBRATION_IMAGES, CALIBRATION_BATCH = 256, 64
"""For each evaluation of a search; the networks that it delivers are calibrated on more."""


class Evaluator:
    """Accuracies on the search slice with inherited weights; the supernet stays as it is."""

    def __init__(self, supernet: Supernet, dataset: Dataset) -> None:
        self.supernet, self.dataset = supernet, dataset

    def accuracy(self, architecture: Architecture) -> float:
        """The share of the search slice that the architecture gets right, in [0, 1]."""
        dataset = self.dataset.at(architecture.input_size)
        network = self.supernet.extract(architecture)
        calibrate(
            network,
            dataset.train,
            batches=CALIBRATION_IMAGES // CALIBRATION_BATCH,
            batch_size=min(CALIBRATION_BATCH, len(dataset.train)),
            rng=np.random.default_rng(0),  # the same images for all
        )
        return accuracy(network, dataset.search)
