"""One step of the sandwich rule (Yu & Huang 2019, arXiv 1903.05134).

The largest, the smallest and a few random subnets learn, each from a batch of its own if there are
``Lessons``; their gradients add up, and the optimizer steps once.

No `torch.compile`: on a CPU (one thread, batch 64, best of 7, forward and backward in ms) the plain
compiled network took 106 where the supernet takes 108 (`cifar10_32px`, largest), 29 for 32
(smallest), 3375 for 2754 (`mobile_64px`, largest), after 37, 12 and 74 s of compiling.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nas.architecture import Architecture
from nas.data.images import resize
from nas.space import SearchSpace
from nas.supernet import Supernet
from nas.training.distillation import Divergence, diverge
from nas.training.drop_path import drop_path
from nas.training.lessons import Lesson, Lessons
from nas.training.paths import Probabilities, sample_by_paths
from nas.training.precision import TrainingPrecision, in_precision
from nas.training.teacher import Teacher


class Losses(NamedTuple):
    """Means over a batch, in nats; ``hits`` is the share of images that the largest gets right.

    ``subnets`` and ``distillation`` are means over the subnets other than the largest: of the
    cross-entropy with the labels, and of the divergence from the largest's outputs or a teacher's.
    They are of the images that each learns from. ``mixture`` is that of the path choices with the
    labels, 0 without one.
    """

    largest: Tensor
    subnets: Tensor
    distillation: Tensor
    mixture: Tensor
    hits: Tensor


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
    images: Tensor,
    labels: Tensor,
    *,
    largest: Architecture,
    subnets: list[Architecture],
    distillation: float,
    divergence: Divergence = "kl",
    teacher: Teacher | None = None,
    lessons: Lessons | None = None,
    weight: float = 1.0,
    precision: TrainingPrecision | None = None,
    drop_rate: float = 0.0,
    rng: np.random.Generator | None = None,
) -> Losses:
    """Add the gradients of the largest and of each subnet to the supernet's.

    All learn from labels (N,). For the subnets, soft outputs of the largest replace them by the
    share ``distillation``: the loss is (1 - share) * cross-entropy + share * divergence, both means
    over the batch. A ``teacher`` takes the place of the largest, which then learns from it too.
    With ``lessons``, to which this one is added, each subnet learns from that of an earlier step.
    ``weight`` is what the images count in a larger batch; losses are without it. Images (N,
    channels, S, S) are resized to each network's input size. With a ``drop_rate``, which needs an
    ``rng``, the largest drops paths.
    """
    forward = in_precision(supernet, images.device, precision)
    sized = cache(resize)  # many subnets have the same size
    with _dropping(supernet, largest, drop_rate, rng):
        logits = forward(sized(images, largest.input_size), largest)
    label_loss = loss = functional.cross_entropy(logits, labels)
    hits = (logits.argmax(1) == labels).float().mean()
    target = logits.detach() if teacher is None else teacher(images)  # (N, classes)
    if teacher is not None:
        loss = (1 - distillation) * loss + distillation * diverge(logits, target, divergence)
    (weight * loss).backward()  # type: ignore[no-untyped-call]
    lesson = Lesson(images, labels, target)
    if lessons is not None:
        lessons.add(lesson)
    label_losses, divergences = [], []
    for pupil, subnet in enumerate(subnets, 1):
        images, labels, target = lesson if lessons is None else lessons.of(pupil)
        logits = forward(sized(images, subnet.input_size), subnet)
        cross_entropy = functional.cross_entropy(logits, labels)
        distance = diverge(logits, target, divergence)
        loss = (1 - distillation) * cross_entropy + distillation * distance
        (weight * loss).backward()  # type: ignore[no-untyped-call]
        label_losses.append(cross_entropy.detach())
        divergences.append(distance.detach())
    return Losses(
        label_loss.detach(),
        torch.stack(label_losses).mean(),
        torch.stack(divergences).mean(),
        label_loss.new_zeros(()),
        hits,
    )


def _dropping(
    supernet: Supernet, largest: Architecture, rate: float, rng: np.random.Generator | None
) -> AbstractContextManager[None]:
    if rate == 0:
        return nullcontext()
    if rng is None:
        raise ValueError("add_gradients: drop_rate needs an rng")
    return drop_path(supernet.plain_modules(largest), rate, rng)
