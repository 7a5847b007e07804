from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.data import Dataset
from nas.errors import UserError
from nas.space import SearchSpace
from nas.store.checkpoint import State, save_checkpoint
from nas.training.run import Run
from nas.training.settings import DataSettings, LatencyTerm, SupernetSettings
from nas.training.step import make_optimizer
from nas.training.supernets import fresh_supernet, train_supernet


@pytest.fixture
def run(
    tmp_path: Path, tiny_space: SearchSpace, digits_settings: DataSettings, digits: Dataset
) -> Run:
    return Run.create(
        tmp_path / "run",
        space=tiny_space,
        data=digits_settings,
        settings=SupernetSettings(epochs=3, seed=7),
        dataset=digits,
    )


def save_epoch(run: Run, epoch: int, *, space: SearchSpace | None = None) -> None:
    supernet = fresh_supernet(space or run.space, seed=1, layer_scale=1.0)
    optimizer = make_optimizer(supernet, learning_rate=1.0, weight_decay=0.0)
    state = State(epoch=epoch, teacher=0.0, accuracies={}, recipe_sha256=run.recipe_sha256)
    save_checkpoint(run.checkpoint_path, supernet, optimizer, state)


def message_of(error: pytest.ExceptionInfo[UserError], run: Run) -> str:
    return str(error.value).replace(str(run.path), "RUN")


def test_a_run_reads_back_as_it_was_made(run: Run, digits: Dataset) -> None:
    opened = Run.open(run.path)
    assert opened.space == run.space
    assert opened.data == run.data
    assert opened.settings == run.settings
    assert (opened.record.split_sha256, opened.record.held_out) == (
        digits.split_sha256,
        digits.held_out,
    )
    assert opened.recipe_sha256 == run.recipe_sha256
    assert not opened.is_finished


def test_a_run_of_a_version_with_fewer_settings_reads_back_with_its_weights(run: Run) -> None:
    record = json.loads((run.path / "run.json").read_text())
    del record["settings"]["path_interval"]
    (run.path / "run.json").write_text(json.dumps(record))
    opened = Run.open(run.path)
    save_epoch(opened, 3)
    assert Run.open(run.path).load_supernet()
    record["settings"]["learning_rate"] = 0.5
    (run.path / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="holds the weights of another run"):
        Run.open(run.path).load_supernet()


def test_weights_come_in_evaluation_mode(run: Run) -> None:
    save_epoch(run, 3)
    supernet = run.load_supernet()
    assert run.is_finished
    assert not supernet.training
    expected = fresh_supernet(run.space, seed=1, layer_scale=1.0).state_dict()
    assert all(it.equal(expected[name]) for name, it in supernet.state_dict().items())


def test_a_run_without_a_finished_epoch_has_no_weights(run: Run) -> None:
    with pytest.raises(UserError) as error:
        run.load_supernet()
    assert message_of(error, run) == (
        "RUN: no epoch is finished yet; nas train-supernet --run RUN --resume goes on"
    )


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (3, "RUN: holds a finished run; --force starts anew"),
        (
            1,
            (
                "RUN: holds a run that has finished 1 of 3 epochs; --resume continues it, "
                "--force starts anew"
            ),
        ),
    ],
)
def test_a_run_is_not_overwritten(run: Run, digits: Dataset, epoch: int, expected: str) -> None:
    save_epoch(run, epoch)
    before = run.checkpoint_path.read_bytes()
    again = {
        "space": run.space,
        "data": run.data,
        "settings": run.settings,
        "dataset": digits,
    }
    with pytest.raises(UserError) as error:
        Run.create(run.path, **again)
    assert message_of(error, run) == expected
    assert run.checkpoint_path.read_bytes() == before
    Run.create(run.path, **again, force=True)
    assert run.finished_epochs == 0
    assert sorted(file.name for file in run.path.iterdir()) == ["run.json", "space.json"]


