"""The pace of a training is told once, in its first seconds."""

import calendar
import time

import pytest

from nas.training.outlook import SECONDS, STEPS, Outlook, advice, outlook_line
from nas.training.run import Run
from nas.training.settings import DataSettings, SupernetSettings
from nas.training.supernets import train_supernet


def paces(steps):
    """What an outlook says after each of some (images, seconds, is_last)."""
    outlook = Outlook()
    return [outlook.pace(images, seconds, is_last=last) for images, seconds, last in steps]


def test_the_first_step_which_allocates_memory_does_not_count():
    found = paces([(64, 30.0, False), *[(64, SECONDS / STEPS, False)] * STEPS])
    assert found == [None] * STEPS + [pytest.approx(64 * STEPS / SECONDS)]


def test_a_few_steps_are_too_few_however_long_they_take():
    assert paces([(8, 1.0, False), *[(8, 2 * SECONDS, False)] * (STEPS - 1)]) == [None] * STEPS


def test_the_pace_is_told_once():
    found = paces([(64, 1.0, False)] * 200)
    assert [pace for pace in found if pace is not None] == [64]


def test_before_the_first_evaluation_the_steps_that_there_were_must_do():
    assert paces([(64, 2.0, True)]) == [32]
    assert paces([(64, 9.0, False), (64, 2.0, False), (32, 1.0, True)]) == [None, None, 32]


def test_a_line_tells_how_long_and_until_when():
    noon = calendar.timegm((2026, 3, 1, 12, 0, 0)) + time.timezone  # local time, no summer time
    assert outlook_line(100.0, 6_000, 10, noon) == (
        "100 images/s: about 10 min for 10 epochs of 6,000 images, until 12:10"
    )
    assert outlook_line(1.0, 3_600, 24, noon).endswith("about 24 h for 24 epochs of 3,600 images, "
                                                       "until 2026-03-02 12:00")  # fmt: skip
    assert outlook_line(100.0, 90, 10, noon) is None


def test_hours_are_told_what_would_take_less():
    assert advice(100.0, 6_000, 10, "digits") == ""
    assert advice(10.0, 9_000, 10, "folder:p").startswith("; --epochs 4 take an hour; nas run ")
    assert "nas run --data folder:p --minutes 60" in advice(10.0, 9_000, 10, "folder:p")
    assert advice(1.0, 9_000, 1, "p").startswith("; an epoch takes more than an hour; ")


def test_a_training_says_its_pace_before_its_first_accuracies(
    small_space, tmp_path, monkeypatch, recorder
):
    monkeypatch.setattr("nas.training.outlook.SHORT", 0.0)
    run = Run.create(
        tmp_path / "r",
        space=small_space,
        data=DataSettings(limit=200),
        settings=SupernetSettings(epochs=2),
        dataset=(images := DataSettings(limit=200).load(16)),
    )
    heard = recorder()
    train_supernet(run, images, progress=heard)
    told = [index for index, line in enumerate(heard.lines) if "images/s: about" in line]
    assert len(told) == 1
    assert "for 2 epochs of 180 images" in heard.lines[told[0]]
    assert heard.lines[told[0] + 1].startswith("epoch 1 of 2:")
