from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas.architecture import Architecture
from nas.data import Dataset
from nas.deploy.weights import load_weights, read_weights, save_weights
from nas.errors import UserError
from nas.network import build
from nas.space import SearchSpace
from nas.training.evaluation import accuracy, inherited_accuracy
from nas.training.retraining import Retraining, record_beside, remark_on_tests, retrain
from nas.training.run import Run
from nas.training.settings import DataSettings, SupernetSettings
from nas.training.supernets import train_supernet

IMAGES = {"spec": "digits", "limit": 120}
QUICK = {"name": "published", "epochs": 3, "batch_size": 32, "drop_path": 0.3, "seed": 5}


@pytest.fixture(scope="module")
def small(tiny_space: SearchSpace) -> Architecture:
    return tiny_space.decode(tiny_space.uniform(0.5))


@pytest.fixture(scope="module")
def supernet(tmp_path_factory: pytest.TempPathFactory, tiny_space: SearchSpace) -> Run:
    data = DataSettings(spec="digits", limit=200, seed=7, search_share=0.3)
    dataset = data.load(32)
    run = Run.create(
        tmp_path_factory.mktemp("supernet") / "run",
        space=tiny_space,
        data=data,
        settings=SupernetSettings(epochs=2, batch_size=32),
        dataset=dataset,
    )
    train_supernet(run, dataset)
    return run


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, small: Architecture) -> Path:
    path = tmp_path_factory.mktemp("retraining") / "run"
    retrain(*begin(path, small))
    return path


def begin(path: Path, architecture: Architecture, **options) -> tuple[Retraining, Dataset]:
    return Retraining.begin(path, architecture, **{"images": IMAGES, "recipe": QUICK} | options)


