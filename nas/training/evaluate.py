"""Accuracy of networks, and of the subnets of a supernet with the weights that they inherit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas.architecture import Architecture
from nas.data import Dataset, Images
from nas.data.splits import choose_stratified
from nas.supernet import Supernet
from nas.training.processes import ALONE, Processes

# Two draws of 1,000 images differ by 0.2 points of accuracy, of 300 by 0.3, of 100 by 1.1; 3,000
# are no better than 1,000 (CIFAR-10, 5,000 held-out images, mean of eight subnets).
CALIBRATION_BATCHES = 10
CALIBRATION_BATCH_SIZE = 100
CALIBRATION_SEED = 0  # all subnets see the same images, so that they differ in nothing else
JUDGED_IMAGES = 2000  # after each epoch: accuracies to about a point, in little time


def calibrate(
    network: nn.Module, images: Images, *, batches: int, batch_size: int, rng: np.random.Generator
) -> None:
    """Set each norm's statistics to their mean over a few batches of training images, in place.

    Statistics depend on the widths of all layers before the norm, so a subnet of a supernet has
    those of a mixture of other networks (Yu & Huang 2019, arXiv 1903.05134, section 3.3).
    """
    device = _device(network)
    with remembering_norms(network), torch.no_grad():
        for inputs, _ in islice(images.batches(batch_size, rng=rng, drop_last=True), batches):
            network(inputs.to(device, memory_format=torch.channels_last))


@contextmanager
def remembering_norms(network: nn.Module) -> Iterator[None]:
    """Inside, norms use the statistics of each batch and take the mean over all batches as theirs.

    All else is in evaluation; afterwards the mode is as it was.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    was_training = network.training
    network.eval()  # all but the norms
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's sign for the mean over all batches
        norm.train()
    yield
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(was_training)


def accuracy(network: nn.Module, images: Images, *, batch_size: int = 256) -> float:
    """The share of images whose most probable class is their label, in [0, 1]."""
    return _hits(network, images, batch_size=batch_size) / len(images)


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
    """Accuracy with inherited weights on ``images``, by default the search slice.

    They are resized to the architecture's input size.
    """
    network = inherited_network(supernet, architecture, dataset.train)
    judges = dataset.search if images is None else images
    return accuracy(network, judges.at(architecture.input_size))


def judge(supernet: Supernet, dataset: Dataset, processes: Processes = ALONE) -> dict[str, float]:
    """Inherited accuracies of the smallest, the middle and the largest subnet.

    They are taken on the ``judged_images``, of which each process takes its share.
    """
    images = judged_images(dataset)
    space = supernet.space
    subnets = {
        "smallest": space.smallest(),
        "middle": space.decode(space.uniform(0.5)),
        "largest": space.largest(),
    }
    part = images.subset(range(processes.rank, len(images), processes.count))
    hits = torch.tensor(
        [
            _hits(inherited_network(supernet, subnet, dataset.train), part.at(subnet.input_size))
            for subnet in subnets.values()
        ],
        device=_device(supernet),
    )
    processes.add_up(hits)
    return {name: count / len(images) for name, count in zip(subnets, hits.tolist(), strict=True)}


def _hits(network: nn.Module, images: Images, *, batch_size: int = 256) -> int:
    device, was_training = _device(network), network.training
    network.eval()
    correct = torch.zeros((), dtype=torch.int64, device=device)
    with torch.inference_mode():
        for inputs, labels in images.batches(batch_size):
            logits = network(inputs.to(device, memory_format=torch.channels_last))
            correct += (logits.argmax(1) == labels.to(device)).sum()
    network.train(was_training)
    return int(correct)


def judged_images(dataset: Dataset) -> Images:
    """The search slice, or a fixed stratified part of it if it is large."""
    images = dataset.search
    if len(images) <= JUDGED_IMAGES:
        return images
    rng = np.random.default_rng(0)
    return images.subset(choose_stratified(images.labels.numpy(), JUDGED_IMAGES, rng))


def _device(network: nn.Module) -> torch.device:
    return next((it.device for it in network.parameters()), torch.device("cpu"))
