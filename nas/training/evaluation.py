"""Accuracy of networks, and of the subnets of a supernet with the weights that they inherit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from nas.architecture import Architecture
from nas.data import Dataset
from nas.data.images import Images
from nas.data.splits import choose_stratified
from nas.search import Rank, run_race
from nas.search.racing import CONFIDENCE, Hits, Positions
from nas.supernet import Supernet
from nas.training.prefixes import Prefixes, remembering_norms
from nas.training.processes import ALONE, Processes

CALIBRATION_BATCHES, CALIBRATION_BATCH_SIZE = 10, 100
"""More images make no difference, see benchmarks/README.md."""
CALIBRATION_SEED = 0  # all subnets see the same images, so that they differ in nothing else
EPOCH_IMAGES = 2000
"""For accuracies to about a point after each epoch."""
CACHE_MB = 512
"""Of feature maps, calibrated layers and hits, at most: benchmarks/evaluations.py."""


def calibrate(
    network: nn.Module, images: Images, *, batches: int, batch_size: int, rng: np.random.Generator
) -> None:
    """Set each norm's statistics to their mean over a few batches of training images, in place.

    Source: Yu & Huang 2019, arXiv 1903.05134, section 3.3.
    """
    device = _device(network)
    with remembering_norms(network), torch.no_grad():
        for inputs, _ in islice(images.batches(batch_size, rng=rng, drop_last=True), batches):
            network(inputs.to(device, memory_format=torch.channels_last))


def accuracy(network: nn.Module, images: Images, *, batch_size: int = 256) -> float:
    """The share of images whose most probable class is their label, in [0, 1]."""
    return int(find_hits(network, images, batch_size=batch_size).sum()) / len(images)


def inherited_network(
    supernet: Supernet, architecture: Architecture, training_images: Images
) -> nn.Module:
    """The extracted network, calibrated at its input size; the supernet stays as it is."""
    network = supernet.extract(architecture)
    calibrate(
        network,
        training_images.at(architecture.input_size),
        batches=CALIBRATION_BATCHES,
        batch_size=CALIBRATION_BATCH_SIZE,
        rng=np.random.default_rng(CALIBRATION_SEED),
    )
    return network.eval()


def inherited_accuracy(
    supernet: Supernet, architecture: Architecture, dataset: Dataset, images: Images | None = None
) -> float:
    """Accuracy with inherited weights on ``images``, by default the search slice, in [0, 1]."""
    network = inherited_network(supernet, architecture, dataset.train)
    images = dataset.search if images is None else images
    return accuracy(network, images.at(architecture.input_size))


def evaluate_supernet(
    supernet: Supernet, dataset: Dataset, processes: Processes = ALONE
) -> dict[str, float]:
    """Inherited accuracies of three subnets on the ``evaluation_images``, by all processes."""
    images, space = evaluation_images(dataset), supernet.space
    part = images.subset(range(processes.rank, len(images), processes.count))
    counts = []
    for subnet in (space.smallest(), space.decode(space.uniform(0.5)), space.largest()):
        network = inherited_network(supernet, subnet, dataset.train)
        counts.append(int(find_hits(network, part.at(subnet.input_size)).sum()))
    hits = torch.tensor(counts, device=_device(supernet))
    processes.add_up(hits)
    names = ("smallest", "middle", "largest")
    return {name: count / len(images) for name, count in zip(names, hits.tolist(), strict=True)}


class Evaluator:
    """Accuracies on the search slice with inherited weights; the supernet stays as it is.

    Shared layers do not run again while ``cache_mb`` megabytes hold their outputs.
    """

    def __init__(
        self,
        supernet: Supernet,
        dataset: Dataset,
        *,
        cache_mb: int = CACHE_MB,
        confidence: float = CONFIDENCE,
    ) -> None:
        self.prefixes = Prefixes(supernet, dataset, cache_mb * 10**6)
        self.confidence = confidence
        self._everything = np.arange(len(dataset.search))

    @property
    def macs(self) -> int:
        """Multiply-accumulates forwarded so far, calibration included."""
        return self.prefixes.macs

    @property
    def peak_cache_mb(self) -> float:
        return self.prefixes.memory.peak / 1e6

    def accuracy(self, architecture: Architecture) -> float:
        """The share of the search slice that the architecture gets right, in [0, 1]."""
        hits, _ = self.prefixes.predict(self.prefixes.subnet(architecture), self._everything)
        return int(hits.sum()) / len(hits)

    def race(
        self, current: Architecture, candidates: Sequence[Architecture], rank: Rank
    ) -> list[float]:
        """The candidates' accuracies, estimated for those that lost early: see ``run_race``."""
        # all before any runs: prefixes must know where they part
        first, *subnets = [self.prefixes.subnet(network) for network in (current, *candidates)]
        hits, margins = self.prefixes.predict(first, self._everything)
        rng = np.random.default_rng(0)

        def look(candidate: int, part: Positions, is_finalist: bool) -> Hits:
            return self.prefixes.predict(subnets[candidate], part, keep_all=is_finalist)[0]

        return run_race(
            look, len(candidates), hits, np.abs(margins), rank, rng=rng, confidence=self.confidence
        )


def find_hits(network: nn.Module, images: Images, *, batch_size: int = 256) -> Tensor:
    """For each image whether its most probable class is its label; (N,), bool."""
    device, was_training = _device(network), network.training
    network.eval()
    hits = [torch.zeros(0, dtype=torch.bool, device=device)]
    with torch.inference_mode():
        for inputs, labels in images.batches(batch_size):
            logits = network(inputs.to(device, memory_format=torch.channels_last))
            hits.append(logits.argmax(1) == labels.to(device))
    network.train(was_training)
    return torch.cat(hits)


def evaluation_images(dataset: Dataset) -> Images:
    """The search slice, or a fixed stratified part of it if it is large."""
    images = dataset.search
    if len(images) <= EPOCH_IMAGES:
        return images
    rng = np.random.default_rng(0)
    return images.subset(choose_stratified(images.labels.numpy(), EPOCH_IMAGES, rng))


def _device(network: nn.Module) -> torch.device:
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
