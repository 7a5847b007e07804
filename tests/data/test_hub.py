from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import nas.data
from nas.data import Dataset, load_dataset
from nas.data.images import StreamedImages
from nas.errors import UserError

Write = Callable[..., Path]


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """datasets, which works offline and keeps its cache in a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        found = pytest.importorskip("datasets", reason='pip install "slimnas[hf]"')
        found.disable_progress_bars()
        return found


@pytest.fixture
def write(datasets: ModuleType, photos: Path, tmp_path: Path) -> Write:
    """Writes splits of the photos as sharded parquet files: of each the labels by column."""
    encoded = [file.read_bytes() for file in sorted(photos.rglob("*.png"))]

    def write(
        splits: dict[str, dict[str, Any]], features: dict[str, Any], *, corrupt: int | None = None
    ) -> Path:
        folder, shards = tmp_path / "sharded", 2
        folder.mkdir()
        if corrupt is not None:
            encoded[corrupt] = b"no image"
        for name, columns in splits.items():
            images = [{"bytes": it, "path": None} for it in encoded]
            table = datasets.Dataset.from_dict(
                {"image": images, **columns},
                features=datasets.Features({"image": datasets.Image(), **features}),
            )
            for shard in range(shards):
                part = table.shard(shards, shard, contiguous=True)
                part.to_parquet(folder / f"{name}-0000{shard}-of-0000{shards}.parquet")
        return folder

    return write


LABELS = [0] * 10 + [1] * 10


@pytest.fixture
def plain(datasets: ModuleType, write: Write) -> Path:
    """The photos as training images of cats and dogs, without a test split."""
    return write({"train": {"label": LABELS}}, {"label": datasets.ClassLabel(names=["cat", "dog"])})


def everything(dataset: Dataset) -> list[torch.Tensor]:
    parts = [next(part.batches(100)) for part in (dataset.train, dataset.search, dataset.test)]
    return [tensor for part in parts for tensor in part]


def message_of(spec: str) -> str:
    with pytest.raises(UserError) as error:
        load_dataset(spec, 16)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_sharded_parquet_equals_the_folder(plain: Path, photos: Path) -> None:
    found, expected = load_dataset(f"hf:{plain}", 12), load_dataset(f"folder:{photos}", 12)
    assert found.classes == expected.classes
    assert found.split_sha256 == expected.split_sha256
    for one, other in zip(everything(found), everything(expected), strict=True):
        assert torch.equal(one, other)


def test_it_is_streamed_by_workers_where_it_is_large(
    plain: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = everything(load_dataset(f"folder:{photos}", 12))
    monkeypatch.setattr(nas.data, "MEMORY_BYTES", 0)
    found = load_dataset(f"hf:{plain}", 12)
    assert isinstance(found.train, StreamedImages)
    assert torch.equal(torch.cat([it for it, _ in found.train.batches(5)]), expected[0])


@pytest.mark.parametrize(
    ("splits", "sizes"),
    [
        (("train",), (14, 2, 4)),
        (("train", "validation"), (18, 2, 20)),
        (("train", "validation", "test"), (18, 2, 20)),
    ],
)
def test_the_search_slice_comes_from_the_training_split(
    datasets: ModuleType, write: Write, splits: tuple[str, ...], sizes: tuple[int, ...]
) -> None:
    label = datasets.ClassLabel(names=["cat", "dog"])
    folder = write({name: {"label": LABELS} for name in splits}, {"label": label})
    first, second = (load_dataset(f"hf:{folder}", 16, seed=3) for _ in range(2))
    assert tuple(len(part) for part in (first.train, first.search, first.test)) == sizes
    assert first.split_sha256 == second.split_sha256
    assert first.split_sha256 != load_dataset(f"hf:{folder}", 16, seed=4).split_sha256


def test_hidden_test_labels_give_way_to_the_validation_split(
    datasets: ModuleType, write: Write
) -> None:
    reverse = LABELS[::-1]
    splits = {"train": LABELS, "validation": reverse, "test": [-1] * 20}
    folder = write(
        {name: {"label": labels} for name, labels in splits.items()},
        {"label": datasets.ClassLabel(names=["cat", "dog"])},
    )
    assert load_dataset(f"hf:{folder}", 16).test.labels.tolist() == reverse


def test_the_label_column_with_the_most_classes_is_taken(
    datasets: ModuleType, write: Write
) -> None:
    features = {
        "coarse": datasets.ClassLabel(names=["animal"]),
        "fine": datasets.ClassLabel(names=["cat", "dog"]),
    }
    folder = write({"train": {"coarse": [0] * 20, "fine": LABELS}}, features)
    assert load_dataset(f"hf:{folder}", 16).classes == ("cat", "dog")


def test_text_labels_are_accepted(datasets: ModuleType, write: Write) -> None:
    texts = ["dog"] * 10 + ["cat"] * 10
    folder = write(
        {"train": {"label": texts}, "test": {"label": texts}}, {"label": datasets.Value("string")}
    )
    found = load_dataset(f"hf:{folder}", 16)
    assert found.classes == ("cat", "dog")
    assert found.test.labels.tolist() == LABELS[::-1]


def test_unfit_columns_are_named(datasets: ModuleType, write: Write) -> None:
    folder = write({"train": {"size": [0.5] * 20}}, {"size": datasets.Value("float32")})
    assert message_of(f"hf:{folder}") == (
        f"hf:{folder}: needs a column of type ClassLabel, or 'label' of integers or text, has "
        "image (Image), size (Value)"
    )


def test_a_training_split_is_needed(datasets: ModuleType, write: Write) -> None:
    label = datasets.ClassLabel(names=["cat", "dog"])
    folder = write({"test": {"label": LABELS}}, {"label": label})
    assert message_of(f"hf:{folder}") == f"hf:{folder}: needs a split named train, has test"


def test_a_corrupt_row_is_named(datasets: ModuleType, write: Write) -> None:
    label = datasets.ClassLabel(names=["cat", "dog"])
    folder = write({"train": {"label": LABELS}}, {"label": label}, corrupt=13)
    message = message_of(f"hf:{folder}")
    assert message.startswith(f"hf:{folder}: train: row 13: unreadable image (cannot identify")


@pytest.mark.usefixtures("datasets")
def test_a_name_that_is_not_found_is_one_line() -> None:
    message = message_of("hf:nobody/nothing:small")
    assert message.startswith("hf:nobody/nothing:small: cannot be loaded: ")


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert message_of("hf:mnist") == (
        "data set 'hf:': needs datasets, which is not installed; to install it: "
        'pip install "slimnas[hf]"'
    )
