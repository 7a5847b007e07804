"""The gradients of a supernet's step: the sandwich rule, and path choice.

Sandwich rule (Yu & Huang 2019, arXiv 1903.05134): the largest, the smallest and a few random
subnets learn, each from a batch of its own if there is a ``BatchHistory``; their gradients add up,
and the optimizer steps once.

Path choice: in some steps a mixture of the candidates of each slot takes the place of a random
subnet, and a Gumbel-softmax learns which of the candidates matter. MetaPath supernets:
EfficientFormer V1 (Li et al. 2022, arXiv 2206.01191); the Gumbel-softmax: Jang et al. 2017, arXiv
1611.01144. Neither temperatures nor rate of the former were published. The mixture teaches the path
logits alone, so the networks are bit for bit as they would be without it and with one random subnet
fewer. Norms do not remember its maps, because no network that anybody runs has such maps.
Alternatives that were tried: benchmarks/README.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import cache
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nas.architecture import Architecture
from nas.data.images import resize
from nas.space import SearchSpace
from nas.supernet import Supernet
from nas.training.batches import Batch, BatchHistory, TaughtBatch
from nas.training.distillation import Distillation, diverge
from nas.training.settings import LatencyTerm, TrainingPrecision
from nas.training.step import DropPath, in_precision

Probabilities = Mapping[str, Mapping[str, float]]
"""Of each kind in each slot that is a path choice; those of a slot add up to 1."""
LOSSES = ("largest", "subnets", "distillation", "mixture", "hits")
"""Means over a batch, in nats; ``hits`` is the share of images that the largest gets right.

``subnets`` and ``distillation`` are means over the subnets other than the largest: of the
cross-entropy with the labels, and of the divergence from the largest's outputs or a teacher's. They
are of the images that each learns from. ``mixture`` is that of the path choices with the labels, 0
without one.
"""


def draw_subnets(
    space: SearchSpace,
    rng: np.random.Generator,
    random_subnets: int,
    probabilities: Probabilities = MappingProxyType({}),
) -> list[Architecture]:
    """The subnets of one step beside the largest: the smallest and some random ones.

    Those take their kinds by ``probabilities`` in the slots that these name.
    """
    drawn = (sample_by_paths(space, rng, probabilities) for _ in range(random_subnets))
    return [space.smallest(), *drawn]


def add_gradients(
    supernet: Supernet,
    batch: Batch,
    networks: list[Architecture],
    distillation: Distillation,
    *,
    history: BatchHistory | None = None,
    precision: TrainingPrecision | None = None,
    drop_path: DropPath | None = None,
) -> Tensor:
    """Add the gradients of ``networks``, the largest first, to the supernet's; return ``LOSSES``.

    All learn from labels; for the subnets, the outputs of the largest replace them by a share. A
    teacher takes the place of the largest, which then learns from it too. With a ``history``, to
    which this batch is added, each subnet learns from that of an earlier step. Images are resized
    to each network's input size. With ``drop_path``, the largest drops paths. Gradients count by
    the batch's weight, losses (5,) are without it.
    """
    images, labels = batch.images, batch.labels
    largest, *subnets = networks
    forward = in_precision(supernet, images.device, precision)
    sized = cache(resize)  # many subnets have the same size
    with drop_path.applied_to(supernet.plain_modules(largest)) if drop_path else nullcontext():
        logits = forward(sized(images, largest.input_size), largest)
    label_loss = loss = functional.cross_entropy(logits, labels)
    hits = (logits.argmax(1) == labels).float().mean()
    if distillation.teacher is None:
        target = logits.detach()  # (N, classes)
    else:
        target = distillation.teacher(images)
        loss = distillation.loss(loss, diverge(logits, target, distillation.divergence))
    (batch.weight * loss).backward()  # type: ignore[no-untyped-call]
    taught = TaughtBatch(images, labels, target)
    if history is not None:
        history.add(taught)
    label_losses, divergences = [], []
    for student, subnet in enumerate(subnets, 1):
        images, labels, target = taught if history is None else history.batch_of(student)
        logits = forward(sized(images, subnet.input_size), subnet)
        cross_entropy = functional.cross_entropy(logits, labels)
        divergence = diverge(logits, target, distillation.divergence)
        loss = distillation.loss(cross_entropy, divergence)
        (batch.weight * loss).backward()  # type: ignore[no-untyped-call]
        label_losses.append(cross_entropy.detach())
        divergences.append(divergence.detach())
    return torch.stack(
        [
            label_loss.detach(),
            torch.stack(label_losses).mean(),
            torch.stack(divergences).mean(),
            label_loss.new_zeros(()),
            hits,
        ]
    )


def add_path_gradients(
    supernet: Supernet,
    batch: Batch,
    *,
    rng: np.random.Generator,
    temperature: float,
    latency: LatencyTerm | None,
    precision: TrainingPrecision | None = None,
) -> Tensor:
    """Add the gradients of a mixture of all kinds to the path logits; returns its cross-entropy.

    That is in nats, and without the batch's weight, by which gradients count. With ``latency``, its
    share of the largest network's latency is added to the loss.
    """
    logits = supernet.path_logits
    forward = in_precision(supernet.mixture, batch.images.device, precision)
    images = resize(batch.images, batch.resolution)
    outputs = forward(images, gumbel_weights(logits, rng, temperature))
    cross_entropy = functional.cross_entropy(outputs, batch.labels)
    loss = cross_entropy if latency is None else cross_entropy + latency(logits)
    (batch.weight * loss).backward()  # type: ignore[no-untyped-call]
    return cross_entropy.detach()


def path_probabilities(supernet: Supernet) -> Probabilities:
    """The softmax of the logits: how often each candidate wins when Gumbel noise is added to them.

    That holds for any temperature, which only says how clear a win is.
    """
    space = supernet.space
    found: dict[str, dict[str, float]] = {}
    for slot, logits in supernet.path_logits.items():
        kinds = map(str, space.typed_choices[space.kind_choices[slot]].options)
        chances = logits.detach().double().softmax(0).tolist()
        found[slot] = dict(zip(kinds, chances, strict=True))
    return found


def scheduled_temperature(step: int, *, steps: int, start: float, end: float) -> float:
    """The temperature of a step, from 0: it falls by the same factor in each step."""
    share = step / max(1, steps - 1)
    return float(start ** (1 - share) * end**share)


def gumbel_weights(
    logits: Mapping[str, Tensor], rng: np.random.Generator, temperature: float
) -> dict[str, Tensor]:
    """softmax((logits + noise) / temperature) of each slot, the noise -log(-log U)."""
    return {
        slot: ((vector + gumbel_noise(rng, len(vector)).to(vector)) / temperature).softmax(0)
        for slot, vector in logits.items()
    }


def gumbel_noise(rng: np.random.Generator, count: int) -> Tensor:
    """So many draws of -log(-log U) for U uniform in (0, 1)."""
    return torch.from_numpy(rng.gumbel(size=count))


def sample_by_paths(
    space: SearchSpace, rng: np.random.Generator, probabilities: Probabilities
) -> Architecture:
    """A random architecture like ``space.sample``, with each path choice by its probabilities."""
    assignment = list(space.sample_assignment(rng))
    for slot, chances in probabilities.items():
        drawn = rng.choice(len(chances), p=list(chances.values()))
        assignment[space.kind_choices[slot]] = int(drawn)
    return space.decode(assignment)
