"""Gradients of a batch that is too large for one pass: part by part, added up."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from nas.training.sandwich import Losses


class AddGradients(Protocol):
    """Adds ``weight`` times the gradients of the mean losses of some images (N, 3, S, S)."""

    def __call__(self, images: Tensor, labels: Tensor, *, weight: float) -> Losses: ...


def add_in_parts(
    add: AddGradients, images: Tensor, labels: Tensor, *, parts: int, batch_size: int
) -> Losses:
    """Add the gradients of ``images`` in parts; gives what they contribute to the batch's losses.

    The images may be one process's share of a batch of ``batch_size``: the sums over parts and
    processes are the gradients and the losses of the whole batch. Only norms tell the difference:
    each part is normalised by its own statistics, and running statistics move once per part.
    """
    contributions = []
    for some, their_labels in zip(
        images.tensor_split(parts), labels.tensor_split(parts), strict=True
    ):
        weight = len(their_labels) / batch_size
        contributions.append(weight * torch.stack(add(some, their_labels, weight=weight)))
    return Losses(*torch.stack(contributions).sum(0))
