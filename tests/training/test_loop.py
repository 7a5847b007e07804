from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from nas.data import Dataset
from nas.errors import UserError
from nas.space import SearchSpace
from nas.training.evaluate import inherited_accuracy
from nas.training.loop import train_supernet
from nas.training.progress import Progress
from nas.training.run import Run
from nas.training.settings import DataSettings, Settings

QUICK = Settings(epochs=3, batch_size=128, random_subnets=1, seed=5)


@pytest.fixture(scope="module")
def data() -> DataSettings:
    return DataSettings(spec="digits", limit=640, search_share=0.2)


@pytest.fixture(scope="module")
def dataset(data: DataSettings) -> Dataset:
    return data.load(32)


@pytest.fixture(scope="module")
def new_run(tmp_path_factory: pytest.TempPathFactory, tiny_space, data, dataset):
    def make(settings: Settings = QUICK) -> Run:
        path = tmp_path_factory.mktemp("runs") / "run"
        return Run.create(path, space=tiny_space, data=data, settings=settings, dataset=dataset)

    return make


@pytest.fixture(scope="module")
def uninterrupted(new_run, dataset: Dataset) -> Run:
    run = new_run()
    train_supernet(run, dataset)
    return run


def lines(run: Run) -> list[dict[str, float]]:
    found = [json.loads(line) for line in run.log_path.read_text().splitlines()]
    for line in found:
        del line["images_per_second"]
    return found


def assert_same(run: Run, other: Run) -> None:
    """Weights, optimizer, state and log, bit for bit."""
    assert run.checkpoint_path.read_bytes() == other.checkpoint_path.read_bytes()
    assert lines(run) == lines(other)


def stop_at(step: int):
    def report(progress: Progress) -> None:
        if progress.step >= step:
            raise KeyboardInterrupt

    return report


def test_same_seed_same_result(new_run, dataset: Dataset, uninterrupted: Run) -> None:
    run = new_run()
    torch.manual_seed(123)  # the global generator has no say
    train_supernet(run, dataset)
    assert_same(run, uninterrupted)
    other = new_run(QUICK.model_copy(update={"seed": 6}))
    train_supernet(other, dataset)
    assert lines(other) != lines(uninterrupted)


def test_a_stopped_training_goes_on_as_if_nothing_had_happened(
    new_run, dataset: Dataset, uninterrupted: Run
) -> None:
    run = new_run()
    with pytest.raises(UserError) as error:
        train_supernet(run, dataset, report=stop_at(8))  # 4 steps are an epoch
    assert str(error.value) == (
        f"stopped in epoch 2 of 3, epoch 1 is saved; to continue: nas train-supernet --run "
        f"{run.path} --resume"
    )
    assert run.finished_epochs == 1
    inherited_accuracy(run.load_supernet(), run.space.smallest(), dataset)  # it can be used
    with pytest.raises(UserError, match=r"has begun; nas train-supernet --run .* --resume"):
        train_supernet(run, dataset)
    train_supernet(Run.open(run.path), dataset, resume=True)
    assert_same(run, uninterrupted)


def test_a_stop_in_the_first_epoch_has_nothing_to_lose(
    new_run, dataset: Dataset, uninterrupted: Run
) -> None:
    run = new_run()
    with pytest.raises(UserError, match="stopped in epoch 1 of 3, no epoch was finished; to cont"):
        train_supernet(run, dataset, report=stop_at(1))
    train_supernet(run, dataset, resume=True)
    assert_same(run, uninterrupted)


KILLED = """
import sys, torch
torch.set_num_threads(1)
from nas.training.loop import train_supernet
from nas.training.run import Run
run = Run.open(sys.argv[1])
dataset = run.data.load(32)
train_supernet(run, dataset, report=lambda progress: print(progress.step, flush=True))
"""


def test_a_killed_process_goes_on_as_if_nothing_had_happened(
    new_run, dataset: Dataset, uninterrupted: Run
) -> None:
    run = new_run()
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, run.path], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if int(line) >= 8:  # the second epoch is about to be judged, logged and saved
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 1 <= run.finished_epochs < 3
    train_supernet(Run.open(run.path), dataset, resume=True)
    assert_same(run, uninterrupted)


def test_what_was_logged_but_not_saved_is_dropped(
    new_run, dataset: Dataset, uninterrupted: Run
) -> None:
    run = new_run()
    with pytest.raises(UserError, match="stopped in epoch 2"):
        train_supernet(run, dataset, report=stop_at(8))
    with run.log_path.open("a") as file:
        file.write('{"epoch": 2, "loss/largest": 9.9}\n')
    train_supernet(run, dataset, resume=True)
    assert_same(run, uninterrupted)


