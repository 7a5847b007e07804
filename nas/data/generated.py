"""Generated pictures, ``shapes``: a large shape of a fine texture among small textured squares.

The class is the texture and the shape together. A texture repeats every 3 to 5 of 64 pixels, which
only a network's early stages resolve; the shape has any size, place and angle and lies under a bar.
Colours, light and noise say nothing about either. All arithmetic is of integers, drawn from the raw
bits of PCG64, whose stream numpy never changes: a seed's pictures are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nas.data.sources import Pictures, Source
from nas.machine import usable_cores

Integers = NDArray[np.int32]
Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Range = tuple[int, int]  # from the first, below the second
Kind = TypeVar("Kind", bound=np.generic)

SIDE = 64
TRAIN_PICTURES, TEST_PICTURES = 3000, 2000
"""Of 2,000 pictures, 2 points between two networks that disagree on a tenth are significant."""
TRAIN_SEED, TEST_SEED = 1, 2
PART = 100
"""Pictures that are drawn at once, from a stream of their own: few enough for a core's cache."""

ONE = 1 << 10  # of cosines
SUBPIXELS = 16  # coordinates and lengths of shapes are in sixteenths of a pixel
PERIOD = 256  # of a texture's coordinates
ANGLES = 64
TURN = 2 * np.pi * np.arange(ANGLES) / ANGLES
COSINES: Integers = np.round(ONE * np.cos(TURN)).astype(np.int32)
SINES: Integers = np.round(ONE * np.sin(TURN)).astype(np.int32)

DARK: Range = (50, 110)  # ground, squares and bars
BRIGHT: Range = (140, 200)  # the large shape
HUE = 30  # most by which a channel differs from the brightness


@dataclass(frozen=True)
class Design:
    """How hard the pictures are. The default is what benchmarks/generated.py was tried with."""

    contrast: Range = (75, 130)  # of a texture's darkest and brightest grey
    period: Range = (48, 80)  # of a texture, in sixteenths of a pixel
    radius: Range = (272, 352)  # of the disc of a shape's area, in sixteenths of a pixel
    squares: int = 3
    noise: int = 12  # largest, at a pixel


@dataclass(frozen=True, eq=False)
class GeneratedPictures(Pictures):
    """Pictures in memory, (N, SIDE, SIDE, 3)."""

    part: str
    pixels: Pixels
    labels: NDArray[np.int64]

    def open(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])

    def encoded(self, index: int) -> bytes:
        return bytes(self.pixels[index].tobytes())

    def place(self, index: int) -> str:
        return f"shapes: {self.part} image {index}"


def shapes() -> Source:
    """3,000 generated pictures to train on and 2,000 to test on, of twelve classes alike."""
    train = generate("train", TRAIN_PICTURES, TRAIN_SEED)
    return Source("shapes", CLASSES, train, generate("test", TEST_PICTURES, TEST_SEED))


def generate(part: str, count: int, seed: int, design: Design | None = None) -> GeneratedPictures:
    """So many pictures, of each class as many but for one; the same for the same seed."""
    draws = Draws(seed)
    labels = np.argsort(draws.integers((0, 1 << 30), count), kind="stable") % len(CLASSES)
    pixels = np.empty((count, SIDE, SIDE, 3), np.uint8)

    def fill(start: int) -> None:
        chosen = slice(start, start + PART)
        pixels[chosen] = _render(design or Design(), Draws(seed, 1 + start), labels[chosen])

    with ThreadPoolExecutor(usable_cores()) as threads:
        for _ in threads.map(fill, range(0, count, PART)):
            pass
    return GeneratedPictures(part, pixels, labels)


