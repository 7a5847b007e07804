"""RandAugment (Cubuk et al. 2020, arXiv 1909.13719), a batch at a time, in plain torch.

The fifteen operations and their ranges are those with which DeiT and EfficientFormer were trained:
every operation distorts more as the magnitude grows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

MOST = 10.0
"""The largest magnitude."""
FILL = (124.0, 116.0, 104.0)
"""What a turned image shows beyond its edges: ImageNet's mean red, green and blue."""
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R 601-2, as Pillow's mode L


@dataclass(frozen=True)
class RandAugment:
    """How far images are distorted.

    Each image gets ``operations`` random operations, each with probability ``share``, at a
    magnitude of 0 to 10 drawn around ``magnitude`` with a standard deviation of ``spread``.
    """

    operations: int = 2
    magnitude: float = 9.0
    spread: float = 0.5
    share: float = 0.5

    def __post_init__(self) -> None:
        """Refuse magnitudes that no operation knows."""
        if not 0 <= self.magnitude <= MOST:
            raise ValueError(f"magnitude must be between 0 and {MOST:g}, got {self.magnitude}")


def rand_augment(pixels: Tensor, settings: RandAugment, generator: torch.Generator) -> Tensor:
    """New uint8 images (N, 3, S, S), each distorted by its own draws."""
    images, count = pixels.clone(), len(pixels)
    for _ in range(settings.operations):
        which = torch.randint(len(OPERATIONS), (count,), generator=generator)
        which[torch.rand(count, generator=generator) >= settings.share] = -1  # left alone
        noise = settings.spread * torch.randn(count, generator=generator)
        strength = (settings.magnitude + noise).clamp_(0, MOST) / MOST
        sign = torch.randint(2, (count,), generator=generator) * 2 - 1
        for number, operation in enumerate(OPERATIONS.values()):
            chosen = (which == number).nonzero()[:, 0]
            if len(chosen):
                found = operation(images[chosen].float(), strength[chosen], sign[chosen])
                images[chosen] = found.round_().clamp_(0, 255).byte()
    return images


# Each operation takes images (n, 3, S, S) of whole numbers in 0 to 255, strengths (n,) in 0 to 1
# and signs (n,) of -1 or 1, and makes new images of the same range.


def auto_contrast(images: Tensor, _strength: Tensor, _sign: Tensor) -> Tensor:
    """Stretch each channel to the full range."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    stretched = (images - low) * 255 / (high - low).clamp(min=1)
    return torch.where(high > low, stretched, images)


def equalize(images: Tensor, _strength: Tensor, _sign: Tensor) -> Tensor:
    """Spread each channel so that its histogram is as flat as possible."""
    levels = images.flatten(2).long()  # (n, 3, S S)
    counts = torch.zeros(*levels.shape[:2], 256, dtype=torch.long)
    counts.scatter_add_(2, levels, torch.ones_like(levels))
    last = counts.gather(2, levels.amax(2, keepdim=True))  # of the brightest level
    step = (levels.shape[2] - last) // 255  # (n, 3, 1)
    below = counts.cumsum(2) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    equalized = table.gather(2, levels).view(images.shape).float()
    return torch.where(step[..., None] > 0, equalized, images)


def invert(images: Tensor, _strength: Tensor, _sign: Tensor) -> Tensor:
    """The negative."""
    return 255 - images


def rotate(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    """Turn by up to 30 degrees."""
    angle = torch.deg2rad(30 * strength * sign)
    return _affine(images, (angle.cos(), angle.sin(), 0), (-angle.sin(), angle.cos(), 0))


def posterize(images: Tensor, strength: Tensor, _sign: Tensor) -> Tensor:
    """Keep the four to one highest bits."""
    bits = (4 - (4 * strength).floor()).clamp(min=1)
    return images - images % _column(2 ** (8 - bits))


def solarize(images: Tensor, strength: Tensor, _sign: Tensor) -> Tensor:
    """The negative of all that is as bright as a threshold, of 256 down to 0."""
    return torch.where(images < _column(256 * (1 - strength)), images, 255 - images)


def solarize_add(images: Tensor, strength: Tensor, _sign: Tensor) -> Tensor:
    """Brighten what is dark by up to 110."""
    brighter = (images + _column(110 * strength).floor()).clamp(max=255)
    return torch.where(images < 128, brighter, images)


def color(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    """Less or more colour."""
    return _blend(_grey(images), images, strength, sign)


def contrast(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    """Less or more contrast."""
    return _blend(_grey(images).mean((2, 3), keepdim=True).round(), images, strength, sign)


def brightness(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    """Darker or brighter."""
    return _blend(torch.zeros_like(images), images, strength, sign)


def sharpness(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    """Smoother or sharper; the outermost pixels stay."""
    kernel = torch.ones(3, 1, 3, 3)
    kernel[:, :, 1, 1] = 5
    smooth = images.clone()
    smooth[:, :, 1:-1, 1:-1] = F.conv2d(images, kernel / 13, groups=3).round()
    return _blend(smooth, images, strength, sign)


def shear_x(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    """Move rows sideways, by up to 0.3 of their distance from the middle."""
    return _affine(images, (1, 0.3 * strength * sign, 0), (0, 1, 0))


def shear_y(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    """Move columns up and down, by up to 0.3 of their distance from the middle."""
    return _affine(images, (1, 0, 0), (0.3 * strength * sign, 1, 0))


def translate_x(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    """Move sideways by up to 0.45 of the side."""
    return _affine(images, (1, 0, 0.9 * strength * sign), (0, 1, 0))


def translate_y(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    """Move up or down by up to 0.45 of the side."""
    return _affine(images, (1, 0, 0), (0, 1, 0.9 * strength * sign))


Operation = Callable[[Tensor, Tensor, Tensor], Tensor]

OPERATIONS: Mapping[str, Operation] = {
    "auto_contrast": auto_contrast,
    "equalize": equalize,
    "invert": invert,
    "rotate": rotate,
    "posterize": posterize,
    "solarize": solarize,
    "solarize_add": solarize_add,
    "color": color,
    "contrast": contrast,
    "brightness": brightness,
    "sharpness": sharpness,
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
}

Row = tuple[Tensor | float, Tensor | float, Tensor | float]


def _affine(images: Tensor, x: Row, y: Row) -> Tensor:
    """Pixels taken from x @ (column, row, 1) and y @ the same, in coordinates from -1 to 1."""
    entries = [torch.as_tensor(one, dtype=torch.float32).expand(len(images)) for one in (*x, *y)]
    matrix = torch.stack(entries, 1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    fill = torch.tensor(FILL).view(3, 1, 1)
    return F.grid_sample(images - fill, grid, align_corners=False) + fill


def _blend(base: Tensor, images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    """From 0.1 of the way between ``base`` and the images to 1.9, beyond them."""
    return base + _column(1 + 0.9 * strength * sign) * (images - base)


def _grey(images: Tensor) -> Tensor:
    weights = torch.tensor(LUMINANCE).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True).round()  # (n, 1, S, S)


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
