"""Encoded images in the rows of tables: parquet files, and data sets of the Hugging Face hub.

The images of parquet files are kept in memory, still encoded: 15 MB for 50,000 images of 32x32,
about 140 GB for ImageNet. ``folder`` and ``hf`` read from disk: ``datasets``, which comes with the
extra ``hf``, lays the images out in its cache (at ``HF_HOME``) and maps that into memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from nas.data.pictures import open_picture
from nas.data.sources import Pictures, Source, require_test_classes
from nas.errors import UserError

Names = tuple[str, ...]

TEXT = (pa.string(), pa.large_string(), pa.string_view())
BYTES = (pa.binary(), pa.large_binary(), pa.binary_view())

TEST_WORDS = ("test", "validation", "val")
TEST_SPLITS = ("test", "validation")


@dataclass(frozen=True, eq=False)
class ParquetPictures(Pictures):
    """``column`` holds the files' rows one after another; file i begins at row ``starts[i]``."""

    files: tuple[Path, ...]
    starts: tuple[int, ...]
    column: pa.ChunkedArray  # of binary
    labels: NDArray[np.int64]

    def open(self, index: int) -> Image.Image:
        return _open(self.column[index].as_py(), self.place(index))

    def encoded(self, index: int) -> bytes:
        return self.column[index].as_py() or b""

    def place(self, index: int) -> str:
        file = int(np.searchsorted(self.starts, index, side="right")) - 1
        return f"{self.files[file]}: row {index - self.starts[file]}"


@dataclass(frozen=True, eq=False)
class HubPictures(Pictures):
    """A split (``datasets.Dataset``) whose images, in ``column``, stay encoded."""

    where: str
    split: Any
    column: str
    labels: NDArray[np.int64]

    def open(self, index: int) -> Image.Image:
        encoded = self.split[index][self.column]
        if encoded and encoded["bytes"] is None and encoded["path"] is not None:
            return open_picture(encoded["path"])
        return _open(encoded and encoded["bytes"], self.place(index))

    def encoded(self, index: int) -> bytes:
        encoded = self.split[index][self.column] or {"bytes": b"", "path": None}
        if encoded["bytes"] is None and encoded["path"] is not None:
            return Path(encoded["path"]).read_bytes()
        return encoded["bytes"] or b""

    def place(self, index: int) -> str:
        return f"{self.where}: row {index}"


def parquet(spec: str, path: Path) -> Source:
    """The images in a parquet file, or in a folder's files with train and test in their names.

    Classes have the names of a Hugging Face ClassLabel, or the sorted values of the label column.
    """
    train_files, test_files = _find(spec, path)
    classes, train = _read(train_files)
    if not test_files:
        return Source(spec, classes, train)
    names, test = _read(test_files)
    require_test_classes(str(test_files[0]), classes, names)
    order = np.array([classes.index(name) for name in names])
    return Source(spec, classes, train, replace(test, labels=order[test.labels]))


def hub(spec: str, name: str) -> Source:
    """The data set NAME or NAME:CONFIG, a name on the hub or a folder.

    It trains on the split ``train`` and tests on the first of ``test`` and ``validation`` whose
    labels are not hidden. Images are the column of type Image; labels the ClassLabel with the most
    names, or else the column ``label``.
    """
    datasets = _import_datasets()
    splits = _load(datasets, spec, name)
    if "train" not in splits:
        raise UserError(f"{spec}: needs a split named train, has {', '.join(splits)}")
    features = splits["train"].features
    image, label = _image_column(datasets, spec, features), _label_column(datasets, spec, features)
    names = getattr(features[label], "names", None) or None

    def read(split: str, values: NDArray[Any]) -> tuple[Names, HubPictures]:
        classes, labels = _numbered(values, names)
        encoded = splits[split].select_columns([image])
        encoded = encoded.cast_column(image, datasets.Image(decode=False))
        pictures = HubPictures(f"{spec}: {split}", encoded, image, labels)
        _require_labels(pictures, classes, values)
        return classes, pictures

    classes, train = read("train", _values(spec, splits, "train", label))
    for split in TEST_SPLITS:
        values = _values(spec, splits, split, label) if split in splits else None
        if values is None or (names and bool((values < 0).any())):
            continue
        test_classes, test = read(split, values)
        require_test_classes(f"{spec}: {split}", classes, test_classes)
        return Source(spec, classes, train, test)
    return Source(spec, classes, train)


