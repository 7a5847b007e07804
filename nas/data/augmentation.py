"""Random changes of training images, a batch at a time in plain torch, and their normalisation.

Crops, mirrored images and RandAugment change uint8 images as they are served. Erasing, mixup and
cutmix change whole batches of normalised images and soft targets (N, classes), whose rows add up
to 1; they draw from a numpy generator, the same on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nas.preprocessing import IMAGENET, Preprocessing

Operation = Callable[[Tensor, Tensor, Tensor], Tensor]
AffineRow = tuple[Tensor | float, Tensor | float, Tensor | float]

LARGEST_MAGNITUDE = 10.0
FILL = (124.0, 116.0, 104.0)
"""The colour beyond the edges of a turned image: ImageNet's mean red, green and blue."""
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R 601-2, as Pillow's mode L

ERASED_AREA = (0.02, 1 / 3)  # Zhong et al. 2020, arXiv 1708.04896, section 3.2
ERASED_RATIO = (0.3, 10 / 3)
ERASING_ATTEMPTS = 10


@dataclass(frozen=True)
class RandAugment:
    """How far images are distorted (Cubuk et al. 2020, arXiv 1909.13719).

    Each image gets ``operations`` random ones of DeiT's fifteen, each with probability ``share``,
    at a magnitude of 0 to 10 drawn around ``magnitude`` with a standard deviation of ``spread``.
    """

    operations: int = 2
    magnitude: float = 9.0
    spread: float = 0.5
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.magnitude <= LARGEST_MAGNITUDE:
            raise ValueError(
                f"magnitude must be between 0 and {LARGEST_MAGNITUDE:g}, got {self.magnitude}"
            )


@dataclass(frozen=True)
class Augmentation:
    """How training images vary.

    Images in memory are padded by ``crop_padding`` of their side (black) and cropped back at a
    random place: by default the 4 of 32 pixels of He et al. 2016, section 4.2. Streamed images
    take a random resized crop instead. ``mirror`` flips every other image, left to right.
    """

    crop_padding: float = 0.125
    mirror: bool = True
    distortion: RandAugment | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.crop_padding <= 0.5:
            raise ValueError(f"crop_padding must be between 0 and 0.5, got {self.crop_padding}")


