from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from nas.data.augmentation import cutmix, erase, mix, mixup, soft_targets

SIDE = 16
LABELS = torch.tensor([3, 1, 0, 2, 2, 1])
TARGETS = soft_targets(LABELS, 4, 0.0)
IMAGES = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, SIDE, SIDE).contiguous()
"""Each image shows its own number everywhere, so that every pixel tells where it came from."""


def shown(images: Tensor) -> Tensor:
    """(N, classes): which share of the pixels shows an image of each class."""
    return torch.stack([TARGETS[image[0].long().flatten()].float().mean(0) for image in images])


def test_smoothed_targets_are_distributions() -> None:
    targets = soft_targets(LABELS, 4, 0.1)
    assert torch.allclose(targets.sum(1), torch.ones(6))
    assert torch.allclose(targets[0], torch.tensor([0.025, 0.025, 0.025, 0.925]))
    assert torch.equal(TARGETS, torch.eye(4)[LABELS])


def test_cutmix_weighs_labels_by_the_area_that_shows_them() -> None:
    shares = []
    for seed in range(40):
        mixed, targets = cutmix(IMAGES, TARGETS, 1.0, np.random.default_rng(seed))
        assert torch.allclose(targets, shown(mixed), atol=1e-6)
        shares.append(float((mixed == IMAGES).float().mean()))
    assert min(shares) < 0.4
    assert max(shares) == 1 or max(shares) > 0.95


def test_cutmix_cuts_one_rectangle() -> None:
    mixed, _ = cutmix(IMAGES, TARGETS, 1.0, np.random.default_rng(3))
    foreign = (mixed != IMAGES)[0, 0]
    rows, columns = foreign.any(1), foreign.any(0)
    assert torch.equal(foreign, rows[:, None] & columns)
    assert 0 < int(foreign.sum()) < SIDE**2


def test_mixup_blends_targets_as_it_blends_images() -> None:
    for seed in range(10):
        mixed, targets = mixup(IMAGES, TARGETS, 0.8, np.random.default_rng(seed))
        share = 1 - mixed[1, 0, 0, 0].item()  # image 1 shows 1, its neighbour 0
        assert 0 <= share <= 1 or share == pytest.approx(1)
        own = 1 - share
        expected = own * TARGETS + (1 - own) * TARGETS[[5, 0, 1, 2, 3, 4]]
        assert torch.allclose(targets, expected, atol=1e-6)
        assert torch.allclose(targets.sum(1), torch.ones(6))
        assert mixed.std((1, 2, 3)).max() == 0


@pytest.mark.parametrize(
    ("mixup_alpha", "cutmix_alpha", "kinds"),
    [(0.8, 1.0, {"mixup", "cutmix"}), (0.8, 0, {"mixup"}), (0, 1.0, {"cutmix"}), (0, 0, {"none"})],
)
def test_mixing_takes_either_way(mixup_alpha: float, cutmix_alpha: float, kinds: set[str]) -> None:
    found = set()
    for seed in range(30):
        mixed, targets = mix(
            IMAGES,
            TARGETS,
            mixup_alpha=mixup_alpha,
            cutmix_alpha=cutmix_alpha,
            rng=np.random.default_rng(seed),
        )
        whole = torch.equal(mixed, mixed.round())
        if torch.equal(mixed, IMAGES):
            assert torch.equal(targets, TARGETS)
            found.add("none" if not kinds - {"none"} else "cutmix")  # a rectangle of no pixel
        else:
            found.add("cutmix" if whole else "mixup")
    assert found == kinds


def test_erased_images_have_one_rectangle_of_noise() -> None:
    erased = erase(IMAGES, 1.0, np.random.default_rng(0))
    for before, after in zip(IMAGES, erased, strict=True):
        changed = (after != before).any(0)
        rows, columns = changed.any(1), changed.any(0)
        assert torch.equal(changed, rows[:, None] & columns)
        height, width = int(rows.sum()), int(columns.sum())
        assert 0.01 < height * width / SIDE**2 < 0.4
        assert len(after[:, changed].unique()) == 3 * height * width
    noise = erase(torch.full((300, 3, SIDE, SIDE), 99.0), 1.0, np.random.default_rng(1))
    noise = noise[noise != 99]
    assert abs(float(noise.mean())) < 0.05
    assert abs(float(noise.std()) - 1) < 0.05


def test_erasing_hits_its_share_of_the_images() -> None:
    images = torch.full((400, 3, SIDE, SIDE), 99.0)
    hit = (erase(images, 0.25, np.random.default_rng(0)) != images).flatten(1).any(1)
    assert 70 < int(hit.sum()) < 130
    assert torch.equal(erase(images, 0.0, np.random.default_rng(0)), images)


@pytest.mark.parametrize("change", [mixup, cutmix])
def test_the_generator_decides_and_the_input_stays(change) -> None:
    before = IMAGES.clone()
    first, second, other = (
        change(IMAGES, TARGETS, 1.0, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(IMAGES, before)
