from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from nas.data.augmentation import OPERATIONS, Augmentation, RandAugment, augment, rand_augment

PIXELS = torch.randint(0, 256, (12, 3, 16, 16), generator=torch.Generator().manual_seed(1)).byte()
# Muted and uneven, so that stretching and equalising have something to do.
PIXELS[:6] = (PIXELS[:6].float() ** 2 / 400 + 40).byte()


def applied(name: str, strength: float, sign: int, pixels: torch.Tensor = PIXELS) -> np.ndarray:
    count = len(pixels)
    found = OPERATIONS[name](
        pixels.float(), torch.full((count,), strength), torch.full((count,), sign)
    )
    return found.round().clamp(0, 255).numpy()


def by_pillow(operation) -> np.ndarray:
    images = [Image.fromarray(it.transpose(1, 2, 0)) for it in PIXELS.numpy()]
    return np.stack([np.asarray(operation(image)).transpose(2, 0, 1) for image in images])


@pytest.mark.parametrize(
    ("name", "strength", "sign", "reference"),
    [
        ("auto_contrast", 0.5, 1, ImageOps.autocontrast),
        ("equalize", 0.5, 1, ImageOps.equalize),
        ("invert", 0.5, 1, ImageOps.invert),
        ("posterize", 0.6, 1, lambda it: ImageOps.posterize(it, 2)),
        ("solarize", 0.5, 1, lambda it: ImageOps.solarize(it, 128)),
        ("color", 1.0, -1, lambda it: ImageEnhance.Color(it).enhance(0.1)),
        ("color", 0.5, 1, lambda it: ImageEnhance.Color(it).enhance(1.45)),
        ("contrast", 1.0, 1, lambda it: ImageEnhance.Contrast(it).enhance(1.9)),
        ("brightness", 0.5, -1, lambda it: ImageEnhance.Brightness(it).enhance(0.55)),
        ("sharpness", 1.0, 1, lambda it: ImageEnhance.Sharpness(it).enhance(1.9)),
    ],
)
def test_operations_equal_pillows(name: str, strength: float, sign: int, reference) -> None:
    expected = by_pillow(reference).astype(float)
    # Pillow cuts fractions off where we round, twice in enhancements
    assert np.abs(applied(name, strength, sign) - expected).max() <= 2
    assert np.abs(expected - PIXELS.numpy()).max() > 20  # it did something


def test_dark_pixels_alone_are_brightened() -> None:
    pixels = PIXELS.numpy().astype(float)
    expected = np.where(pixels < 128, pixels + 55, pixels)
    assert np.array_equal(applied("solarize_add", 0.5, 1), expected)


def test_a_plain_channel_stays_as_it_is() -> None:
    plain = torch.full((1, 3, 8, 8), 77, dtype=torch.uint8)
    for name in "auto_contrast", "equalize", "sharpness", "contrast", "color":
        assert np.array_equal(applied(name, 0.5, 1, plain), plain.numpy()), name


def test_a_move_is_a_shift_with_grey_behind_it() -> None:
    pixels = PIXELS.numpy().astype(float)
    moved = applied("translate_x", 0.25 / 0.45, 1)  # a quarter of 16 pixels
    assert np.array_equal(moved[..., :12], pixels[..., 4:])
    assert np.array_equal(moved[:, :, 0, 12:], np.tile([[124], [116], [104]], (12, 1, 4)))
    moved = applied("translate_y", 0.25 / 0.45, -1)
    assert np.array_equal(moved[:, :, 4:], pixels[:, :, :12])


def test_a_shear_moves_rows_by_their_distance_from_the_middle() -> None:
    # with 0.2 the rows 5 and 15 pixels below the middle of 31 move by 1 and 3 pixels
    pixels = torch.randint(0, 256, (2, 3, 31, 31), generator=torch.Generator().manual_seed(2))
    found = applied("shear_x", 0.2 / 0.3, 1, pixels)
    assert np.abs(found[:, :, 15] - pixels.numpy()[:, :, 15]).max() <= 1
    assert np.abs(found[:, :, 20, :-1] - pixels.numpy()[:, :, 20, 1:]).max() <= 1
    assert np.abs(found[:, :, 30, :-3] - pixels.numpy()[:, :, 30, 3:]).max() <= 1
    turned = applied("shear_y", 0.2 / 0.3, 1, pixels.transpose(2, 3))
    assert np.array_equal(turned.transpose(0, 1, 3, 2), found)


def test_a_turn_goes_with_its_sign_about_the_middle() -> None:
    pixels = torch.zeros(1, 3, 31, 31, dtype=torch.uint8)
    pixels[:, :, 15, 25] = 255  # 10 pixels to the right
    for sign in 1, -1:
        found = applied("rotate", 1.0, sign, pixels)[0, 0]
        found[found == 124] = 0  # the fill
        y, x = (np.arange(31) - 15) @ found.sum(1), (np.arange(31) - 15) @ found.sum(0)
        assert abs(abs(np.degrees(np.arctan2(y, x))) - 30) < 3
        assert np.sign(y) == sign  # clockwise, as rows count downwards


def test_every_operation_grows_with_its_strength() -> None:
    ramp = torch.arange(0, 256, 16).float()
    rows, columns = ramp.view(16, 1).expand(16, 16), ramp.expand(16, 16)
    smooth = torch.stack([rows, columns, (rows + columns) / 2 % 200])[None].byte()
    for name in set(OPERATIONS) - {"auto_contrast", "equalize", "invert", "posterize"}:
        differences = [
            np.abs(applied(name, strength, -1, smooth) - smooth.numpy()).mean()
            for strength in (0, 0.2, 1)
        ]
        assert differences[0] <= 0.01, name
        assert differences[0] < differences[1] < differences[2], name


def test_each_image_has_draws_of_its_own_and_the_generator_decides() -> None:
    same = PIXELS[:1].expand(64, -1, -1, -1)
    settings = RandAugment()
    found = [
        rand_augment(same, settings, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    ]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    untouched = (found[0] == same).flatten(1).all(1)
    assert 5 < int(untouched.sum()) < 32  # about a quarter: two operations, each every other time
    assert len(found[0].unique(dim=0)) > 30
    assert torch.equal(same[0], PIXELS[0])


def test_no_operations_change_nothing() -> None:
    assert torch.equal(rand_augment(PIXELS, RandAugment(operations=0), torch.Generator()), PIXELS)


def test_a_magnitude_beyond_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="magnitude must be between 0 and 10, got 11"):
        RandAugment(magnitude=11)


def test_augmentation_distorts_after_cropping() -> None:
    plain = Augmentation(0.25)
    cropped = augment(PIXELS, plain, torch.Generator().manual_seed(3))
    distorted = augment(
        PIXELS,
        Augmentation(0.25, distortion=RandAugment(share=1)),
        torch.Generator().manual_seed(3),
    )
    generator = torch.Generator().manual_seed(3)
    augment(PIXELS, plain, generator)
    assert torch.equal(distorted, rand_augment(cropped, RandAugment(share=1), generator))
