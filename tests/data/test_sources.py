from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.data.sources import Pictures, decode, decode_all, decode_random_crop
from nas.preprocessing import Preprocessing


@dataclass(frozen=True)
class OnePicture(Pictures):
    image: Image.Image

    def open(self, index: int) -> Image.Image:  # noqa: ARG002 one picture for every index
        return self.image.copy()

    def encoded(self, index: int) -> bytes:  # noqa: ARG002
        return self.image.tobytes()

    def place(self, index: int) -> str:
        return f"picture {index}"


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right from 0 to 255, green downwards, blue is 7."""
    red = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    green = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([red, green, np.full_like(red, 7)], 2).astype(np.uint8))


@pytest.mark.parametrize(("width", "height"), [(90, 30), (30, 90), (61, 60)])
def test_decoding_equals_resizing_the_short_side_and_cropping(width: int, height: int) -> None:
    image, side = gradient(width, height), 15
    scale = side / min(width, height)
    resized = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    left, top = (resized.width - side) // 2, (resized.height - side) // 2
    expected = np.asarray(resized.crop((left, top, left + side, top + side)))
    found = decode(OnePicture(image), 0, side).transpose(1, 2, 0)
    assert np.abs(found.astype(int) - expected).max() <= 4  # where the crop falls between pixels


def test_random_crops_stay_inside_and_vary_and_mirror() -> None:
    rng = np.random.default_rng(0)
    crops = [
        decode_random_crop(OnePicture(gradient(80, 60)), 0, 16, rng, mirror=True) for _ in range(50)
    ]
    rising = [bool(crop[0, 0, -1] > crop[0, 0, 0]) for crop in crops]
    assert 10 < sum(rising) < 40
    assert all((crop[1, -1] > crop[1, 0]).all() for crop in crops)  # never upside down
    assert all((crop[2] == 7).all() for crop in crops)  # nothing from outside
    widths = [abs(int(crop[0, 0, -1]) - int(crop[0, 0, 0])) for crop in crops]
    assert max(widths) > 2 * min(widths)
    assert len({crop.tobytes() for crop in crops}) == 50


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_three_channels(mode: str) -> None:
    image = gradient(20, 20).convert(mode)
    assert decode(OnePicture(image), 0, 10).shape == (3, 10, 10)


def test_transparent_palette_is_read_without_a_warning(tmp_path: Path) -> None:
    image = gradient(20, 20).convert("P")
    image.save(tmp_path / "a.png", transparency=bytes(range(256)))
    assert decode(OnePicture(Image.open(tmp_path / "a.png")), 0, 10).shape == (3, 10, 10)


def test_what_hides_behind_transparent_pixels_is_not_seen() -> None:
    clear = gradient(20, 20)
    clear.putalpha(0)
    half = Image.new("RGBA", (20, 20), (255, 0, 0, 128))
    for image, expected in ((clear, (255, 255, 255)), (half, (255, 127, 127))):
        found = decode(OnePicture(image), 0, 10)
        assert np.array_equal(found, np.tile(np.reshape(expected, (3, 1, 1)), (1, 10, 10)))


def test_a_network_may_want_its_own_interpolation() -> None:
    image = gradient(50, 50)
    found = {
        way: decode(OnePicture(image), 0, 20, Preprocessing(interpolation=way))
        for way in (None, "bicubic", "bilinear", "nearest")
    }
    assert np.array_equal(found[None], found["bicubic"])
    for way in ("bilinear", "nearest"):
        expected = image.resize((20, 20), Image.Resampling[way.upper()])
        assert np.array_equal(found[way].transpose(1, 2, 0), np.asarray(expected))
        assert not np.array_equal(found[way], found["bicubic"])


def test_orientation_of_the_camera_is_followed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side: turn it clockwise by 90 degrees
    gradient(20, 20).save(tmp_path / "a.png", exif=exif)
    turned = decode(OnePicture(Image.open(tmp_path / "a.png")), 0, 20)
    upright = decode(OnePicture(gradient(20, 20)), 0, 20)
    assert np.array_equal(turned, np.rot90(upright, -1, axes=(1, 2)))


@dataclass(frozen=True)
class ManyPictures(Pictures):
    images: tuple[Image.Image, ...]

    def open(self, index: int) -> Image.Image:
        return self.images[index].copy()

    def encoded(self, index: int) -> bytes:
        return self.images[index].tobytes()

    def place(self, index: int) -> str:
        return f"picture {index}"


def test_transparent_pictures_are_counted_and_one_is_named(recorder: type) -> None:
    opaque = gradient(8, 8).convert("RGBA")
    clear = opaque.copy()
    clear.putpixel((3, 3), (0, 0, 0, 0))
    heard = recorder()
    pixels = decode_all(ManyPictures((opaque, clear, clear)), np.arange(3), 8, progress=heard)
    assert pixels[1, :, 3, 3].tolist() == [255, 255, 255]
    assert heard.lines == [
        "2 of 3 images are partly transparent and read on white, such as picture 1"
    ]
