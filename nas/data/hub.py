"""Data sets of the Hugging Face hub, or folders of parquet files like theirs, read from disk.

``datasets`` lays the encoded images out in its cache (at ``HF_HOME``) and maps that into
memory, so a data set may be larger than memory. It comes with the extra ``hf``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
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

TEST_SPLITS = ("test", "validation")


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
            return Image.open(encoded["path"])
        return open_encoded(encoded and encoded["bytes"], self.place(index))

    def place(self, index: int) -> str:
        return f"{self.where}: row {index}"


def hub(spec: str, name: str) -> Source:
    """The data set NAME or NAME:CONFIG, a name on the hub or a folder.

    It trains on the split ``train`` and tests on the first of ``test`` and ``validation`` whose
    labels are not hidden. Images are the column of type Image; labels the ClassLabel with the most
    names, or else the column ``label``.

    Raises:
        UserError: ``datasets`` is not installed or finds nothing; or there is no such split or
            column.
    """
    datasets = _import_datasets()
    splits = _load(datasets, spec, name)
    if "train" not in splits:
        raise UserError(f"{spec}: needs a split named train, has {', '.join(splits)}")
    features = splits["train"].features
    image, label = _image_column(datasets, spec, features), _label_column(datasets, spec, features)
    names = getattr(features[label], "names", None)

    def read(split: str, values: NDArray[Any]) -> tuple[tuple[str, ...], HubPictures]:
        classes, labels = (tuple(names), values) if names else classes_of(values)
        encoded = splits[split].select_columns([image])
        encoded = encoded.cast_column(image, datasets.Image(decode=False))
        pictures = HubPictures(f"{spec}: {split}", encoded, image, labels.astype(np.int64))
        require_labels(pictures, classes)
        return classes, pictures

    classes, train = read("train", _values(spec, splits, "train", label))
    for split in TEST_SPLITS:
        values = _values(spec, splits, split, label) if split in splits else None
        if values is None or (names and bool((values < 0).any())):
            continue
        test_classes, test = read(split, values)
        require_test_classes(f"{spec}: {split}", classes, test_classes)
        return Source(spec, classes, train, test, mirror=True)
    return Source(spec, classes, train, test=None, mirror=True)


def _import_datasets() -> Any:  # noqa: ANN401
    try:
        import datasets
    except ImportError:
        raise UserError(
            "data set 'hf:': needs datasets, which is not installed; to install it: "
            'pip install "nas[hf]"'
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
    sizes = {
        name: len(kind.names)
        for name, kind in features.items()
        if isinstance(kind, datasets.ClassLabel)
    }
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
    if column.null_count:
        raise UserError(
            f"{spec}: {split}: column '{label}' must not be empty, is in {column.null_count} rows"
        )
    values: NDArray[Any] = column.to_numpy()
    return values
