"""Layouts of folders: read as what they are, or refused in one line; never guessed."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from nas.data import load_dataset, open_source
from nas.data.folders import split_role
from nas.errors import UserError

PICTURE = Image.new("RGB", (8, 8), (1, 2, 3))


def fill(root: Path, *folders: str, count: int = 3) -> Path:
    """Pictures in each of the folders below ``root``."""
    for name in folders:
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            PICTURE.save(root / name / f"{index}.png")
    return root


def message_of(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_source(f"folder:{root}")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test"), ("Train", "Test"), ("train", "Test"), ("TRAINING", "testing"),
     ("train", "test1"), ("training_set", "test_set"), ("train", "val"), ("Train", "Validation"),
     ("train-images", "test-images"), ("train2017", "val2017")],
)  # fmt: skip
def test_splits_are_found_whatever_their_case(tmp_path: Path, train: str, test: str) -> None:
    fill(tmp_path, f"{train}/cat", f"{train}/dog", f"{test}/cat", f"{test}/dog")
    PICTURE.save(tmp_path / train / "cat" / "more.png")
    source = open_source(f"folder:{tmp_path}")
    assert source.classes == ("cat", "dog")
    assert len(source.train.labels) == 7
    assert source.test is not None
    assert len(source.test.labels) == 6
    assert source.unused == ()


@pytest.mark.parametrize(
    "name", ["trains", "tester", "values", "contest", "valley", "testing ground"]
)
def test_classes_that_resemble_splits_are_classes(tmp_path: Path, name: str) -> None:
    assert split_role(name) is None
    assert open_source(f"folder:{fill(tmp_path, name, 'cat')}").classes == ("cat", name)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["train", "test1"], r"'train' is named like a split, but holds no folders of classes; "),
        (["cat", "train"], r"'train' is named like a split, but holds no folders of classes; .*"
         r"rename it if it is a class"),
        (["train/cat", "train/dog", "test1"], r"'test1' is named like a split, but holds no fold"),
        (["train/train/cat", "train/train/dog"], r"'train/train' is named like a split, where .* "
         r"if images are a folder deeper, give folder:.*/train, else rename it"),
        (["train/train", "train/cat", "test/train", "test/cat"], r"'train/train' is named like a "),
        (["Test/cat", "Test/dog"], r"'Test' is named like a split, but there is no folder 'train'"),
        (["cat", "dog", "val"], r"'val' is named like a split, but there is no folder 'train'"),
        (["train/cat", "Train/cat"], r"holds 'Train' and 'train'; keep one folder for the train"),
        (["train/a", "train/b", "test/a", "test1/a"], r"holds 'test' and 'test1'; keep one folder"),
        (["cat/train", "cat/test", "dog/train"], r"'cat/test' is named like a split, inside a cla"),
        (["pets/train/cat", "pets/train/dog"], r"'pets/train' is named like a split, inside a cla"),
        (["train/cat/test", "train/dog"], r"'train/cat/test' is named like a split, inside a clas"),
    ],
)  # fmt: skip
def test_a_layout_that_may_mean_two_things_is_refused(
    tmp_path: Path, folders: list[str], message: str
) -> None:
    assert re.search(message, message_of(fill(tmp_path, *folders)))


def test_the_folder_that_the_message_names_is_the_one_to_give(tmp_path: Path) -> None:
    fill(tmp_path, "train/train/cat", "train/train/dog")
    assert open_source(f"folder:{tmp_path / 'train'}").classes == ("cat", "dog")


def test_what_is_found_and_what_is_not_used_is_one_line(tmp_path: Path, recorder: type) -> None:
    fill(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog", "val/cat", "masks")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("x")
    (tmp_path / "README").write_text("x")
    PICTURE.save(tmp_path / "train" / "sample.jpg")
    heard = recorder()
    load_dataset(f"folder:{tmp_path}", 8, progress=heard)
    assert heard.lines == [
        f"folder:{tmp_path}: 2 classes, 6 training images, 6 test images; not used: folder 'val', "
        "folder 'masks', 1 x image outside the folders of classes, 2 x no image (without suffix, .txt)"
    ]


def test_without_a_test_folder_the_line_says_that_a_part_is_held_out(
    tmp_path: Path, recorder: type
) -> None:
    heard = recorder()
    load_dataset(f"folder:{fill(tmp_path, 'cat', 'dog')}", 8, progress=heard)
    assert heard.lines == [
        f"folder:{tmp_path}: 2 classes, 6 training images, no test images (a part is held out)"
    ]


def test_hidden_folders_are_left_out_at_every_depth(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog", "cat/.ipynb_checkpoints", ".thumbnails", "dog/a/.b/c", "__MACOSX")
    fill(tmp_path, "dog/@eaDir")
    PICTURE.save(tmp_path / "dog" / "._0.png")
    source = open_source(f"folder:{tmp_path}")
    assert len(source.train.labels) == 6
    assert source.unused == ("6 x hidden",)


def test_links_are_followed_once(tmp_path: Path) -> None:
    elsewhere, root = fill(tmp_path / "elsewhere", "more"), fill(tmp_path / "root", "cat", "dog")
    fill(root, "dog/puppies")
    (root / "cat" / "more").symlink_to(elsewhere / "more")
    (root / "dog" / "more").symlink_to(elsewhere / "more")  # one folder cannot be of two classes
    (root / "cat" / "loop").symlink_to(root)
    (root / "cat" / "kittens").symlink_to(root / "dog" / "puppies")
    (root / "dogs").symlink_to(root / "dog")
    (root / "cat" / "broken.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(root / "cat" / "pipe.png")
    source = open_source(f"folder:{root}")
    assert source.classes == ("cat", "dog")
    assert source.train.labels.tolist() == [0] * 6 + [1] * 6
    assert source.unused == (
        "4 x link to a folder that is read already",
        "2 x broken link or special file",
    )


def test_a_test_folder_that_is_a_link_to_the_training_folder_is_not_tested_on(
    tmp_path: Path,
) -> None:
    fill(tmp_path, "train/cat", "train/dog")
    (tmp_path / "test").symlink_to(tmp_path / "train")
    source = open_source(f"folder:{tmp_path}")
    assert source.test is None
    assert source.unused == ("1 x link to a folder that is read already",)


def test_every_suffix_that_can_be_decoded_is_read(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog")
    for suffix in ("jfif", "JPE", "jp2", "pbm", "dib"):
        PICTURE.save(tmp_path / "cat" / f"a.{suffix}")
    shutil.copy(tmp_path / "cat" / "0.png", tmp_path / "cat" / "no suffix")
    source = open_source(f"folder:{tmp_path}")
    assert len(source.train.labels) == 11
    assert source.unused == ("1 x no image (without suffix)",)