def _open(encoded: bytes | None, place: str) -> Image.Image:
    if encoded is None:
        raise UserError(f"{place}: holds no image bytes")
    return open_picture(BytesIO(encoded))


def _numbered(values: NDArray[Any], names: Names | None) -> tuple[Names, NDArray[np.int64]]:
    """The classes and each row's class: ``values`` (N,), or their places among sorted values."""
    if names is not None and values.dtype.kind not in "iu":  # text, as the names are
        places = {name: place for place, name in enumerate(names)}
        return names, np.array([places.get(str(value), -1) for value in values], np.int64)
    if names is not None:
        return names, values.astype(np.int64)
    classes, labels = np.unique(values, return_inverse=True)
    return tuple(str(value) for value in classes), labels.astype(np.int64)


def _require_labels(pictures: Pictures, names: Names, values: NDArray[Any]) -> None:
    """Raise UserError unless every label, made from ``values``, is the number of a name."""
    labels = pictures.labels
    wrong = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if len(wrong):
        place, label = pictures.place(int(wrong[0])), values[wrong[0]]
        is_number = values.dtype.kind in "iu"
        rule = f"0 to {len(names) - 1}" if is_number else "the name of a class"
        raise UserError(f"{place}: label must be {rule}, got {label}")


def _find(spec: str, path: Path) -> tuple[list[Path], list[Path]]:
    """The files to train on and those to test on."""
    if path.is_file():
        return [path], []
    if not path.is_dir():
        raise UserError(f"{spec}: no such file or folder")
    files = sorted(path.rglob("*.parquet"))
    train = [file for file in files if "train" in file.name.lower()]
    if not train:
        found = ", ".join(file.name for file in files) or "no parquet file at all"
        raise UserError(f"{spec}: holds no file named *train*.parquet, found {found}")
    for word in TEST_WORDS:
        test = [file for file in files if word in file.name.lower() and file not in train]
        if test:
            return train, test
    return train, []


def _read(files: list[Path]) -> tuple[Names, ParquetPictures]:
    tables = [_read_table(file) for file in files]
    starts = np.cumsum([0, *(table.num_rows for table in tables[:-1])]).tolist()
    chunks = [chunk for table in tables for chunk in table["bytes"].chunks]
    encoded = pa.chunked_array(chunks, pa.large_binary())
    columns = [table["label"].to_numpy() for table in tables]
    if len({column.dtype.kind == "O" for column in columns}) > 1:
        raise UserError(
            f"{files[0].parent}: column 'label' holds integers in some files, else text"
        )
    values = np.concatenate(columns)
    names, labels = _numbered(values, _class_names(files[0], tables[0].schema))
    pictures = ParquetPictures(tuple(files), tuple(starts), encoded, labels)
    _require_labels(pictures, names, values)
    return names, pictures


