"""Changes of a whole batch that keep a network from learning it by heart: erasing, mixup, cutmix.

They work on normalised images (N, 3, S, S) and on soft targets (N, classes), whose rows add up to
1. Whatever is random is drawn from ``rng``, the same on every device.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

ERASED_AREA = (0.02, 1 / 3)  # Zhong et al. 2020, arXiv 1708.04896, section 3.2
ERASED_RATIO = (0.3, 10 / 3)
ERASING_ATTEMPTS = 10


def soft_targets(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """Targets (N, classes) that spread ``smoothing`` of each label (N,) evenly over all classes."""
    return F.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes


def erase(images: Tensor, probability: float, rng: np.random.Generator) -> Tensor:
    """New images, each with that probability of a rectangle of standard normal noise."""
    erased = images.clone()
    side = images.shape[-1]
    for image in erased:
        if rng.random() >= probability:
            continue
        for _ in range(ERASING_ATTEMPTS):
            area = side**2 * rng.uniform(*ERASED_AREA)
            ratio = np.exp(rng.uniform(*np.log(ERASED_RATIO)))
            height, width = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if 0 < height < side and 0 < width < side:
                top, left = (int(rng.integers(side - it + 1)) for it in (height, width))
                noise = torch.from_numpy(rng.standard_normal((3, height, width), np.float32))
                image[:, top : top + height, left : left + width] = noise.to(image)
                break
    return erased


def mix(
    images: Tensor,
    targets: Tensor,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Mixup or cutmix with equal probability, or the one whose alpha is not 0, or neither."""
    both = mixup_alpha > 0 and cutmix_alpha > 0
    cuts = rng.random() < 0.5 if both else cutmix_alpha > 0
    if cuts:
        return cutmix(images, targets, cutmix_alpha, rng)
    if mixup_alpha > 0:
        return mixup(images, targets, mixup_alpha, rng)
    return images, targets


def mixup(
    images: Tensor, targets: Tensor, alpha: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Each image blended with its neighbour (Zhang et al. 2018, arXiv 1710.09412).

    The share of the image, and of its target, is drawn from Beta(alpha, alpha), one for the batch.
    """
    share = rng.beta(alpha, alpha)
    return (
        share * images + (1 - share) * images.roll(1, 0),
        share * targets + (1 - share) * targets.roll(1, 0),
    )


def cutmix(
    images: Tensor, targets: Tensor, alpha: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """A rectangle of each image replaced by its neighbour's (Yun et al. 2019, arXiv 1905.04899).

    Its area, up to what lies beyond the edges, is drawn from Beta(alpha, alpha), one rectangle for
    the batch. The neighbour's target gets exactly the share of the pixels that it shows.
    """
    side = images.shape[-1]
    half = side * (1 - rng.beta(alpha, alpha)) ** 0.5 / 2
    y, x = rng.uniform(0, side, size=2)
    top, left = (max(0, round(middle - half)) for middle in (y, x))
    bottom, right = (min(side, round(middle + half)) for middle in (y, x))
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images.roll(1, 0)[:, :, top:bottom, left:right]
    share = (bottom - top) * (right - left) / side**2
    return mixed, (1 - share) * targets + share * targets.roll(1, 0)
