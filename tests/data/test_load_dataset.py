from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import nas.data
from nas.data import Dataset, load_dataset
from nas.data.augmentation import normalise
from nas.data.sources import DigitPictures, Source
from nas.errors import UserError
from nas.preprocessing import IMAGENET

WriteParquet = Callable[..., Path]


def message_of(spec: str, **options: int) -> str:
    with pytest.raises(UserError) as error:
        load_dataset(spec, 16, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def everything(dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [next(part.batches(100)) for part in (dataset.train, dataset.search, dataset.test)]
    images, labels = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(labels)


def test_digits_are_enlarged_grey_and_never_mirrored() -> None:
    dataset = load_dataset("digits", 32)
    assert dataset.classes == tuple("0123456789")
    assert dataset.interpolation == "bilinear"
    assert [len(part) for part in (dataset.train, dataset.search, dataset.test)] == [
        1294, 144, 359,
    ]  # fmt: skip
    assert not dataset.augmentation.mirror
    images, _ = next(dataset.train.batches(8))
    assert images.shape == (8, 3, 32, 32)
    grey = images * torch.tensor(IMAGENET.std).view(3, 1, 1)
    grey += torch.tensor(IMAGENET.mean).view(3, 1, 1)
    assert torch.allclose(grey[:, 0], grey[:, 1], atol=1e-6)


def test_digits_resemble_what_scikit_learn_holds() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    dataset = load_dataset("digits", 8)  # their own size: nothing is interpolated
    images, labels = zip(*dataset.test.batches(500), strict=True)
    known = {
        image.tobytes(): label for image, label in zip(bunch.images, bunch.target, strict=True)
    }
    pixels = images[0][:, 0] * IMAGENET.std[0] + IMAGENET.mean[0]
    for image, label in zip((pixels * 16).round().double().numpy(), labels[0], strict=True):
        assert known[image.tobytes()] == label


def test_folder_gives_the_pixels_of_its_files(photos: Path) -> None:
    dataset = load_dataset(f"folder:{photos}", 16)
    assert (dataset.classes, dataset.interpolation) == (("cat", "dog"), "bicubic")
    assert [len(part) for part in (dataset.train, dataset.search, dataset.test)] == [14, 2, 4]
    assert dataset.augmentation.mirror
    images, labels = everything(dataset)
    expected = {
        normalise(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)).numpy().tobytes():
        ("cat", "dog").index(file.parent.name)
        for file in photos.rglob("*.png")
    }  # fmt: skip
    found = {
        image.numpy().tobytes(): int(label) for image, label in zip(images, labels, strict=True)
    }
    assert found == expected


def test_parquet_equals_the_folder(
    photos: Path, tmp_path: Path, write_parquet: WriteParquet
) -> None:
    files = sorted(photos.rglob("*.png"))
    labels = [("cat", "dog").index(file.parent.name) for file in files]
    encoded = [file.read_bytes() for file in files]
    path = write_parquet(tmp_path / "a.parquet", encoded, labels, ("cat", "dog"))
    first, second = load_dataset(f"parquet:{path}", 12), load_dataset(f"folder:{photos}", 12)
    assert first.classes == second.classes
    assert first.split_sha256 == second.split_sha256
    for one, other in zip(everything(first), everything(second), strict=True):
        assert torch.equal(one, other)


def test_parquet_folder_takes_shards_and_the_test_file(
    photos: Path, tmp_path: Path, write_parquet: WriteParquet
) -> None:
    cats, dogs = (
        [file.read_bytes() for file in sorted((photos / name).iterdir())] for name in ("cat", "dog")
    )
    folder = tmp_path / "sharded"
    write_parquet(folder / "train-0.parquet", cats[:4] + dogs[:2], [*"cccc", *"dd"])
    write_parquet(folder / "train-1.parquet", cats[4:8] + dogs[2:8], [*"cccc", *"dddddd"])
    write_parquet(folder / "test-0.parquet", dogs[8:] + cats[8:], [*"ddcc"])
    dataset = load_dataset(f"parquet:{folder}", 16)
    assert dataset.classes == ("c", "d")
    assert dataset.test.labels.tolist() == [1, 1, 0, 0]
    assert len(dataset.train) + len(dataset.search) == 16


def test_plain_bytes_column_and_integer_labels_are_accepted(photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.rglob("*.png"))
    labels = [7 if file.parent.name == "cat" else 9 for file in files]
    table = pa.table({"bytes": [file.read_bytes() for file in files], "label": labels})
    pq.write_table(table, tmp_path / "a.parquet")
    dataset = load_dataset(f"parquet:{tmp_path / 'a.parquet'}", 16)
    assert dataset.classes == ("7", "9")
    assert sorted(everything(dataset)[1].tolist()) == [0] * 10 + [1] * 10


def test_data_too_large_for_memory_are_streamed_and_equal(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = load_dataset(f"folder:{photos}", 12)
    monkeypatch.setattr(nas.data, "MEMORY_BYTES", 20 * 3 * 12 * 12 - 1)
    streamed = load_dataset(f"folder:{photos}", 12)
    assert type(streamed.train) is not type(in_memory.train)
    for one, other in zip(everything(in_memory), everything(streamed), strict=True):
        assert torch.equal(one, other)


def test_test_folder_is_used_where_there_is_one(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "both" / "train")
    shutil.copytree(photos, tmp_path / "both" / "val")
    dataset = load_dataset(f"folder:{tmp_path / 'both'}", 16)
    assert [len(part) for part in (dataset.train, dataset.search, dataset.test)] == [18, 2, 20]


def test_folders_within_a_class_and_odd_names_belong_to_it(photos: Path) -> None:
    (photos / "cat" / "tabby").mkdir()
    (photos / "cat" / "3.png").rename(photos / "cat" / "tabby" / "grün.PNG")
    (photos / "cat" / ".hidden.png").write_bytes(b"no image")
    (photos / "cat" / "folder.png").mkdir()
    source = nas.data.open_source(f"folder:{photos}")
    places = [source.train.place(index) for index in range(10)]
    expected = [photos / "cat" / f"{it}.png" for it in (0, 1, 2, 4, 5, 6, 7, 8, 9)]
    assert places == [str(it) for it in (*expected, photos / "cat" / "tabby" / "grün.PNG")]
    with source.train.open(9) as image:
        assert image.size == (16, 16)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [("digit", "; did you mean 'digits'?"), ("shape", "; did you mean 'shapes'?"),
     ("floder:x", "; did you mean 'folder'?"),
     ("hf:", "; did you mean 'hf'?"), ("folder:", "; did you mean 'folder'?")],
)  # fmt: skip
def test_unknown_data_set_lists_the_kinds(spec: str, hint: str) -> None:
    kinds = "digits, shapes, folder:PATH, parquet:PATH or hf:NAME"
    expected = f"data set '{spec}': must be {kinds}{hint}"
    assert message_of(spec) == expected


def test_bare_path_is_given_its_kind(photos: Path) -> None:
    assert message_of(str(photos)).endswith(f"; did you mean 'folder:{photos}'?")


def test_missing_path_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "nothing"
    assert message_of(f"folder:{missing}") == (
        f"folder:{missing}: no such folder; give a folder with one folder of images per class"
    )
    assert message_of(f"parquet:{missing}") == f"parquet:{missing}: no such file or folder"


def test_empty_folder_says_where_images_belong(tmp_path: Path) -> None:
    assert message_of(f"folder:{tmp_path}") == (
        f"folder:{tmp_path}: holds no images; put them at {tmp_path}/CLASS/*.jpg, or at "
        f"{tmp_path}/train/CLASS/*.jpg and {tmp_path}/test/CLASS/*.jpg"
    )
    assert message_of(f"parquet:{tmp_path}") == (
        f"parquet:{tmp_path}: holds no file named *train*.parquet, found no parquet file at all"
    )


def test_empty_class_is_named(photos: Path) -> None:
    (photos / "eel").mkdir()
    assert message_of(f"folder:{photos}") == f"folder:{photos}: class 'eel': holds no images"


def test_class_with_one_image_is_named(photos: Path) -> None:
    (photos / "eel").mkdir()
    shutil.copy(photos / "cat" / "0.png", photos / "eel" / "0.png")
    assert message_of(f"folder:{photos}") == (
        f"folder:{photos}: class 'eel': needs at least 3 images to be split "
        "(one to train on, one to search with, one to test on), got 1"
    )


def test_one_class_is_too_few(photos: Path) -> None:
    shutil.rmtree(photos / "cat")
    assert message_of(f"folder:{photos}") == (f"folder:{photos}: needs at least two classes, got 1")


def test_corrupt_file_is_named(photos: Path) -> None:
    file = photos / "cat" / "3.png"
    file.write_bytes(file.read_bytes()[:200])
    assert message_of(f"folder:{photos}") == (
        f"{file}: unreadable image (image file is truncated); replace or remove it"
    )


def test_corrupt_row_is_named(photos: Path, tmp_path: Path, write_parquet: WriteParquet) -> None:
    encoded = [file.read_bytes() for file in sorted(photos.rglob("*.png"))]
    encoded[13] = b"no image"
    path = write_parquet(tmp_path / "a.parquet", encoded, [0] * 10 + [1] * 10)
    message = message_of(f"parquet:{path}")
    assert message.startswith(f"{path}: row 13: unreadable image (cannot identify image file")
    encoded[13] = None
    write_parquet(path, encoded, [0] * 10 + [1] * 10)
    assert message_of(f"parquet:{path}") == f"{path}: row 13: holds no image bytes"


def test_test_set_of_other_classes_is_refused(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "both" / "train")
    shutil.copytree(photos / "cat", tmp_path / "both" / "test" / "cow")
    assert message_of(f"folder:{tmp_path / 'both'}") == (
        f"{tmp_path / 'both' / 'test'}: must have the classes of the training set: "
        "unknown 'cow', missing 'cat', missing 'dog'"
    )


NOT_IMAGES = (
    "column 'image' must hold encoded images (binary, or a struct with a binary field 'bytes'), "
    "got string"
)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1], "b": [2]}, "needs the columns 'image' (or 'bytes') and 'label', has a, b"),
        ({"image": ["x"], "label": [1]}, NOT_IMAGES),
        (
            {"bytes": [b"x"], "label": [0.5]},
            "column 'label' must hold integers or text, got double",
        ),
        (
            {"bytes": [b"x", b"y"], "label": [0, None]},
            "column 'label' must not be empty, is in 1 rows",
        ),
    ],
)
def test_unfit_columns_are_named(
    columns: dict[str, list[object]], message: str, tmp_path: Path
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert message_of(f"parquet:{tmp_path / 'a.parquet'}") == f"{tmp_path / 'a.parquet'}: {message}"


LAYOUTS = {
    "binary": (pa.binary(), pa.string()),
    "pandas 3": (pa.large_binary(), pa.large_string()),
    "polars": (pa.binary_view(), pa.string_view()),
    "categorical": (pa.binary(), pa.dictionary(pa.int32(), pa.string())),
    "polars' categorical": (pa.large_binary(), pa.dictionary(pa.uint32(), pa.large_string())),
    "numbers": (pa.binary(), pa.dictionary(pa.int8(), pa.int64())),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("is_struct", [False, True])
def test_text_and_bytes_are_read_in_every_layout(
    layout: str, is_struct: bool, photos: Path, tmp_path: Path
) -> None:
    expected = load_dataset(f"folder:{photos}", 8)
    encoded = [(photos / it).read_bytes() for it in cat_and_dog_files(photos)]
    kind, text = LAYOUTS[layout]
    is_number = layout == "numbers"
    labels = [0] * 10 + [1] * 10 if is_number else ["cat"] * 10 + ["dog"] * 10
    if pa.types.is_dictionary(text):
        indices = pa.array([0] * 10 + [1] * 10, text.index_type)
        names = pa.array(sorted(set(labels)), text.value_type)
        label = pa.DictionaryArray.from_arrays(indices, names)
    else:
        label = pa.array(labels, text)
    images = pa.array(encoded, kind)
    if is_struct:
        images = pa.StructArray.from_arrays([images], ["bytes"])
    path = tmp_path / "a.parquet"
    rows = 20 if is_struct else 7  # pyarrow cannot cut a struct of views into groups of rows
    pq.write_table(pa.table({"image": images, "label": label}), path, row_group_size=rows)
    found = load_dataset(f"parquet:{path}", 8)
    assert found.classes == (("0", "1") if is_number else ("cat", "dog"))
    for part in ("train", "search", "test"):
        assert torch.equal(getattr(found, part).labels, getattr(expected, part).labels)
        assert torch.equal(getattr(found, part).pixels, getattr(expected, part).pixels)


@pytest.mark.parametrize("name", ["a\0b", "\ud83d"])
def test_a_class_whose_name_no_document_can_hold_is_refused(name: str) -> None:
    pictures = DigitPictures(np.zeros((2, 8, 8), np.uint8), np.array([0, 1]))
    with pytest.raises(UserError, match=r"^given: the name of class .* is no text; rename it$"):
        Source("given", ("\N{GRINNING FACE}", name), pictures)


def cat_and_dog_files(photos: Path) -> list[Path]:
    return [file.relative_to(photos) for file in sorted(photos.rglob("*.png"))]


def test_parquet_without_rows_has_no_classes(tmp_path: Path) -> None:
    columns = {"bytes": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    message = message_of(f"parquet:{tmp_path / 'a.parquet'}")
    assert message.endswith("a.parquet: needs at least two classes, got 0")


def test_test_labels_follow_the_names_of_the_training_classes(
    photos: Path, tmp_path: Path, write_parquet: WriteParquet
) -> None:
    encoded = [file.read_bytes() for file in sorted(photos.rglob("*.png"))]
    write_parquet(tmp_path / "train.parquet", encoded, [0] * 10 + [1] * 10, ("cat", "dog"))
    write_parquet(tmp_path / "test.parquet", encoded, [1] * 10 + [0] * 10, ("dog", "cat"))
    dataset = load_dataset(f"parquet:{tmp_path}", 16)
    assert dataset.test.labels.tolist() == [0] * 10 + [1] * 10


def test_label_beyond_the_class_names_is_refused(
    photos: Path, tmp_path: Path, write_parquet: WriteParquet
) -> None:
    encoded = [file.read_bytes() for file in sorted(photos.rglob("*.png"))]
    labels = [0] * 10 + [1] * 9 + [-1]
    path = write_parquet(tmp_path / "a.parquet", encoded, labels, ("cat", "dog"))
    assert message_of(f"parquet:{path}") == f"{path}: row 19: label must be 0 to 1, got -1"


def features(names: object) -> str:
    return json.dumps({"info": {"features": {"label": {"names": names}}}})


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{", "is no JSON as datasets writes it; write the file again without it"),
        ("\udc80", "is no JSON as datasets writes it"),
        ("[" * 100_000, "is no JSON as datasets writes it"),
        ("[1, 2]", "is no JSON as datasets writes it"),
        ('{"info": "text"}', "is no JSON as datasets writes it"),
        ('{"info": {"features": {"label": null}}}', "is no JSON as datasets writes it"),
        (features(7), "the names of classes must be texts"),
        (features({"0": "cat"}), "the names of classes must be texts"),
        (features(["cat", 2]), "the names of classes must be texts"),
        (features(["cat", "dog", "cat"]), "class 'cat' stands twice"),
    ],
)
def test_metadata_of_other_forms_are_one_line(
    metadata: str, message: str, photos: Path, tmp_path: Path
) -> None:
    encoded = [file.read_bytes() for file in sorted(photos.rglob("*.png"))]
    table = pa.table({"bytes": encoded, "label": [0] * 10 + [1] * 10})
    written = {"huggingface": metadata.encode("utf-8", "surrogateescape")}
    path = tmp_path / "a.parquet"
    pq.write_table(table.replace_schema_metadata(written), path)
    found = message_of(f"parquet:{path}")
    assert found.startswith(f"{path}: metadata 'huggingface'")
    assert message in found


def test_text_labels_are_found_among_the_names(
    photos: Path, tmp_path: Path, write_parquet: WriteParquet
) -> None:
    encoded = [file.read_bytes() for file in sorted(photos.rglob("*.png"))]
    labels = ["dog"] * 10 + ["cat"] * 10
    path = write_parquet(tmp_path / "a.parquet", encoded, labels, ("dog", "cat"))
    source = nas.data.open_source(f"parquet:{path}")
    assert source.classes == ("dog", "cat")
    assert source.train.labels.tolist() == [0] * 10 + [1] * 10
    write_parquet(path, encoded, [*labels[:-1], "cow"], ("dog", "cat"))
    assert message_of(f"parquet:{path}") == (
        f"{path}: row 19: label must be the name of a class, got cow"
    )


def test_files_whose_labels_are_of_two_kinds_are_refused(
    photos: Path, tmp_path: Path, write_parquet: WriteParquet
) -> None:
    encoded = [file.read_bytes() for file in sorted(photos.rglob("*.png"))]
    write_parquet(tmp_path / "train-0.parquet", encoded[:10], [0] * 10)
    write_parquet(tmp_path / "train-1.parquet", encoded[10:], ["cat"] * 10)
    assert "holds integers in some files" in message_of(f"parquet:{tmp_path}")


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    columns = [pa.array([b"x"]), pa.array([0]), pa.array([1])]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns, names=["bytes", "label", "label"]), path)
    assert message_of(f"parquet:{path}").endswith("has bytes, label, label")


