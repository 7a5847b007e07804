"""Small data sets on disk."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

CLASSES = ("cat", "dog")


def picture(seed: int, size: tuple[int, int] = (16, 16)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten 16x16 pictures of each of two classes: cats have the seeds 0 to 9, dogs 10 to 19."""
    folder = tmp_path / "photos"
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            picture(10 * label + number).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def write_parquet() -> Callable[..., Path]:
    """A function that writes encoded images and labels as Hugging Face does."""

    def write(
        path: Path, images: list[bytes], labels: list[object], names: tuple[str, ...] | None = None
    ) -> Path:
        structs = [{"bytes": image, "path": None} for image in images]
        table = pa.table({"image": structs, "label": labels})
        if names is not None:
            features = {"label": {"names": list(names), "_type": "ClassLabel"}}
            metadata = json.dumps({"info": {"features": features}})
            table = table.replace_schema_metadata({"huggingface": metadata})
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        return path

    return write