def _read_table(file: Path) -> pa.Table:
    """The table of one file with the columns bytes (binary) and label (integers or text)."""
    try:
        schema = pq.read_schema(file)
        image = next((name for name in ("image", "bytes") if name in schema.names), None)
        if image is None or schema.names.count("label") != 1:
            has = ", ".join(schema.names)
            raise UserError(
                f"{file}: needs the columns 'image' (or 'bytes') and 'label', has {has}"
            )
        table = pq.read_table(file, columns=[image, "label"])
    except (OSError, ValueError, LookupError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file}: cannot be read as parquet: {reason}") from None
    encoded, label = table[image], table["label"]
    if pa.types.is_struct(encoded.type) and encoded.type.get_field_index("bytes") >= 0:
        encoded = pc.struct_field(encoded, "bytes")
    given, encoded, label = encoded.type, _plain(encoded), _plain(label)
    if not pa.types.is_large_binary(encoded.type):
        raise UserError(
            f"{file}: column '{image}' must hold encoded images (binary, or a struct with a "
            f"binary field 'bytes'), got {given}"
        )
    if not (pa.types.is_integer(label.type) or pa.types.is_large_string(label.type)):
        raise UserError(f"{file}: column 'label' must hold integers or text, got {label.type}")
    _require_no_gaps(label, str(file), "label")
    columns = {"bytes": encoded, "label": label}
    return pa.table(columns).replace_schema_metadata(schema.metadata)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column with text and bytes in one layout; pandas and polars write several."""
    chunks = column.chunks or [pa.array([], column.type)]
    return pa.chunked_array([_plain_chunk(chunk) for chunk in chunks])


def _plain_chunk(chunk: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(chunk.type):
        return _plain_chunk(chunk.dictionary).take(chunk.indices)
    layouts = {pa.large_string(): TEXT, pa.large_binary(): BYTES}
    for plain, known in layouts.items():
        if chunk.type in known:
            return chunk.cast(plain)
    return chunk


def _require_no_gaps(column: pa.ChunkedArray, where: str, name: str) -> None:
    if count := column.null_count:
        raise UserError(f"{where}: column '{name}' must not be empty, is in {count} rows")


def _class_names(file: Path, schema: pa.Schema) -> Names | None:
    """The names in the features that Hugging Face's datasets writes into the metadata."""
    written = (schema.metadata or {}).get(b"huggingface")
    if written is None:
        return None
    try:
        found: Any = json.loads(written)
        for key in ("info", "features", "label"):
            found = found.get(key, {})
        names = found.get("names")
    except (ValueError, AttributeError, RecursionError):
        raise UserError(
            f"{file}: metadata 'huggingface' is no JSON as datasets writes it; write the file "
            "again without it, and classes are named by their labels"
        ) from None
    if names is None:
        return None
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UserError(f"{file}: metadata 'huggingface': the names of classes must be texts")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{file}: metadata 'huggingface': class '{repeated[0]}' stands twice")
    return tuple(names)


def _import_datasets() -> Any:  # noqa: ANN401
    try:
        import datasets
    except ImportError:
        raise UserError(
            "data set 'hf:': needs datasets, which is not installed; to install it: "
            'pip install "slimnas[hf]"'
        ) from None
    return datasets


def _load(datasets: Any, spec: str, name: str) -> Mapping[str, Any]:  # noqa: ANN401
    folder = Path(name).expanduser()
    path, _, config = (str(folder), "", "") if folder.is_dir() else name.partition(":")
    try:
        splits: Mapping[str, Any] = datasets.load_dataset(path, config or None)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()
        raise UserError(
            f"{spec}: cannot be loaded: {reason[0] if reason else type(error).__name__}"
        ) from None
    return splits


def _image_column(datasets: Any, spec: str, features: Mapping[str, Any]) -> str:  # noqa: ANN401
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    if "image" in images or len(images) == 1:
        return "image" if "image" in images else images[0]
    raise UserError(f"{spec}: needs one column of type Image, has {_described(features)}")


def _label_column(datasets: Any, spec: str, features: Mapping[str, Any]) -> str:  # noqa: ANN401
    labels = {name: it for name, it in features.items() if isinstance(it, datasets.ClassLabel)}
    sizes = {name: len(kind.names) for name, kind in labels.items()}
    finest = [name for name, size in sizes.items() if size == max(sizes.values())]
    if len(finest) == 1:
        return finest[0]
    kind = getattr(features.get("label"), "dtype", "")
    if "label" in finest or (not finest and kind.startswith(("int", "uint", "string", "large_s"))):
        return "label"
    raise UserError(
        f"{spec}: needs a column of type ClassLabel, or 'label' of integers or text, has "
        f"{_described(features)}"
    )


def _described(features: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} ({type(kind).__name__})" for name, kind in features.items())


def _values(spec: str, splits: Mapping[str, Any], split: str, label: str) -> NDArray[Any]:
    column = splits[split].select_columns([label]).with_format("arrow")[:][label]
    _require_no_gaps(column, f"{spec}: {split}", label)
    values: NDArray[Any] = column.to_numpy()
    return values
