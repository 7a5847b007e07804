"""Accuracy of networks, and of the subnets of a supernet with the weights that they inherit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas.architecture import Architecture
from nas.data import Dataset
from nas.data.images import Images
from nas.data.splits import choose_stratified
from nas.errors import UserError
from nas.network import Network
from nas.supernet import Supernet
from nas.training.processes import ALONE, Processes
from nas.training.relative import Anchors, RelativeStatistics, anchoring, modules_of

CALIBRATION_BATCHES, CALIBRATION_BATCH_SIZE = 10, 100  # enough, see benchmarks/README.md
CALIBRATION_SEED = 0  # all subnets see the same images, so that they differ in nothing else
EPOCH_IMAGES = 2000  # for accuracies to about a point after each epoch


def calibrate(
    network: nn.Module, images: Images, *, batches: int, batch_size: int, rng: np.random.Generator
) -> None:
    """Set norms' statistics to their mean over batches (Yu & Huang, arXiv 1903.05134, 3.3)."""
    device = _device(network)
    with remembering_norms(network), torch.no_grad():
        for inputs, _ in islice(images.batches(batch_size, rng=rng, drop_last=True), batches):
            network(inputs.to(device, memory_format=torch.channels_last))


@contextmanager
def remembering_norms(network: nn.Module) -> Iterator[None]:
    """Inside, norms take the mean of the statistics of all batches; all else is in evaluation."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta, was_training = [norm.momentum for norm in norms], network.training
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's sign for the mean over all batches
        norm.train()
    yield
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(was_training)


def accuracy(network: nn.Module, images: Images, *, batch_size: int = 256) -> float:
    """The share of images whose most probable class is their label, in [0, 1]: ``find_hits``."""
    return int(find_hits(network, images, batch_size=batch_size).sum()) / len(images)


def calibrate_relatively(
    network: Network,
    architecture: Architecture,
    anchor: Network,
    anchor_architecture: Architecture,
    images: Images,
    *,
    batches: int,
    batch_size: int,
    rng: np.random.Generator,
    seen: list[Anchors] | None = None,
) -> None:
    """Set norms' statistics relative to those of ``anchor`` (``nas/training/relative.py``).

    ``seen`` is what the anchor's norms see of each batch; what it lacks is added.
    """
    device, seen = _device(network), [] if seen is None else seen
    modules = modules_of(architecture, network.get_submodule)
    anchor_modules = modules_of(anchor_architecture, anchor.get_submodule)
    statistics = RelativeStatistics(modules)
    network.eval()
    anchor.eval()
    with torch.no_grad():
        served = islice(images.batches(batch_size, rng=rng, drop_last=True), batches)
        for index, (inputs, _) in enumerate(served):
            placed = inputs.to(device, memory_format=torch.channels_last)
            if index == len(seen):
                with anchoring(anchor_modules) as anchors:
                    anchor(placed)
                seen.append(anchors)
            with statistics.batch(seen[index]):
                network(placed)
    statistics.store()


def inherited_network(
    supernet: Supernet,
    architecture: Architecture,
    training_images: Images,
    seen: dict[int, list[Anchors]] | None = None,
) -> nn.Module:
    """The extracted network, calibrated at its input size; the supernet stays as it is.

    The largest network of a supernet that is anchored has its statistics; those of all others are
    relative to it: ``seen`` keeps, by input size, what its norms see, for the next call.
    """
    network = supernet.extract(architecture)
    images = training_images.at(architecture.input_size)
    rng = np.random.default_rng(CALIBRATION_SEED)
    amount = {"batches": CALIBRATION_BATCHES, "batch_size": CALIBRATION_BATCH_SIZE}
    if not supernet.anchored:
        calibrate(network, images, **amount, rng=rng)
        return network.eval()
    largest = supernet.space.largest().with_input_size(architecture.input_size)
    if architecture != largest:
        anchor = supernet.extract(largest)
        known = [] if seen is None else seen.setdefault(architecture.input_size, [])
        calibrate_relatively(
            network, architecture, anchor, largest, images, **amount, rng=rng, seen=known
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
    counts, seen = [], dict[int, list[Anchors]]()
    for subnet in (space.smallest(), space.decode(space.uniform(0.5)), space.largest()):
        network = inherited_network(supernet, subnet, dataset.train, seen)
        counts.append(int(find_answers(network, part.at(subnet.input_size))[0].sum()))
    hits = torch.tensor(counts, device=_device(supernet))
    processes.add_up(hits)
    names = ("smallest", "middle", "largest")
    return {name: count / len(images) for name, count in zip(names, hits.tolist(), strict=True)}


def find_hits(network: nn.Module, images: Images, *, batch_size: int = 256) -> Tensor:
    """For each image whether its most probable class is its label; (N,), bool.

    Raises UserError if the network answers with numbers that are not finite: they have no order.
    """
    hits, finite = find_answers(network, images, batch_size=batch_size)
    if count := int((~finite).sum()):
        raise UserError(
            f"the network gives numbers that are not finite (NaN or infinity) for {count:,} of "
            f"{len(finite):,} images"
        )
    return hits


def find_answers(
    network: nn.Module, images: Images, *, batch_size: int = 256
) -> tuple[Tensor, Tensor]:
    """For each image whether it is a hit, and whether all logits are finite, as a hit's are.

    Both are (N,), bool. For networks under training, of which some may overflow.
    """
    device, was_training = _device(network), network.training
    network.eval()
    found = [torch.zeros((2, 0), dtype=torch.bool, device=device)]
    with torch.inference_mode():
        for inputs, labels in images.batches(batch_size):
            logits = network(inputs.to(device, memory_format=torch.channels_last))
            finite = logits.isfinite().all(1)
            found.append(torch.stack([finite & (logits.argmax(1) == labels.to(device)), finite]))
    network.train(was_training)
    hits, finite = torch.cat(found, 1)
    return hits, finite


def evaluation_images(dataset: Dataset) -> Images:
    """The search slice, or a fixed stratified part of it if it is large."""
    images = dataset.search
    if len(images) <= EPOCH_IMAGES:
        return images
    rng = np.random.default_rng(0)
    return images.subset(choose_stratified(images.labels.numpy(), EPOCH_IMAGES, rng))


def _device(network: nn.Module) -> torch.device:
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
