"""Encoded images in the rows of parquet files, as Hugging Face writes them.

The encoded images are kept in memory: 15 MB for 50,000 images of 32x32, about 140 GB for ImageNet,
for which ``folder`` and ``hf`` are the better sources: they read from disk.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from nas.data.sources import (
    Pictures,
    Source,
    classes_of,
    open_encoded,
    require_labels,
    require_test_classes,
)
from nas.errors import UserError

TEST_WORDS = ("test", "validation", "val")


@dataclass(frozen=True, eq=False)
class ParquetPictures(Pictures):
    """``encoded`` holds the files' rows one after another; file i begins at row ``starts[i]``."""

    files: tuple[Path, ...]
    starts: tuple[int, ...]
    encoded: pa.ChunkedArray  # of binary
    labels: NDArray[np.int64]

    def open(self, index: int) -> Image.Image:
        return open_encoded(self.encoded[index].as_py(), self.place(index))

    def place(self, index: int) -> str:
        file = int(np.searchsorted(self.starts, index, side="right")) - 1
        return f"{self.files[file]}: row {index - self.starts[file]}"


def parquet(spec: str, path: Path) -> Source:
    """The images in a parquet file, or in a folder's files with train and test in their names.

    Classes have the names of a Hugging Face ClassLabel, or the sorted values of the label column.

    Raises:
        UserError: no such file, no parquet file, or columns and labels that do not fit.
    """
    train_files, test_files = _find(spec, path)
    classes, train = _read(train_files, None)
    if not test_files:
        return Source(spec, classes, train, test=None, mirror=True)
    _, test = _read(test_files, classes)
    return Source(spec, classes, train, test, mirror=True)


def _find(spec: str, path: Path) -> tuple[list[Path], list[Path]]:
    if path.is_file():
        return [path], []
    if not path.is_dir():
        raise UserError(f"{spec}: no such file or folder")
    files = sorted(path.rglob("*.parquet"))
    train = [file for file in files if "train" in file.name.lower()]
    if not train:
        raise UserError(
            f"{spec}: holds no file named *train*.parquet, found "
            f"{', '.join(file.name for file in files) or 'no parquet file at all'}"
        )
    for word in TEST_WORDS:
        test = [file for file in files if word in file.name.lower() and file not in train]
        if test:
            return train, test
    return train, []


def _read(
    files: list[Path], train_classes: tuple[str, ...] | None
) -> tuple[tuple[str, ...], ParquetPictures]:
    tables = [_read_table(file) for file in files]
    sizes = [table.num_rows for table in tables]
    starts = tuple(int(start) for start in np.cumsum([0, *sizes[:-1]]))
    chunks = [chunk for table in tables for chunk in table["bytes"].chunks]
    encoded = pa.chunked_array(chunks, pa.large_binary())
    values = np.concatenate([table["label"].to_numpy() for table in tables])
    names = _class_names(tables[0].schema)
    if names is None:
        names, labels = classes_of(values)
    else:
        labels = values.astype(np.int64)
    pictures = ParquetPictures(tuple(files), starts, encoded, labels)
    require_labels(pictures, names)
    if train_classes is None:
        return names, pictures
    require_test_classes(str(files[0]), train_classes, names)
    order = np.array([train_classes.index(name) for name in names])
    return train_classes, replace(pictures, labels=order[labels])


def _read_table(file: Path) -> pa.Table:
    """The table of one file with the columns bytes (binary) and label (integers or text)."""
    try:
        schema = pq.read_schema(file)
        image = next((name for name in ("image", "bytes") if name in schema.names), None)
        if image is None or "label" not in schema.names:
            raise UserError(
                f"{file}: needs the columns 'image' (or 'bytes') and 'label', has "
                f"{', '.join(schema.names)}"
            )
        table = pq.read_table(file, columns=[image, "label"])
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: cannot be read as parquet: {_first_line(error)}") from None
    encoded, label = table[image], table["label"]
    if pa.types.is_struct(encoded.type) and encoded.type.get_field_index("bytes") >= 0:
        encoded = pc.struct_field(encoded, "bytes")
    if not (pa.types.is_binary(encoded.type) or pa.types.is_large_binary(encoded.type)):
        raise UserError(
            f"{file}: column '{image}' must hold encoded images (binary, or a struct with a "
            f"binary field 'bytes'), got {encoded.type}"
        )
    if not (pa.types.is_integer(label.type) or pa.types.is_string(label.type)):
        raise UserError(f"{file}: column 'label' must hold integers or text, got {label.type}")
    if label.null_count:
        raise UserError(f"{file}: column 'label' must not be empty, is in {label.null_count} rows")
    columns = {"bytes": encoded.cast(pa.large_binary()), "label": label}
    return pa.table(columns).replace_schema_metadata(schema.metadata)


def _class_names(schema: pa.Schema) -> tuple[str, ...] | None:
    """The names in the features that Hugging Face's datasets writes into the metadata."""
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    label = metadata.get("info", {}).get("features", {}).get("label", {})
    return tuple(label["names"]) if "names" in label else None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
