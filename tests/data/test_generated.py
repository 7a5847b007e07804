from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

from nas.data import open_source
from nas.data.generated import (
    CLASSES,
    PERIOD,
    SHAPES,
    SUBPIXELS,
    TEXTURES,
    Design,
    GeneratedPictures,
    _square,
    generate,
)
from nas.data.sources import Source, decode
from nas.data.splits import split_source

GREATEST = {"striped": 0.02, "checked": 0.02, "dotted": 0.1, "zigzag": 0.02}
"""The share of the contrast by which a texture may be brighter or darker than its colour."""


@pytest.fixture(scope="module")
def shapes() -> Source:
    return open_source("shapes")


def parts(source: Source) -> tuple[GeneratedPictures, GeneratedPictures]:
    assert isinstance(source.train, GeneratedPictures)
    assert isinstance(source.test, GeneratedPictures)
    return source.train, source.test


def sha256(pictures: GeneratedPictures) -> str:
    return hashlib.sha256(pictures.pixels.tobytes() + pictures.labels.tobytes()).hexdigest()[:16]


def least_squares(
    train: NDArray[np.float32], labels: NDArray[np.int64], test: NDArray[np.float32], decay: float
) -> NDArray[np.int64]:
    """The classes of ``test`` by a linear classifier: ridge regression on one-hot labels."""
    mean, deviation = train.mean(0), train.std(0) + 1e-6
    train, test = (train - mean) / deviation, (test - mean) / deviation
    targets = np.eye(len(CLASSES))[labels] - 1 / len(CLASSES)
    kernel = train @ train.T + decay * train.shape[1] * np.eye(len(train))
    found: NDArray[np.int64] = (test @ (train.T @ np.linalg.solve(kernel, targets))).argmax(1)
    return found


def test_the_same_seed_makes_the_same_pictures(shapes: Source) -> None:
    assert [sha256(part) for part in parts(shapes)] == ["b8e3454dc0704c54", "1158a74df71ce7d8"]
    few = generate("few", 130, seed=7)
    assert sha256(few) == sha256(generate("few", 130, seed=7)) == "84491f06c6ec901b"
    assert sha256(few) != sha256(generate("few", 130, seed=8))


def test_classes_are_named_and_balanced(shapes: Source) -> None:
    assert shapes.classes == CLASSES
    assert CLASSES[:4] == ("striped disc", "striped triangle", "striped cross", "checked disc")
    counts = [np.bincount(part.labels) for part in parts(shapes)]
    assert counts[0].tolist() == [250] * 12
    assert sorted(counts[1].tolist()) == [166] * 4 + [167] * 8


def test_no_picture_is_there_twice(shapes: Source) -> None:
    pictures = {picture.tobytes() for part in parts(shapes) for picture in part.pixels}
    assert len(pictures) == 5000


def test_pixels_and_colours_alone_do_not_tell_the_class(shapes: Source) -> None:
    train, test = parts(shapes)
    few = [part.pixels[:1000].reshape(1000, -1, 3) for part in (train, test)]
    greys = [pixels.mean(2) for pixels in few]
    colours = [np.concatenate([pixels.mean(1), pixels.std(1)], axis=1) for pixels in few]
    for (one, other), decay in ((greys, 1.0), (colours, 1e-3)):
        found = least_squares(one, train.labels[:1000], other, decay)
        assert (found == test.labels[:1000]).mean() < 0.15  # guessing: 0.08


def test_a_picture_is_served_as_it_is_at_its_own_size(shapes: Source) -> None:
    train, _ = parts(shapes)
    assert np.array_equal(decode(train, 3, 64), train.pixels[3].transpose(2, 0, 1))
    assert train.place(3) == "shapes: train image 3"


def test_shapes_have_a_test_set_of_their_own(shapes: Source) -> None:
    split = split_source(shapes, seed=0, limit=240, search_share=0.25)
    assert [len(part) for part in (split.train, split.search, split.test)] == [180, 60, 2000]
    assert shapes.mirror


@pytest.mark.parametrize("name", [*SHAPES, "square"])
def test_the_area_of_a_shape_is_that_of_its_disc(name: str) -> None:
    line = np.arange(-40 * SUBPIXELS, 40 * SUBPIXELS, 2, dtype=np.int32)
    radius = np.int32(20 * SUBPIXELS)
    inside = {**SHAPES, "square": _square}[name](line, line[:, None], radius)
    assert 4 * inside.sum() == pytest.approx(np.pi * float(radius) ** 2, rel=0.02)


@pytest.mark.parametrize("name", TEXTURES)
def test_a_texture_is_no_brighter_than_its_colour(name: str) -> None:
    line = np.arange(4 * PERIOD, dtype=np.int32)
    levels = TEXTURES[name](*np.meshgrid(line, line))
    assert levels.min() >= -128
    assert levels.max() <= 128
    assert abs(levels.mean()) <= GREATEST[name] * 256
    assert levels.std() > 50


def test_colours_stay_within_sixteen_bits() -> None:
    """What the greatest contrast makes of the brightest level is no overflow."""
    design = Design(contrast=(239, 240), noise=0, squares=0)
    calm = generate("calm", 24, seed=1, design=Design(contrast=(0, 1), noise=0, squares=0))
    loud = generate("loud", 24, seed=1, design=design)
    change = loud.pixels.astype(int) - calm.pixels
    assert np.abs(change).max() <= 240