class Draws:
    """Integers by the raw bits of a stream of their own."""

    def __init__(self, *seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def integers(self, bounds: Range, *shape: int) -> Integers:
        """Even ones, but for one part in four billion."""
        low, high = bounds
        raw = self._bits.random_raw(int(np.prod(shape))) >> np.uint64(32)
        found = (raw * np.uint64(high - low)) >> np.uint64(32)
        return found.astype(np.int32).reshape(shape) + np.int32(low)

    def noise(self, *shape: int) -> NDArray[np.int16]:
        """Sums of two bytes, around 0: -255 to 255, the middle most often."""
        count = int(np.prod(shape))
        raw = self._bits.random_raw(-(-2 * count // 8)).astype("<u8").view(np.uint8)
        first, second = raw[:count].astype(np.int16), raw[count : 2 * count]
        return (first - second).reshape(shape)


def _wave(x: Integers) -> Integers:
    """A triangle wave, -128 to 128."""
    found: Integers = 2 * np.abs((x & (PERIOD - 1)) - PERIOD // 2) - PERIOD // 2
    return found


def _limited(levels: Integers) -> Integers:
    found: Integers = np.clip(levels, -PERIOD // 2, PERIOD // 2)
    return found


def _striped(u: Integers, v: Integers) -> Integers:  # noqa: ARG001
    return _wave(u)


def _checked(u: Integers, v: Integers) -> Integers:
    return _limited((_wave(u) * _wave(v)) >> 5)


def _dotted(u: Integers, v: Integers) -> Integers:
    return _limited(_wave(u) + _wave(v) - 20)


def _zigzag(u: Integers, v: Integers) -> Integers:
    return _wave(u + (_wave(v >> 1) >> 1))


def _disc(x: Integers, y: Integers, radius: Integers) -> Mask:
    return x * x + y * y < radius * radius


def _square(x: Integers, y: Integers, radius: Integers) -> Mask:
    return 1000 * np.maximum(np.abs(x), np.abs(y)) < 886 * radius


def _triangle(x: Integers, y: Integers, radius: Integers) -> Mask:
    inside: Mask = np.maximum(-1000 * y, 500 * y + 866 * np.abs(x)) < 778 * radius
    return inside


def _cross(x: Integers, y: Integers, radius: Integers) -> Mask:
    x, y = np.abs(x), np.abs(y)
    return (1000 * np.minimum(x, y) < 396 * radius) & (1000 * np.maximum(x, y) < 1189 * radius)


TEXTURES: Mapping[str, Callable[[Integers, Integers], Integers]] = {
    "striped": _striped,
    "checked": _checked,
    "dotted": _dotted,
    "zigzag": _zigzag,
}
"""Brightness, -128 to 128, at coordinates in ``PERIOD``."""
SHAPES: Mapping[str, Callable[[Integers, Integers, Integers], Mask]] = {
    "disc": _disc,
    "triangle": _triangle,
    "cross": _cross,
}
"""Whether coordinates are inside; all of the area of a disc of that radius."""
CLASSES = tuple(f"{texture} {shape}" for texture, shape in product(TEXTURES, SHAPES))


def _render(design: Design, draws: Draws, labels: NDArray[np.int64]) -> Pixels:
    """Pictures (n, SIDE, SIDE, 3) of these classes."""
    count = len(labels)
    textures, shapes = np.divmod(labels, len(SHAPES))
    canvas = _ground(draws, count)
    anywhere, middle = (4 * SUBPIXELS, 60 * SUBPIXELS), (22 * SUBPIXELS, 42 * SUBPIXELS)
    for _ in range(design.squares):
        x, y = _coordinates(draws, count, anywhere)
        mask = _square(x, y, _spread(draws.integers((4 * SUBPIXELS, 6 * SUBPIXELS), count)))
        _paint(draws, canvas, mask, design, draws.integers((0, len(TEXTURES)), count), DARK)
    x, y = _coordinates(draws, count, middle)
    mask = _each(list(SHAPES.values()), shapes, x, y, _spread(draws.integers(design.radius, count)))
    _paint(draws, canvas, mask, design, textures, BRIGHT)
    x, _ = _coordinates(draws, count, (12 * SUBPIXELS, 52 * SUBPIXELS))
    bars = np.abs(x) < _spread(draws.integers((SUBPIXELS, 2 * SUBPIXELS), count))
    np.copyto(canvas, _colours(draws, count, DARK)[..., None, None], where=bars[:, None])
    return _lit(draws, canvas, design.noise).transpose(0, 2, 3, 1)


def _ground(draws: Draws, count: int) -> NDArray[np.int16]:
    """Dark clouds (n, 3, SIDE, SIDE): random numbers every 16 pixels, interpolated."""
    corners = draws.integers((0, 256), count, 3, 5, 5)
    place, right = np.divmod(np.arange(SIDE, dtype=np.int32), 16)
    left, below, above = 16 - right, right[:, None], 16 - right[:, None]
    rows = corners[:, :, place] * above + corners[:, :, place + 1] * below
    clouds = (rows[..., place] * left + rows[..., place + 1] * right) >> 8
    colours = _colours(draws, count, DARK)[..., None, None]
    found: NDArray[np.int16] = colours + ((clouds - 128) >> 3).astype(np.int16)
    return found


def _colours(draws: Draws, count: int, brightness: Range) -> NDArray[np.int16]:
    """Red, green and blue (n, 3)."""
    grey, hue = draws.integers(brightness, count, 1), draws.integers((-HUE, HUE + 1), count, 3)
    return (grey + hue).astype(np.int16)


def _paint(
    draws: Draws,
    canvas: NDArray[np.int16],
    mask: Mask,
    design: Design,
    textures: Integers,
    brightness: Range,
) -> None:
    """Change ``canvas`` where ``mask`` (n, SIDE, SIDE) says so to textures (n,) in two colours."""
    count = len(canvas)
    angles, places = draws.integers((0, ANGLES), count), draws.integers((0, PERIOD), 2, count)
    periods = draws.integers(design.period, count)
    unit = PERIOD * SUBPIXELS
    u, v = _turned(COSINES[angles] * unit // periods, SINES[angles] * unit // periods, places)
    levels = _each(list(TEXTURES.values()), textures, u, v).astype(np.int16)
    colours = _colours(draws, count, brightness)
    signs = 2 * draws.integers((0, 2), count, 1) - 1
    steps = draws.integers(design.contrast, count, 1) * signs
    steps = (steps + draws.integers((-15, 16), count, 3)).astype(np.int16)
    # at most (150 + 15) * 128, which an int16 holds
    found = colours[..., None, None] + ((steps[..., None, None] * levels[:, None]) >> 8)
    np.copyto(canvas, found, where=mask[:, None])


def _coordinates(draws: Draws, count: int, middles: Range) -> tuple[Integers, Integers]:
    """Sixteenths of pixels from a point between ``middles``, at any angle; (n, SIDE, SIDE)."""
    angles, middle = draws.integers((0, ANGLES), count), draws.integers(middles, 2, count)
    cosines, sines = COSINES[angles], SINES[angles]
    x, y = middle
    offsets = np.stack([-(x * cosines + y * sines), -(y * cosines - x * sines)]) >> 10
    return _turned(SUBPIXELS * cosines, SUBPIXELS * sines, offsets)


def _turned(cosines: Integers, sines: Integers, offsets: Integers) -> tuple[Integers, Integers]:
    """Turned coordinates (n, SIDE, SIDE) of all pixels, from cosines and sines (n,) in ``ONE``."""
    line = np.arange(SIDE, dtype=np.int32)
    x, y, cosine, sine = line, line[:, None], _spread(cosines), _spread(sines)
    first, second = offsets
    return (
        ((x * cosine + y * sine) >> 10) + _spread(first),
        ((y * cosine - x * sine) >> 10) + _spread(second),
    )


def _lit(draws: Draws, canvas: NDArray[np.int16], noise: int) -> Pixels:
    """The canvas in a light that falls from one side, and with noise."""
    count = len(canvas)
    x, _ = _coordinates(draws, count, (SIDE * SUBPIXELS // 2, SIDE * SUBPIXELS // 2 + 1))
    slope, level = draws.integers((0, 100), count), draws.integers((200, 300), count)
    gain = _spread(level) + ((x * _spread(slope)) >> 9)
    lit = (canvas * gain[:, None]) >> 8
    lit += (draws.noise(*canvas.shape) * np.int16(noise)) >> 7
    found: Pixels = np.clip(lit, 0, 255).astype(np.uint8)
    return found


def _spread(values: Integers) -> Integers:
    """Numbers (n,) that stretch over pictures (n, SIDE, SIDE)."""
    return values[:, None, None]


def _each(
    functions: Sequence[Callable[..., NDArray[Kind]]], which: Integers, *arguments: Integers
) -> NDArray[Kind]:
    """The results (n, SIDE, SIDE) of a function for each picture."""
    found = functions[0](*arguments)
    for number, function in enumerate(functions[1:], start=1):
        places = np.flatnonzero(which == number)
        found[places] = function(*(each[places] for each in arguments))
    return found
