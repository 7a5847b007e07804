"""One step of the sandwich rule (Yu & Huang 2019, arXiv 1903.05134).

The largest, the smallest and a few random subnets learn from the same batch; their gradients add
up, and the optimizer steps once.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nas.architecture import Architecture
from nas.space import SearchSpace
from nas.supernet import Supernet
from nas.training.paths import Probabilities, sample_by_paths


class Losses(NamedTuple):
    """Means over a batch, in nats; ``hits`` is the share of images that the largest gets right.

    ``subnets`` and ``distillation`` are means over the subnets other than the largest: of the
    cross-entropy with the labels, and of the divergence from the largest's outputs.
    """

    largest: Tensor
    subnets: Tensor
    distillation: Tensor
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
) -> Losses:
    """Add the gradients of the largest and of each subnet to the supernet's.

    All learn from labels (N,). For the subnets, soft outputs of the largest replace them by the
    share ``distillation``: the loss is (1 - share) * cross-entropy + share * divergence, both means
    over the batch.
    """
    logits = supernet(images, largest)
    label_loss = functional.cross_entropy(logits, labels)
    label_loss.backward()  # type: ignore[no-untyped-call]
    teacher = logits.detach().log_softmax(1)  # (N, classes)
    hits = (teacher.argmax(1) == labels).float().mean()
    label_losses, divergences = [], []
    for subnet in subnets:
        logits = supernet(images, subnet)
        cross_entropy = functional.cross_entropy(logits, labels)
        divergence = functional.kl_div(
            logits.log_softmax(1),
            teacher,
            reduction="batchmean",  # "mean" would divide by the classes too
            log_target=True,
        )
        loss = (1 - distillation) * cross_entropy + distillation * divergence
        loss.backward()  # type: ignore[no-untyped-call]
        label_losses.append(cross_entropy.detach())
        divergences.append(divergence.detach())
    return Losses(
        label_loss.detach(),
        torch.stack(label_losses).mean(),
        torch.stack(divergences).mean(),
        hits,
    )