def lines(path: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
    for line in found:
        line.pop("images_per_second", None)
        line.pop("check")
    return [it for it in found if "setback" not in it]


def assert_same(path: Path, other: Path) -> None:
    """Weights, optimizer, average, state and log, bit for bit."""
    assert (path / "checkpoint.safetensors").read_bytes() == (
        other / "checkpoint.safetensors"
    ).read_bytes()
    first, second = (read_weights(it / "weights.safetensors") for it in (path, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert lines(path) == lines(other)


def test_a_stopped_training_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, small: Architecture, uninterrupted: Path, stop_at
) -> None:
    path = tmp_path / "run"
    with pytest.raises(UserError) as error:
        retrain(*begin(path, small), progress=stop_at(6))  # 3 steps are an epoch
    assert str(error.value) == (
        f"stopped in epoch 2 of 3, epoch 1 is saved; to continue: nas retrain --run {path} --resume"
    )
    assert not (path / "weights.safetensors").exists()
    opened = Retraining.open(path)
    retrain(opened, opened.load_images())
    assert_same(path, uninterrupted)


KILLED = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from nas.training.retraining import Retraining, record_beside, retrain, remark_on_tests
opened = Retraining.open(Path(sys.argv[1]))
class Printing:
    def update(self, text, done, total=None):
        print(done, flush=True)

    def say(self, line):
        pass

retrain(opened, opened.load_images(), progress=Printing())
"""


@pytest.mark.slow
def test_a_killed_process_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, small: Architecture, uninterrupted: Path
) -> None:
    path = tmp_path / "run"
    begin(path, small)
    process = subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if int(line) >= 6:  # the second epoch is about to be evaluated, logged and saved
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
    opened = Retraining.open(path)
    assert 1 <= opened.finished_epochs < 3
    retrain(opened, opened.load_images())
    assert_same(path, uninterrupted)


def entries(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]


def test_a_setback_goes_back_to_the_last_epoch_with_half_the_rate_and_survives_a_stop(
    tmp_path: Path, small: Architecture, uninterrupted: Path, with_infinity, recorder
) -> None:
    path, whole = tmp_path / "run", tmp_path / "whole"
    progress = recorder()
    opened, dataset = begin(whole, small)
    retrain(opened, with_infinity(dataset, {2}), progress=progress)
    assert [line for line in progress.lines if "back" in line] == [
        "step 6, epoch 2: the loss is not finite; back to the end of epoch 1, on with 0.5 of the "
        "learning rate"
    ]
    assert [it.get("setback") for it in entries(whole)] == [None, 1, None, None]
    rates = [[it["learning_rate"] for it in lines(it)] for it in (whole, uninterrupted)]
    assert rates[0] == pytest.approx(
        [rates[1][0], rates[1][1] / 2, rates[1][2] / 2], rel=1e-4, abs=1e-12
    )
    opened, dataset = begin(path, small)

    def stop(text: str, step: int, total: int | None) -> None:
        if step == 6 and len(entries(path)) == 2:  # after the setback
            raise KeyboardInterrupt

    with pytest.raises(UserError, match="stopped in epoch 2 of 3, epoch 1 is saved"):
        retrain(opened, with_infinity(dataset, {2}), progress=recorder(stop))
    retrain(opened, dataset)
    assert_same(path, whole)


def test_a_setback_in_the_first_epoch_goes_back_to_what_was_inherited(
    tmp_path: Path, small: Architecture, supernet: Run, with_infinity, recorder
) -> None:
    still = {"name": "light", "epochs": 1, "learning_rate": 1e-12, "weight_decay": 0.0}
    recipe = still | {"batch_size": 32}
    opened, dataset = Retraining.begin(tmp_path / "run", small, supernet=supernet, recipe=recipe)
    progress = recorder()
    retrain(opened, with_infinity(dataset, {1}), progress=progress)
    assert progress.lines[0].startswith(
        "step 3, epoch 1: the loss is not finite; back to the start, on"
    )
    load_weights(end := build(small), tmp_path / "run" / "weights.safetensors")
    for before, after in zip(opened.start().parameters(), end.parameters(), strict=True):
        assert float((before - after).detach().abs().max()) < 1e-9


def test_the_fourth_setback_ends_a_retraining(
    tmp_path: Path, small: Architecture, with_infinity
) -> None:
    opened, dataset = begin(tmp_path / "run", small)
    message = (
        r"run: the loss is not finite in epoch 1, with the rate halved 3 times already; start anew "
        r"\(--force\) with a learning rate below 0\.000125$"
    )
    with pytest.raises(UserError, match=message):
        retrain(opened, with_infinity(dataset, set(range(1, 9))))
    assert [it["setback"] for it in entries(tmp_path / "run")] == [1, 2, 3]
    assert opened.finished_epochs == 0


def test_a_network_is_retrained_by_one_process_at_a_time(
    tmp_path: Path, small: Architecture, recorder
) -> None:
    opened, dataset = begin(tmp_path / "run", small)
    held = re.escape(
        f"{opened.path}: another process is training there; wait for it or name another --run"
    )

    def again(text: str, step: int, total: int | None) -> None:
        with pytest.raises(UserError, match=held):
            retrain(opened, dataset)
        with pytest.raises(UserError, match=held):
            begin(opened.path, small, force=True)
        raise KeyboardInterrupt

    with pytest.raises(UserError, match="stopped in epoch 1 of 3, no epoch was finished"):
        retrain(opened, dataset, progress=recorder(again))
    assert not (opened.path / ".lock").exists()


def test_a_retraining_that_was_replaced_is_not_trained(tmp_path: Path, small: Architecture) -> None:
    opened, dataset = begin(tmp_path / "run", small)
    begin(tmp_path / "run", small, recipe=QUICK | {"epochs": 1}, force=True)
    with pytest.raises(UserError, match="another process has begun another retraining there"):
        retrain(opened, dataset)


def test_the_result_holds_for_the_weights(uninterrupted: Path, small: Architecture) -> None:
    result = json.loads((uninterrupted / "result.json").read_text())
    network = build(Architecture.load(uninterrupted / "architecture.json"))
    load_weights(network, uninterrupted / "weights.safetensors")
    test = DataSettings(spec="digits").load(32).test
    assert result["test_accuracy"] == accuracy(network, test)
    assert result["test_images"] == len(test)
    assert result["inherited_test_accuracy"] is None
    assert (result["recipe"], result["epochs"]) == ("published", 3)


def test_a_finished_training_gives_its_result_again(uninterrupted: Path, stop_at) -> None:
    opened = Retraining.open(uninterrupted)
    before = (uninterrupted / "result.json").read_text()
    found = retrain(opened, opened.load_images(), progress=stop_at(0))
    assert found == json.loads(before)


def test_a_network_starts_from_what_it_inherits(
    tmp_path: Path, small: Architecture, supernet: Run
) -> None:
    recipe = QUICK | {"name": "light", "epochs": 1}
    opened, dataset = Retraining.begin(tmp_path / "run", small, supernet=supernet, recipe=recipe)
    assert opened.record.data == supernet.data
    result = retrain(opened, dataset)
    expected = inherited_accuracy(supernet.load_supernet(), small, dataset, dataset.test)
    assert result["inherited_test_accuracy"] == expected
    still = {"learning_rate": 1e-12, "weight_decay": 0.0}
    opened, dataset = Retraining.begin(
        tmp_path / "still", small, supernet=supernet, recipe=recipe | still
    )
    retrain(opened, dataset)
    start = opened.start()
    load_weights(end := build(small), tmp_path / "still" / "weights.safetensors")
    for before, after in zip(start.parameters(), end.parameters(), strict=True):
        assert float((before - after).detach().abs().max()) < 1e-9


def test_the_folder_needs_its_supernet_no_more(
    tmp_path: Path, small: Architecture, supernet: Run
) -> None:
    shutil.copytree(supernet.path, tmp_path / "supernet")
    recipe = QUICK | {"epochs": 1}
    copied = Run.open(tmp_path / "supernet")
    Retraining.begin(tmp_path / "run", small, supernet=copied, recipe=recipe)
    shutil.rmtree(tmp_path / "supernet")
    opened = Retraining.open(tmp_path / "run")
    assert retrain(opened, opened.load_images())["inherited_test_accuracy"] > 0


def photos_in(path: Path) -> Path:
    """A folder of nine pictures of each of ten classes."""
    rng = np.random.default_rng(0)
    for label in range(10):
        (path / f"class{label}").mkdir(parents=True)
        for number in range(9):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path / f"class{label}" / f"{number}.png")
    return path


def rename_one_of_each_class(photos: Path) -> None:
    for folder in photos.iterdir():
        (folder / "0.png").rename(folder / "99.png")


def test_what_a_supernet_was_trained_on_is_not_tested_on(
    tmp_path: Path, small: Architecture, tiny_space: SearchSpace, recorder
) -> None:
    photos = photos_in(tmp_path / "photos")
    data = DataSettings(spec=f"folder:{photos}")
    dataset = data.load(32)
    settings = SupernetSettings(epochs=1, batch_size=16)
    run = Run.create(
        tmp_path / "supernet", space=tiny_space, data=data, settings=settings, dataset=dataset
    )
    train_supernet(run, dataset)
    options = {"supernet": run, "recipe": {"epochs": 1}, "force": True}
    moved = shutil.copytree(photos, tmp_path / "moved")
    for images in ({}, {"spec": f"folder:{moved}"}, {"seed": 3, "search_share": 0.2}):
        progress = recorder()
        begun, _ = Retraining.begin(
            tmp_path / "run", small, images=images, progress=progress, **options
        )
        assert not any("not those" in line for line in progress.lines)
        if not images:
            save_weights(begun.start(), begun.path / "weights.safetensors")
            record = record_beside(begun.path / "weights.safetensors")
            assert record == begun.record
            assert remark_on_tests(record, dataset) is None
    rename_one_of_each_class(moved)
    progress = recorder()
    Retraining.begin(
        tmp_path / "run", small, images={"spec": f"folder:{moved}"}, progress=progress, **options
    )
    assert progress.lines[1:] == [
        f"{run.path}: the test set of folder:{moved} is not the one that was held out in the "
        f"training on folder:{photos}: pictures in it may have been trained on"
    ]
    rename_one_of_each_class(photos)
    with pytest.raises(
        UserError, match=r"the test set of folder:.* trained on; put back what was renamed"
    ):
        Retraining.begin(tmp_path / "run", small, **options)


def test_a_retraining_goes_on_where_its_pictures_are_now(
    tmp_path: Path, small: Architecture
) -> None:
    photos = photos_in(tmp_path / "photos")
    images, recipe = {"spec": f"folder:{photos}"}, {"epochs": 1}
    begin(tmp_path / "one", small, images=images, recipe=recipe)
    begin(tmp_path / "other", small, images=images, recipe=recipe)
    expected = Retraining.open(tmp_path / "one")
    retrain(expected, expected.load_images())
    photos.rename(moved := tmp_path / "moved")
    begun = Retraining.open(tmp_path / "other")
    with pytest.raises(UserError, match=r"its pictures are no longer at folder:.*; --data names"):
        begun.load_images()
    begun = begun.relocated(f"folder:{moved}")
    begun.require_same(small, {"spec": f"folder:{moved}"})
    assert retrain(begun, begun.load_images())["data"] == f"folder:{moved}"
    assert_same(tmp_path / "other", tmp_path / "one")


def test_a_retraining_whose_folder_is_deleted_leaves_it_deleted(
    tmp_path: Path, small: Architecture, recorder
) -> None:
    begun, dataset = begin(tmp_path / "run", small, recipe={"epochs": 1})

    def delete(text: str, done: int, total: int | None) -> None:
        shutil.rmtree(begun.path, ignore_errors=True)

    with pytest.raises(UserError, match="was deleted or replaced while a training was under way"):
        retrain(begun, dataset, progress=recorder(delete))
    assert not begun.path.exists()


def test_a_head_gets_the_classes_of_the_images(tmp_path: Path, small: Architecture) -> None:
    opened, _ = begin(tmp_path / "run", small.with_classes(1000))
    assert opened.architecture == small
    assert Retraining.open(tmp_path / "run").architecture == small


def test_small_data_take_the_light_recipe(tmp_path: Path, small: Architecture) -> None:
    opened, _ = begin(tmp_path / "run", small, recipe={"epochs": 3})
    assert opened.record.recipe.name == "light"
    assert opened.record.recipe.epochs == 3


@pytest.mark.parametrize(("recipe", "rate"), [({}, 0.0625), ({"drop_path": 0.5}, 0.5)])
def test_the_published_recipe_drops_paths_as_published_unless_told_otherwise(
    tmp_path: Path,
    small: Architecture,
    recipe: dict[str, float],
    rate: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nas.training.settings.published_drop_path", lambda _: 0.0625)
    opened, _ = begin(tmp_path / "run", small, recipe={"name": "published", **recipe})
    assert opened.record.recipe.drop_path == rate


def test_a_network_of_another_space_inherits_nothing(
    tmp_path: Path, small: Architecture, supernet: Run
) -> None:
    widened = [
        it.model_copy(update={"expansion": 9}) if it.kind == "conv_ffn" else it
        for it in small.layers
    ]
    other = Architecture(input_shape=small.input_shape, layers=widened)
    with pytest.raises(
        UserError, match=r"run: its space 'tiny' does not hold the architecture: .*fit"
    ):
        Retraining.begin(tmp_path / "run", other, supernet=supernet)
    assert not (tmp_path / "run").exists()


def test_what_is_there_is_not_overwritten(
    tmp_path: Path, small: Architecture, uninterrupted: Path
) -> None:
    message = "holds a finished retraining; --force starts anew"
    with pytest.raises(UserError, match=message):
        begin(uninterrupted, small)
    (tmp_path / "notes.txt").write_text("mine")
    for force in False, True:
        with pytest.raises(UserError, match="holds other things than a retraining"):
            begin(tmp_path, small, force=force)
    with pytest.raises(UserError, match="must be a folder, is a file"):
        begin(tmp_path / "notes.txt", small)


def test_force_starts_anew(tmp_path: Path, small: Architecture) -> None:
    retrain(*begin(tmp_path / "run", small, recipe=QUICK | {"epochs": 1}))
    opened, _ = begin(tmp_path / "run", small, force=True)
    assert opened.finished_epochs == 0
    names = sorted(file.name for file in (tmp_path / "run").iterdir())
    assert names == ["architecture.json", "retraining.json"]


def test_what_differs_from_the_start_is_named(
    uninterrupted: Path, small: Architecture, tiny_space: SearchSpace
) -> None:
    opened = Retraining.open(uninterrupted)
    remedy = "name another --run, or start anew with --force"
    opened.require_same(small.with_classes(1000), {"spec": "digits", "epochs": 3, "teacher": None})
    for given, expected in (
        ({"epochs": 9}, "was started with epochs 3, got 9"),
        ({"name": "light"}, "was started with recipe published, got light"),
        ({"limit": 9}, "was started with limit 120, got 9"),
        ({"teacher": "t.onnx"}, "was started with teacher None, got t.onnx"),
        ({"supernet": "r"}, "was started with supernet None, got r"),
    ):
        with pytest.raises(UserError, match=re.escape(f"{expected}; {remedy}")):
            opened.require_same(None, given)
    with pytest.raises(UserError, match=re.escape(f"trains another architecture; {remedy}")):
        opened.require_same(tiny_space.smallest(), {})


def test_another_recipe_is_not_gone_on_with(tmp_path: Path, small: Architecture) -> None:
    path = tmp_path / "run"
    retrain(*begin(path, small, recipe=QUICK | {"epochs": 1}))
    text = (path / "retraining.json").read_text()
    (path / "retraining.json").write_text(text.replace('"epochs": 1', '"epochs": 2'))
    (path / "result.json").unlink()
    opened = Retraining.open(path)
    with pytest.raises(UserError, match=r"holds the weights of another retraining than retrain"):
        retrain(opened, opened.load_images())


def test_a_folder_without_a_retraining_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no retraining; nas retrain without --resume starts"):
        Retraining.open(tmp_path)
    with pytest.raises(UserError, match="no such retraining"):
        Retraining.open(tmp_path / "x")


def test_a_teacher_is_refused_before_anything_is_written(
    tmp_path: Path, small: Architecture
) -> None:
    with pytest.raises(UserError, match=r"t\.onnx: no such file"):
        begin(tmp_path / "run", small, teacher="t.onnx")
    assert not (tmp_path / "run").exists()


def test_a_teacher_is_listened_to(tmp_path: Path, small: Architecture, uninterrupted: Path) -> None:
    spec = f"{uninterrupted / 'architecture.json'}:{uninterrupted / 'weights.safetensors'}"
    opened, dataset = begin(tmp_path / "run", small, teacher=spec)
    retrain(opened, dataset)
    assert lines(tmp_path / "run")[0]["loss/distillation"] > 0
    assert lines(tmp_path / "run")[-1] != lines(uninterrupted)[-1]
