"""Held-out pictures are known by what they are, not by their names, order or place."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from nas.data import load_dataset
from nas.data.identity import MOST_HASHED, hash_pictures
from nas.data.sources import DigitPictures
from nas.errors import UserError


def digits_of(count: int, seed: int = 0) -> DigitPictures:
    rng = np.random.default_rng(seed)
    grey = rng.integers(0, 256, (count, 8, 8), dtype=np.uint8)
    return DigitPictures(grey, rng.integers(0, 10, count))


def test_the_same_pictures_elsewhere_are_the_same(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "elsewhere")
    first, second = (
        load_dataset(f"folder:{path}", 16) for path in (photos, tmp_path / "elsewhere")
    )
    assert first.held_out == second.held_out


def test_a_table_holds_what_the_folder_holds(photos: Path, tmp_path: Path, write_parquet) -> None:
    files = sorted(photos.rglob("*.png"))
    labels = [("cat", "dog").index(file.parent.name) for file in files]
    encoded = [file.read_bytes() for file in files]
    path = write_parquet(tmp_path / "a.parquet", encoded, labels, ("cat", "dog"))
    first, second = (load_dataset(it, 16) for it in (f"parquet:{path}", f"folder:{photos}"))
    assert first.held_out == second.held_out


def test_a_file_with_another_name_moves_others_into_the_slices(photos: Path) -> None:
    before = load_dataset(f"folder:{photos}", 16)
    for name in ("cat", "dog"):
        (photos / name / "0.png").rename(photos / name / "99.png")
    after = load_dataset(f"folder:{photos}", 16)
    assert after.split_sha256 == before.split_sha256  # the positions, which tell nothing
    assert after.held_out.search_sha256 != before.held_out.search_sha256
    assert after.held_out.test_sha256 != before.held_out.test_sha256


def test_order_does_not_count_but_pictures_labels_and_their_number_do() -> None:
    pictures, other = digits_of(50), digits_of(50, seed=1)
    forward, backward = np.arange(50), np.arange(50)[::-1]
    known = hash_pictures(pictures, forward)
    assert hash_pictures(pictures, backward) == known
    others = {
        hash_pictures(pictures, forward[1:]),
        hash_pictures(DigitPictures(pictures.grey, other.labels), forward),
        hash_pictures(DigitPictures(other.grey, pictures.labels), forward),
        hash_pictures(pictures, np.r_[forward, 0]),
    }
    assert len(others | {known}) == 5


def test_of_many_pictures_evenly_spaced_ones_are_read() -> None:
    read: list[int] = []

    class Counted(DigitPictures):
        def encoded(self, index: int) -> bytes:
            read.append(index)
            return super().encoded(index)

    pictures = digits_of(3 * MOST_HASHED)
    hash_pictures(Counted(pictures.grey, pictures.labels), np.arange(3 * MOST_HASHED))
    assert len(set(read)) == MOST_HASHED
    assert np.diff(sorted(read)).max() == 4  # nearly three apart
    assert (min(read), max(read)) == (0, 3 * MOST_HASHED - 1)


def test_a_picture_that_is_gone_is_one_line(photos: Path) -> None:
    source = nas_source(photos)
    (photos / "cat" / "3.png").unlink()
    with pytest.raises(UserError, match=r"cat/3\.png: unreadable image \(.*\); replace or remove"):
        hash_pictures(source, np.arange(20))


def nas_source(photos: Path):
    from nas.data import open_source

    return open_source(f"folder:{photos}").train


def test_digits_are_pinned() -> None:
    held_out = load_dataset("digits", 8).held_out
    assert held_out.search_sha256[:16] == "dd5a22d687eefd1f"
    assert held_out.test_sha256[:16] == "a118aee33b25f8e6"