@pytest.mark.parametrize("force", [False, True])
def test_other_folders_are_not_taken_for_runs(
    tmp_path: Path,
    tiny_space: SearchSpace,
    digits_settings: DataSettings,
    digits: Dataset,
    force: bool,
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for path, message in (
        (tmp_path, "holds other things than a run"),
        (tmp_path / "notes.txt", "must be a folder, is a file"),
        (tmp_path / "notes.txt" / "run", "cannot be written: Not a directory"),
    ):
        with pytest.raises(UserError, match=message):
            Run.create(
                path,
                space=tiny_space,
                data=digits_settings,
                settings=SupernetSettings(),
                dataset=digits,
                force=force,
            )


def test_force_starts_anew_where_a_kill_cut_the_deletion_short(run: Run, digits: Dataset) -> None:
    save_epoch(run, 1)
    (run.path / "run.json").unlink()
    options = {"space": run.space, "data": run.data, "settings": run.settings, "dataset": digits}
    message = (
        r"run: holds checkpoint\.safetensors, space\.json, which a run left that was stopped as it "
        "began, or which are yours; --force replaces them"
    )
    with pytest.raises(UserError, match=message):
        Run.create(run.path, **options)
    assert Run.create(run.path, **options, force=True).finished_epochs == 0


def test_half_a_file_that_a_kill_left_is_in_nobodys_way(
    tmp_path: Path, run: Run, digits: Dataset
) -> None:
    path = tmp_path / "new"
    path.mkdir()
    (path / ".space.json.abcdefgh.nas-partial").write_text("{")
    options = {"space": run.space, "data": run.data, "settings": run.settings, "dataset": digits}
    Run.create(path, **options)
    assert sorted(it.name for it in path.iterdir()) == ["run.json", "space.json"]


def test_links_in_a_run_are_deleted_but_not_what_they_point_at(
    tmp_path: Path, run: Run, digits: Dataset
) -> None:
    save_epoch(run, 1)
    (tmp_path / "curves").mkdir()
    for name in ("curves/events", "log.jsonl", "check.csv"):
        (tmp_path / name).write_text("mine")
    (run.path / "tensorboard").symlink_to(tmp_path / "curves")
    (run.path / "log.jsonl").symlink_to(tmp_path / "log.jsonl")
    (run.path / "check.csv").symlink_to(tmp_path / "check.csv")
    (run.path / "previous.safetensors").symlink_to(tmp_path / "gone")
    (run.path / "slim_2").mkdir()
    (run.path / "slim_2" / "result.json").symlink_to(tmp_path / "check.csv")
    options = {"space": run.space, "data": run.data, "settings": run.settings, "dataset": digits}
    Run.create(run.path, **options, force=True)
    assert sorted(it.name for it in run.path.iterdir()) == ["run.json", "space.json"]
    for name in ("curves/events", "log.jsonl", "check.csv"):
        assert (tmp_path / name).read_text() == "mine"


def test_a_training_writes_nothing_through_links(tmp_path: Path, run: Run, digits: Dataset) -> None:
    for name in ("tensorboard", "log.jsonl", "checkpoint.safetensors", "reference"):
        (run.path / name).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(
            UserError, match=rf"{name}: is a link, through which nothing is written"
        ):
            train_supernet(run, digits)
        (run.path / name).unlink()
    assert not (tmp_path / "elsewhere").exists()
    assert sorted(it.name for it in run.path.iterdir()) == ["run.json", "space.json"]


def test_what_cannot_be_deleted_is_told_before_anything_is(
    run: Run, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_epoch(run, 1)
    (run.path / "slim_2").mkdir()
    (run.path / "slim_2" / "result.json").write_text("{}")
    closed = run.path / "slim_2"
    allowed = os.access  # these tests may run as root, who may write everywhere
    monkeypatch.setattr(os, "access", lambda path, mode: path != closed and allowed(path, mode))
    before = sorted(it.name for it in run.path.iterdir())
    options = {"space": run.space, "data": run.data, "settings": run.settings, "dataset": digits}
    with pytest.raises(UserError, match=r"slim_2: cannot be deleted: .*slim_2 must not be written"):
        Run.create(run.path, **options, force=True)
    assert sorted(it.name for it in run.path.iterdir()) == before


def test_a_training_whose_folder_is_deleted_ends_in_one_line_and_leaves_it_deleted(
    tmp_path: Path, tiny_space: SearchSpace, recorder
) -> None:
    data, settings = DataSettings(spec="digits", limit=60), SupernetSettings(epochs=2)
    path, few = tmp_path / "few", data.load(32)
    run = Run.create(path, space=tiny_space, data=data, settings=settings, dataset=few)

    def delete(text: str, done: int, total: int | None) -> None:
        shutil.rmtree(path, ignore_errors=True)

    message = r"log\.jsonl: was deleted or replaced while a training was under way"
    with pytest.raises(UserError, match=message):
        train_supernet(run, few, progress=recorder(delete))
    assert not path.exists()
    with pytest.raises(UserError, match="no such run"):
        train_supernet(run, few)
    assert not path.exists()


def test_a_second_training_is_told_that_one_is_running(run: Run, digits: Dataset) -> None:
    options = {"space": run.space, "data": run.data, "settings": run.settings, "dataset": digits}
    with run.locked(), pytest.raises(UserError, match="another process is training there"):
        Run.require_free(run.path)
    with run.locked(), pytest.raises(UserError, match="another process is training there"):
        Run.create(run.path, **options)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of twelve pictures of each of ten classes."""
    rng = np.random.default_rng(0)
    for label in range(10):
        (tmp_path / "photos" / f"class{label}").mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / f"class{label}" / f"{number:02}.png")
    return tmp_path / "photos"


def run_on(photos: Path, path: Path, space: SearchSpace) -> Run:
    data = DataSettings(spec=f"folder:{photos}")
    run = Run.create(
        path,
        space=space,
        data=data,
        settings=SupernetSettings(epochs=3, seed=7),
        dataset=data.load(32),
    )
    save_epoch(run, 1)
    return Run.open(path)


def of_version_0_1(run: Run) -> Run:
    """The run as the first version, which knew no pictures, would have recorded it."""
    record = json.loads((run.path / "run.json").read_text())
    del record["held_out"]
    (run.path / "run.json").write_text(json.dumps(record))
    old = Run.open(run.path)
    save_epoch(old, 1)
    return old


def test_a_file_with_another_name_lets_no_training_image_into_the_held_out_ones(
    tmp_path: Path, photos: Path, tiny_space: SearchSpace
) -> None:
    run = run_on(photos, tmp_path / "run", tiny_space)
    run.load_images()
    for folder in photos.iterdir():
        (folder / "00.png").rename(folder / "99.png")
    with pytest.raises(UserError) as error:
        run.load_images()
    assert message_of(error, run) == (
        f"RUN: the images of folder:{photos} are not those that the run was started with: the "
        "search slice and the test set would be others, and may have been trained on; put back "
        "what was renamed, added or removed, name another --run, or start anew with --force"
    )


def test_a_run_finds_its_pictures_elsewhere(
    tmp_path: Path, photos: Path, tiny_space: SearchSpace
) -> None:
    run = run_on(photos, tmp_path / "run", tiny_space)
    weights = run.weights_sha256
    photos.rename(tmp_path / "moved")
    with pytest.raises(UserError) as error:
        run.load_images()
    assert message_of(error, run) == (
        f"RUN: its pictures are no longer at folder:{photos}; --data names the place where they "
        "are now"
    )
    moved = run.relocated(f"folder:{tmp_path / 'moved'}")
    assert moved.load_images().held_out == run.record.held_out
    assert moved.weights_sha256 == weights
    moved.require_same(space=run.space, data=moved.data, settings=run.settings)
    with moved.locked():
        pass
    (tmp_path / "moved" / "class3" / "00.png").rename(tmp_path / "moved" / "class3" / "99.png")
    with pytest.raises(UserError, match="are not those that the run was started with"):
        moved.load_images()


def test_the_place_of_the_pictures_is_no_part_of_a_training(
    tmp_path: Path, photos: Path, tiny_space: SearchSpace
) -> None:
    shutil.copytree(photos, tmp_path / "copy")
    one, other = (
        run_on(place, tmp_path / f"run {place.name}", tiny_space)
        for place in (photos, tmp_path / "copy")
    )
    assert one.recipe_sha256 == other.recipe_sha256


def test_a_run_of_version_0_1_goes_on_and_says_what_it_does_not_know(
    tmp_path: Path, photos: Path, tiny_space: SearchSpace, recorder
) -> None:
    run = of_version_0_1(run_on(photos, tmp_path / "run", tiny_space))
    progress = recorder()
    run.load_images(progress)
    assert progress.lines == [
        f"{run.path}: was started by an earlier version, which did not record what its pictures "
        f"are: only their number and order in folder:{photos} are checked"
    ]
    with pytest.raises(UserError, match="knows its pictures by their positions only, as it was st"):
        run.relocated("folder:elsewhere")
    assert run.relocated(run.data.spec) is run


def test_a_folder_without_a_run_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x: no such run; nas train-supernet --run .*x makes one"):
        Run.open(tmp_path / "x")
    with pytest.raises(UserError, match="holds no run; nas train-supernet"):
        Run.open(tmp_path)


def test_a_damaged_record_points_at_its_place(run: Run) -> None:
    text = (run.path / "run.json").read_text()
    (run.path / "run.json").write_text(text.replace('"epochs": 3', '"epochs": 0'))
    message = r"run\.json:\d+:\d+: settings\.epochs: input should be greater than 0, got 0"
    with pytest.raises(UserError, match=message):
        Run.open(run.path)


def test_weights_of_another_space_are_refused(run: Run, tiny_space: SearchSpace) -> None:
    save_epoch(run, 1)
    stages = [dict(it) for it in tiny_space.model_dump(exclude_defaults=True)["stages"]]
    stages[0]["width"] = (8, 12)
    other = SearchSpace.model_validate(
        {**tiny_space.model_dump(exclude_defaults=True), "stages": stages}
    )
    (run.path / "space.json").write_text(other.to_json())
    with pytest.raises(UserError, match=r"holds the weights of another run than run\.json and"):
        Run.open(run.path).load_supernet()
    (run.path / "space.json").write_text(run.space.to_json())
    save_epoch(run, 1, space=other)
    with pytest.raises(UserError, match="holds the weights of another network: "):
        Run.open(run.path).load_supernet()


def test_what_differs_from_the_start_is_named(run: Run, tiny_space: SearchSpace) -> None:
    remedy = "name another --run, or start anew with --force"
    other = tiny_space.model_copy(update={"name": "other"})
    same_name = tiny_space.with_classes(9)
    same = {"space": tiny_space, "data": run.data, "settings": run.settings}
    for given, expected in (
        ({"space": other}, f"holds weights of the space 'tiny', not 'other'; {remedy}"),
        ({"space": same_name}, f"holds weights of the space another version of 'tiny'; {remedy}"),
        (
            {"settings": run.settings.model_copy(update={"epochs": 9})},
            f"was started with epochs 3, got 9; {remedy}",
        ),
        (
            {"data": run.data.model_copy(update={"limit": 100})},
            f"was started with limit None, got 100; {remedy}",
        ),
    ):
        with pytest.raises(UserError, match=re.escape(expected)):
            run.require_same(**same | given)
    run.require_same(**same)


def test_other_images_are_refused(run: Run, digits: Dataset) -> None:
    for part in ("search", "test"):
        others = digits.held_out.model_copy(update={f"{part}_sha256": "another"})
        changed = dataclasses.replace(digits, held_out=others)
        with pytest.raises(UserError, match="the images of digits are not those that the run was"):
            run.require_images(changed)
    with pytest.raises(UserError, match=r"started with: the classes would be others"):
        run.require_images(dataclasses.replace(digits, classes=tuple("abcdefghij")))


def test_the_head_must_fit_the_classes(
    tmp_path: Path, tiny_space: SearchSpace, digits_settings: DataSettings, digits: Dataset
) -> None:
    with pytest.raises(UserError) as error:
        Run.create(
            tmp_path / "run",
            space=tiny_space.with_classes(7),
            data=digits_settings,
            settings=SupernetSettings(),
            dataset=digits,
        )
    assert str(error.value) == "digits: has 10 classes, but the head of the space 'tiny' has 7"
    assert not (tmp_path / "run").exists()


def test_a_run_without_path_choice_says_why(
    tmp_path: Path, tiny_space: SearchSpace, digits_settings: DataSettings, digits: Dataset
) -> None:
    fixed = SearchSpace.model_validate(
        {
            "name": "fixed",
            "input_size": 32,
            "classes": 10,
            "stem": {"kind": "conv_stem"},
            "stages": [{"width": [8, 16]}],
            "head": {"kind": "classifier"},
        }
    )
    for space, settings, problem in (
        (fixed, SupernetSettings(), "no slot of the space 'fixed' may vary in kind or be left out"),
        (tiny_space, SupernetSettings(path_choice=False), "the run was started without it"),
    ):
        run = Run.create(
            tmp_path / "run",
            space=space,
            data=digits_settings,
            settings=settings,
            dataset=digits,
            force=True,
        )
        with pytest.raises(UserError) as error:
            run.require_path_choice()
        assert message_of(error, run) == f"RUN: holds no path probabilities: {problem}"


def test_settings_that_need_path_choice_are_refused_without(
    tmp_path: Path, tiny_space: SearchSpace, digits_settings: DataSettings, digits: Dataset
) -> None:
    term = LatencyTerm(weight=1.0, table="t.csv", largest_ms=1.0, ms={})
    for given in ({"path_sampling": True}, {"latency": term}):
        with pytest.raises(UserError) as error:
            Run.create(
                tmp_path / "run",
                space=tiny_space,
                data=digits_settings,
                settings=SupernetSettings.model_validate({"path_choice": False, **given}),
                dataset=digits,
            )
        assert str(error.value).replace(str(tmp_path), "X") == (
            "X/run: a latency term and path sampling need path choice: the run was started without "
            "it"
        )
        assert not (tmp_path / "run").exists()


def test_a_run_with_path_choice_may_be_asked_for_it(run: Run) -> None:
    run.require_path_choice()


def test_force_removes_what_described_the_weights_before_and_says_so(
    run: Run, digits: Dataset, recorder
) -> None:
    save_epoch(run, 3)
    kept = ["check.jsonl", "notes.txt", "slim_mine/notes.txt"]
    for name in (
        *kept,
        *("check.json", "check.csv", "check.png"),
        *("slim_2/result.json", "slim_2/weights.safetensors", "slim_3/result.json"),
    ):
        (run.path / name).parent.mkdir(exist_ok=True)
        (run.path / name).write_text("of old")
    progress = recorder()
    options = {"space": run.space, "data": run.data, "settings": run.settings, "dataset": digits}
    for _ in range(2):
        Run.create(run.path, **options, force=True, progress=progress)
    assert progress.lines == [
        f"{run.path}: what described the weights before is removed: check.json, check.csv, "
        "check.png, slim_2, slim_3"
    ]
    left = sorted(str(it.relative_to(run.path)) for it in run.path.rglob("*") if it.is_file())
    assert left == sorted([*kept, "run.json", "space.json"])
