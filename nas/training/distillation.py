"""How much of the labels a teacher's outputs replace, and how far a pupil is from them.

A teacher that knows nothing cost its pupils 7 points on CIFAR-10 when they followed it from the
first step (in a prototype; not measured again). So its word counts as far as it is right: in each
epoch the share is what it got right of the training images in the epoch before, above chance.

What twelve subnets inherit on CIFAR-10 is a point more by it than by labels alone, with one seed
each, and seeds differ by as much. 40 epochs of 4,000 images, of which the largest learns 90 %: 60.8
against 59.8 % of the test images, the largest itself 62.8 against 63.4
(benchmarks/distillation.py). 12 epochs of 10,000 images, when networks still learnt from the same
images: -2.7 against -3.7 points to what they reach alone. 8 epochs of them, eight subnets: 56.5
against 56.3 % on `cifar10_32px`; 54.5 against 54.4 on an early four-stage version of it, where a
share that rises with the epochs had 54.1. Pupils end nearer to their teacher: a divergence of 0.118
against 0.135.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Divergence = Literal["kl", "alpha"]

ALPHAS = (-1.0, 1.0)
MOST_RATIO = 5.0
"""Both are AlphaNet's (Wang et al. 2021, arXiv 2102.07954, section 4)."""


def above_chance(accuracy: float, classes: int) -> float:
    """0 for guessing, 1 for knowing all."""
    chance = 1 / classes
    return max(0.0, (accuracy - chance) / (1 - chance))


def diverge(logits: Tensor, teacher: Tensor, divergence: Divergence) -> Tensor:
    """How far the outputs are from the teacher's, both logits (N, classes): mean over the batch."""
    if divergence == "alpha":
        return alpha_divergence(logits, teacher).mean()
    return kl_divergence(logits, teacher)


def kl_divergence(logits: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || outputs) in nats, mean over the batch."""
    return functional.kl_div(
        logits.log_softmax(1),
        teacher.detach().log_softmax(1),
        reduction="batchmean",  # "mean" would divide by the classes too
        log_target=True,
    )


def alpha_divergence(
    logits: Tensor,
    teacher: Tensor,
    *,
    alphas: tuple[float, float] = ALPHAS,
    most_ratio: float = MOST_RATIO,
) -> Tensor:
    """The larger of two clipped alpha-divergences of each image (N,), with AlphaNet's gradient.

    With p the teacher's probabilities and q ours, D = (E_q[(p / q)^alpha] - 1) / (alpha (alpha -
    1)); 1 stands for its limit KL(p || q). A positive alpha punishes classes of the teacher's that
    the pupil misses, a negative one classes that only the pupil sees. So that a class of which one
    of them is sure does not drown all others, (p / q)^alpha is cut at ``most_ratio``, except for 1;
    the gradient is -E_q[(p / q)^alpha / alpha grad log q] with the cut ratio.
    """
    first, second = (_clipped(logits, teacher.detach(), alpha, most_ratio) for alpha in alphas)
    value, slope = (
        torch.where(first[0] > second[0], *pair) for pair in zip(first, second, strict=True)
    )
    return value + slope - slope.detach()  # the value of the one, the gradient of the other


def _clipped(
    logits: Tensor, teacher: Tensor, alpha: float, most_ratio: float
) -> tuple[Tensor, Tensor]:
    """The clipped divergence (N,), and a sum (N,) of which only the gradient means something."""
    log_p, log_q = teacher.log_softmax(1), logits.log_softmax(1)
    p, q = log_p.exp(), log_q.detach().exp()
    if alpha == 1:
        return (p * (log_p - log_q.detach())).sum(1), -(p * log_q).sum(1)
    # q times the ratio's power, from logarithms: q of 0 would make it infinite times 0
    ratio = (alpha * (log_p - log_q.detach())).exp().clamp(max=most_ratio)
    value = ((q * ratio).sum(1) - 1) / (alpha * (alpha - 1))
    return value, -(q * ratio / alpha * log_q).sum(1)
