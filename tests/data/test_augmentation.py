from __future__ import annotations

import numpy as np
import pytest
import torch

from nas.data.augmentation import Augmentation, augment, normalise

PIXELS = torch.randint(0, 256, (64, 3, 8, 8), generator=torch.Generator().manual_seed(1)).byte()


def augmented(augmentation: Augmentation, seed: int = 0) -> torch.Tensor:
    return augment(PIXELS, augmentation, torch.Generator().manual_seed(seed))


def variants(image: np.ndarray, padding: int, *, mirror: bool) -> list[bytes]:
    """Every image that may come out, by numpy and brute force."""
    side = image.shape[-1]
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    crops = [
        padded[:, y : y + side, x : x + side]
        for y in range(2 * padding + 1)
        for x in range(2 * padding + 1)
    ]
    if mirror:
        crops += [crop[:, :, ::-1] for crop in crops]
    return [np.ascontiguousarray(crop).tobytes() for crop in crops]


@pytest.mark.parametrize("mirror", [False, True])
def test_every_augmented_image_is_a_crop_of_its_padded_original(mirror: bool) -> None:
    results = augmented(Augmentation(0.25, mirror=mirror))
    drawn = set()
    for original, result in zip(PIXELS.numpy(), results.numpy(), strict=True):
        possible = variants(original, 2, mirror=mirror)
        drawn.add(possible.index(result.tobytes()))
    assert len(drawn) > 15  # of 25 or 50: each image has a draw of its own
    assert (max(drawn) >= 25) is mirror


def test_no_augmentation_changes_nothing() -> None:
    assert torch.equal(augmented(Augmentation(0, mirror=False)), PIXELS)


def test_augmentation_leaves_its_input_alone_and_follows_its_generator() -> None:
    before = PIXELS.clone()
    assert torch.equal(augmented(Augmentation()), augmented(Augmentation()))
    assert not torch.equal(augmented(Augmentation()), augmented(Augmentation(), seed=1))
    assert torch.equal(PIXELS, before)


def test_normalised_pixels_follow_the_formula() -> None:
    expected = PIXELS.numpy() / 255 - np.array([0.485, 0.456, 0.406]).reshape(3, 1, 1)
    expected /= np.array([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    assert np.allclose(normalise(PIXELS).numpy(), expected, atol=1e-6)


def test_padding_beyond_half_is_refused() -> None:
    with pytest.raises(ValueError, match=r"crop_padding must be between 0 and 0\.5, got 0\.6"):
        Augmentation(0.6)
