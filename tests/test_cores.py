"""Only the cores that this process may use are counted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import nas.data
from nas.data import load_dataset
from nas.data.images import StreamedImages
from nas.errors import UserError
from nas.latency.target import detect_target
from nas.machine import usable_cores

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system does not pin processes to cores"
)


@pytest.fixture(autouse=True)
def _one_core() -> Iterator[None]:
    """As a container or a scheduler would, on a machine that may have many."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    yield
    os.sched_setaffinity(0, allowed)


def test_cores_of_others_do_not_count() -> None:
    assert usable_cores() == 1


def test_images_are_streamed_by_as_many_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(10):
            Image.new("RGB", (16, 16)).save(tmp_path / label / f"{number}.png")
    monkeypatch.setattr(nas.data, "MEMORY_BYTES", 0)
    images = load_dataset(f"folder:{tmp_path}", 16).train
    assert isinstance(images, StreamedImages)
    assert images.workers == 1


def test_no_more_threads_are_measured_on() -> None:
    with pytest.raises(UserError, match="threads: must be 1 to 1, the cores at hand"):
        detect_target(threads=2)