@pytest.mark.parametrize("seed", range(3))
def test_damaged_parquet_is_one_line_or_is_read(
    seed: int, photos: Path, tmp_path: Path, write_parquet: WriteParquet
) -> None:
    encoded = [file.read_bytes() for file in sorted(photos.rglob("*.png"))]
    path = write_parquet(tmp_path / "a.parquet", encoded, [0] * 10 + [1] * 10, ("cat", "dog"))
    good, rng = path.read_bytes(), np.random.default_rng(seed)
    for _ in range(60):
        bad = bytearray(good)
        for place in rng.integers(len(bad) - 900, len(bad), 3):  # among what describes the columns
            bad[place] = rng.integers(256)
        path.write_bytes(bytes(bad))
        with suppress(UserError):
            load_dataset(f"parquet:{path}", 8)


def test_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("no parquet at all")
    message = message_of(f"parquet:{tmp_path / 'a.parquet'}")
    assert message.startswith(f"{tmp_path / 'a.parquet'}: cannot be read as parquet: ")


def test_cifar10_has_its_classes_and_sizes(cifar10_folder: Path) -> None:
    dataset = load_dataset(f"parquet:{cifar10_folder}", 32, limit=1000)
    assert dataset.classes[0] == "airplane"
    assert dataset.classes[-1] == "truck"
    assert [len(part) for part in (dataset.train, dataset.search, dataset.test)] == [
        900, 100, 10_000,
    ]  # fmt: skip
    assert torch.bincount(dataset.train.labels).tolist() == [90] * 10