def augment(pixels: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """New uint8 images (N, 3, S, S), each cropped, mirrored and distorted by its own draws."""
    count, _, side, _ = pixels.shape
    padding = round(augmentation.crop_padding * side)
    padded = F.pad(pixels, (padding,) * 4)
    corners = torch.randint(2 * padding + 1, (count, 2), generator=generator).tolist()
    # One slice per image is 2 to 3 times faster than one gather over the batch.
    crops = [
        image[:, top : top + side, left : left + side]
        for image, (top, left) in zip(padded, corners, strict=True)
    ]
    augmented = torch.stack(crops)
    if augmentation.mirror:
        mirrored = torch.rand(count, generator=generator) < 0.5
        augmented[mirrored] = augmented[mirrored].flip(3)
    distortion = augmentation.distortion
    return rand_augment(augmented, distortion, generator) if distortion else augmented


def normalise(pixels: Tensor, preprocessing: Preprocessing = IMAGENET) -> Tensor:
    """Float32 images of about zero mean and unit variance from uint8 ones, (N, 3, S, S)."""
    mean = torch.tensor(preprocessing.mean).mul_(255).view(3, 1, 1)
    std = torch.tensor(preprocessing.std).mul_(255).view(3, 1, 1)
    return pixels.float().sub_(mean).div_(std)


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
                top, left = (int(rng.integers(side - size + 1)) for size in (height, width))
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
    """Each image blended with its neighbour (Zhang et al. 2018, arXiv 1710.09412)."""
    share = rng.beta(alpha, alpha)  # of the image, and of its target; one for the batch
    return (
        share * images + (1 - share) * images.roll(1, 0),
        share * targets + (1 - share) * targets.roll(1, 0),
    )


def cutmix(
    images: Tensor, targets: Tensor, alpha: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """A rectangle of each image replaced by its neighbour's (Yun et al. 2019, arXiv 1905.04899)."""
    side = images.shape[-1]
    half = side * (1 - rng.beta(alpha, alpha)) ** 0.5 / 2
    y, x = rng.uniform(0, side, size=2)
    top, left = (max(0, round(middle - half)) for middle in (y, x))
    bottom, right = (min(side, round(middle + half)) for middle in (y, x))
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images.roll(1, 0)[:, :, top:bottom, left:right]
    share = (bottom - top) * (right - left) / side**2
    return mixed, (1 - share) * targets + share * targets.roll(1, 0)


def rand_augment(pixels: Tensor, settings: RandAugment, generator: torch.Generator) -> Tensor:
    """New uint8 images (N, 3, S, S), each distorted by its own draws."""
    images, count = pixels.clone(), len(pixels)
    for _ in range(settings.operations):
        which = torch.randint(len(OPERATIONS), (count,), generator=generator)
        which[torch.rand(count, generator=generator) >= settings.share] = -1  # left alone
        noise = settings.spread * torch.randn(count, generator=generator)
        strength = (settings.magnitude + noise).clamp_(0, LARGEST_MAGNITUDE) / LARGEST_MAGNITUDE
        sign = torch.randint(2, (count,), generator=generator) * 2 - 1
        for number, operation in enumerate(OPERATIONS.values()):
            chosen = (which == number).nonzero()[:, 0]
            if len(chosen):
                found = operation(images[chosen].float(), strength[chosen], sign[chosen])
                images[chosen] = found.round_().clamp_(0, 255).byte()
    return images


def _auto_contrast(images: Tensor) -> Tensor:
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    stretched = (images - low) * 255 / (high - low).clamp(min=1)
    return torch.where(high > low, stretched, images)


def _equalize(images: Tensor) -> Tensor:
    levels = images.flatten(2).long()  # (n, 3, S S)
    counts = torch.zeros(*levels.shape[:2], 256, dtype=torch.long)
    counts.scatter_add_(2, levels, torch.ones_like(levels))
    last = counts.gather(2, levels.amax(2, keepdim=True))  # of the brightest level
    step = (levels.shape[2] - last) // 255  # (n, 3, 1)
    below = counts.cumsum(2) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    equalized = table.gather(2, levels).view(images.shape).float()
    return torch.where(step[..., None] > 0, equalized, images)


def _blend(base: Callable[[Tensor], Tensor]) -> Operation:
    """From 0.1 of the way between ``base`` of the images and the images to 1.9, beyond them."""

    def operation(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
        start = base(images)
        return start + _column(1 + 0.9 * strength * sign) * (images - start)

    return operation


def _rotate(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    angle = torch.deg2rad(30 * strength * sign)
    return _affine(images, (angle.cos(), angle.sin(), 0), (-angle.sin(), angle.cos(), 0))


def _grey(images: Tensor) -> Tensor:
    weights = torch.tensor(LUMINANCE).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True).round()  # (n, 1, S, S)


def _smooth(images: Tensor) -> Tensor:
    kernel = torch.ones(3, 1, 3, 3)
    kernel[:, :, 1, 1] = 5
    smooth = images.clone()
    smooth[:, :, 1:-1, 1:-1] = F.conv2d(images, kernel / 13, groups=3).round()
    return smooth


OPERATIONS: Mapping[str, Operation] = {
    # stretch each channel to the full range; make its histogram as flat as possible
    "auto_contrast": lambda images, strength, sign: _auto_contrast(images),
    "equalize": lambda images, strength, sign: _equalize(images),
    "invert": lambda images, strength, sign: 255 - images,
    "rotate": _rotate,  # by up to 30 degrees
    # keep the four to one highest bits
    "posterize": lambda images, strength, sign: (
        images - images % _column(2 ** (8 - (4 - (4 * strength).floor()).clamp(min=1)))
    ),
    # the negative from a threshold on, of 256 down to 0; brighten dark pixels by up to 110
    "solarize": lambda images, strength, sign: torch.where(
        images < _column(256 * (1 - strength)), images, 255 - images
    ),
    "solarize_add": lambda images, strength, sign: torch.where(
        images < 128, (images + _column(110 * strength).floor()).clamp(max=255), images
    ),
    # less or more colour, contrast, brightness, sharpness
    "color": _blend(_grey),
    "contrast": _blend(lambda images: _grey(images).mean((2, 3), keepdim=True).round()),
    "brightness": _blend(torch.zeros_like),
    "sharpness": _blend(_smooth),
    # move rows sideways and columns up and down, by up to 0.3 of their distance from the middle;
    # move everything by up to 0.45 of the side
    "shear_x": lambda images, k, sign: _affine(images, (1, 0.3 * k * sign, 0), (0, 1, 0)),
    "shear_y": lambda images, k, sign: _affine(images, (1, 0, 0), (0.3 * k * sign, 1, 0)),
    "translate_x": lambda images, k, sign: _affine(images, (1, 0, 0.9 * k * sign), (0, 1, 0)),
    "translate_y": lambda images, k, sign: _affine(images, (1, 0, 0), (0, 1, 0.9 * k * sign)),
}
"""Each takes images (n, 3, S, S) of whole numbers in 0 to 255, strengths (n,) in 0 to 1 and signs
(n,) of -1 or 1, and returns new images of the same range."""


def _affine(images: Tensor, x: AffineRow, y: AffineRow) -> Tensor:
    """Pixels taken from x @ (column, row, 1) and y @ the same, in coordinates from -1 to 1."""
    entries = [torch.as_tensor(row, dtype=torch.float32).expand(len(images)) for row in (*x, *y)]
    matrix = torch.stack(entries, 1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    fill = torch.tensor(FILL).view(3, 1, 1)
    return F.grid_sample(images - fill, grid, align_corners=False) + fill


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
