"""Single pictures: every mode becomes RGB, and no picture takes more memory than it may."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.data.pictures import (
    FORMATS,
    MOST_PIXELS,
    is_transparent,
    open_picture,
    suffixes,
    to_rgb,
)


def saved(image: Image.Image, form: str = "png", **options: object) -> Image.Image:
    file = io.BytesIO()
    image.save(file, form, **options)
    return open_picture(io.BytesIO(file.getvalue()))


def stencil(mode: str) -> Image.Image:
    """A 2x1 picture: an opaque dark pixel, and one that is black and wholly transparent."""
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((0, 0), (10, 20, 30, 255))
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa"])
def test_a_shape_in_transparency_is_seen_on_white(mode: str) -> None:
    image = stencil(mode)
    pixels = np.asarray(to_rgb(image))
    assert pixels[0, 1].tolist() == [255, 255, 255]
    assert pixels[0, 0].max() < 40
    assert is_transparent(image)


def test_half_transparent_is_half_white() -> None:
    image = Image.new("RGBA", (1, 1), (0, 100, 200, 51))  # a fifth
    assert np.asarray(to_rgb(image))[0, 0].tolist() == [204, 224, 244]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_transparent_colour_is_white(mode: str) -> None:
    image = Image.new("L", (2, 1), 0)
    image.putpixel((0, 0), 255)
    image = image.convert(mode)
    black = {"RGB": (0, 0, 0)}.get(mode, image.getpixel((1, 0)))
    found = saved(image, transparency=black)
    assert is_transparent(found)
    assert np.asarray(to_rgb(found)).min() == 255


def test_an_opaque_picture_with_an_alpha_channel_is_not_transparent() -> None:
    image = Image.new("RGBA", (2, 2), (1, 2, 3, 255))
    assert not is_transparent(image)
    assert np.asarray(to_rgb(image))[1, 1].tolist() == [1, 2, 3]


@pytest.mark.parametrize(("form", "options"), [("png", {}), ("tiff", {}), ("ppm", {})])
def test_sixteen_bits_of_grey_are_rounded_to_eight(form: str, options: dict[str, str]) -> None:
    values = np.array([[0, 128, 129, 257, 40_000, 65_535]], np.uint16)
    image = saved(Image.fromarray(values), form, **options)
    expected = np.rint(values / 257)
    pixels = np.asarray(to_rgb(image))
    assert np.array_equal(pixels[..., 0], expected)
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


@pytest.mark.parametrize(
    "image",
    [Image.new("F", (2, 2), 0.5), Image.new("I", (2, 2), -1), Image.new("I", (2, 2), 70_000)],
)
def test_numbers_of_unknown_range_are_refused(image: Image.Image) -> None:
    with pytest.raises(ValueError, match="has more than 16 bits per channel"):
        to_rgb(image)


def png_header(width: int, height: int) -> bytes:
    """A PNG of that size whose pixels are all zero: a kilobyte for a million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    packer, row = zlib.compressobj(9), bytes(1 + 3 * width)
    data = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(10_000, 5_001), (10_000, 15_000), (60_000, 60_000)])
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(width: int, height: int) -> None:
    assert width * height > MOST_PIXELS
    head = png_header(width, 0)
    head = head.replace(struct.pack(">II", width, 0), struct.pack(">II", width, height))
    checksum = struct.pack(">I", zlib.crc32(head[12:29]))
    with pytest.raises(ValueError, match="pixels, the most are 50 million; shrink it"):
        open_picture(io.BytesIO(head[:29] + checksum + head[33:]))


PEAK_OF_A_BOMB = """
import resource, sys
from pathlib import Path
from nas.data import open_source
from nas.data.sources import decode
from nas.errors import UserError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = open_source("parquet:" + sys.argv[1])
try:
    decode(source.train, 0, 32)
except UserError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_small_parquet_file_with_a_huge_picture_takes_little_memory(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    bomb = png_header(13_000, 13_000)
    assert len(bomb) < 600_000  # 507 million bytes once decoded
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"bytes": [bomb] * 6, "label": [0, 0, 0, 1, 1, 1]}), path)
    done = subprocess.run(
        [sys.executable, "-c", PEAK_OF_A_BOMB, str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    message, megabytes = done.stdout.splitlines()
    assert "row 0: unreadable image (has 13000 x 13000 pixels, the most are 50 million" in message
    assert int(megabytes) < 100
    assert done.stderr == ""


def test_programs_of_others_are_not_run_by_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(OSError, match="cannot identify"):
        open_picture(str(tmp_path / "a.png"))


def test_suffixes_are_those_of_the_formats_that_are_opened(tmp_path: Path) -> None:
    Image.init()
    known = {"jpg", "jpeg", "jfif", "png", "gif", "bmp", "webp", "tif", "tiff", "pgm", "pbm", "jp2"}
    assert {f".{suffix}" for suffix in known} <= suffixes()
    assert not suffixes() & {".eps", ".pdf", ".mpg", ".h5", ".txt"}
    image = Image.new("RGB", (16, 16), (90, 90, 90))
    for suffix in sorted(suffixes()):
        if suffix in (".pfm", ".avifs", ".mpo"):  # grey numbers; films; several pictures
            continue
        path = tmp_path / f"a{suffix}"
        image.save(path)
        with open_picture(str(path)) as found:
            assert found.format in FORMATS
            assert to_rgb(found).size == (16, 16)