def test_a_finished_run_stays_as_it_is(dataset: Dataset, uninterrupted: Run) -> None:
    before = uninterrupted.checkpoint_path.read_bytes()
    train_supernet(uninterrupted, dataset, resume=True, report=stop_at(0))
    assert uninterrupted.checkpoint_path.read_bytes() == before
    assert uninterrupted.is_finished


def test_the_log_tells_losses_and_accuracies(uninterrupted: Run) -> None:
    log = lines(uninterrupted)
    assert [line["epoch"] for line in log] == [1, 2, 3]
    assert list(log[0]) == [
        "epoch",
        "loss/largest",
        "loss/subnets",
        "loss/distillation",
        "loss/mixture",
        "distillation_share",
        "learning_rate",
        "temperature",
        "training_accuracy/largest",
        "accuracy/smallest",
        "accuracy/middle",
        "accuracy/largest",
        "paths",
    ]
    assert {slot: list(chances) for slot, chances in log[0]["paths"].items()} == {
        "stage1.block1.ffn": ["identity", "conv_ffn"],
        "stage2.block1.attention": ["identity", "attention4d"],
    }
    assert list(uninterrupted.tensorboard_path.iterdir())


def test_the_teacher_has_no_say_before_it_knows_something(uninterrupted: Run) -> None:
    log = lines(uninterrupted)
    assert log[0]["distillation_share"] == 0
    for before, after in pairwise(log):
        knowledge = max(0, before["training_accuracy/largest"] - 0.1) / 0.9
        assert after["distillation_share"] == pytest.approx(knowledge, abs=1e-5)


def test_progress_counts_to_the_end(new_run, dataset: Dataset) -> None:
    found: list[Progress] = []
    run = new_run(QUICK.model_copy(update={"epochs": 2}))
    train_supernet(run, dataset, report=found.append)
    assert found[-1].step == found[-1].total_steps == 8
    assert found[-1].epoch == found[-1].epochs == 2
    assert found[-1].remaining_seconds == 0
    assert found[0].remaining_seconds > 0
    assert found[0].accuracies == {}
    assert set(found[-1].accuracies) == {"smallest", "middle", "largest"}
    assert set(found[-1].losses) == {"largest", "subnets", "distillation", "mixture"}
    assert all(it.images_per_second > 0 for it in found)


def test_subnets_drawn_by_their_paths_go_on_alike_too(new_run, dataset: Dataset) -> None:
    settings = QUICK.model_copy(
        update={"path_sampling": True, "random_subnets": 2, "path_learning_rate": 0.5}
    )
    run, other, plain = (
        new_run(settings),
        new_run(settings),
        new_run(settings.model_copy(update={"path_sampling": False})),
    )
    train_supernet(run, dataset)
    with pytest.raises(UserError, match="stopped in epoch 3"):
        train_supernet(other, dataset, report=stop_at(10))
    train_supernet(other, dataset, resume=True)
    assert_same(run, other)
    train_supernet(plain, dataset)
    found, expected = lines(run), lines(plain)
    assert found[:2] == expected[:2]  # it begins with the second half of the epochs
    assert found[2] != expected[2]


def test_a_loss_that_is_not_finite_ends_the_run(new_run, dataset: Dataset) -> None:
    run = new_run(QUICK.model_copy(update={"learning_rate": 1e30, "warmup": 0.0}))
    message = (
        r"the loss is not finite in epoch 1; start anew \(--force\) with a learning rate below"
    )
    with pytest.raises(UserError, match=message):
        train_supernet(run, dataset)
    assert run.finished_epochs == 0


def test_more_steps_than_images_for_them(tiny_space: SearchSpace, tmp_path: Path) -> None:
    data = DataSettings(spec="digits", limit=30, search_share=0.4)
    dataset = data.load(32)
    run = Run.create(
        tmp_path / "run",
        space=tiny_space,
        data=data,
        settings=Settings(epochs=2, batch_size=500),
        dataset=dataset,
    )
    train_supernet(run, dataset)
    assert math.isfinite(lines(run)[-1]["loss/largest"])


def test_subnets_learn_digits(
    tiny_space: SearchSpace, digits_settings: DataSettings, digits: Dataset, tmp_path: Path
) -> None:
    run = Run.create(
        tmp_path / "run",
        space=tiny_space,
        data=digits_settings,
        settings=Settings(epochs=6, batch_size=32),
        dataset=digits,
    )
    train_supernet(run, digits)
    learnt = lines(run)[-1]
    assert learnt["accuracy/largest"] > 0.85  # guessing: 0.1
    assert learnt["accuracy/smallest"] > 0.7
