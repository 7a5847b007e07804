"""The seconds of an image, measured in a few steps: of the right steps, on batches that fit."""

import pytest
import torch

from nas.training.batches import Batch
from nas.training.pace import (
    FIRST,
    ROUNDS,
    STEPS,
    _image_seconds,
    forward_seconds,
    sandwich_seconds,
)
from nas.training.settings import SupernetSettings


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still, unless a step takes its time."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    made = Clock()
    monkeypatch.setattr("nas.training.pace.time", made)
    return made


def batch(size):
    return Batch(torch.zeros(size, 3, 4, 4), torch.zeros(size, dtype=torch.long), size, 4)


def test_what_the_first_steps_cost_beyond_the_others_does_not_count(clock):
    calls = []

    def step(number, part):
        calls.append(part.size)
        clock.now += 0.1 + (3.0 if len(calls) == 1 else 0.0)

    assert _image_seconds(step, batch(64), "cpu") == pytest.approx(0.1 / 64)
    assert calls == [64] * (FIRST + ROUNDS * STEPS)


def test_the_faster_round_counts(clock):
    calls = []

    def step(number, part):
        calls.append(number)
        clock.now += 0.1 if len(calls) <= FIRST + STEPS else 0.4

    assert _image_seconds(step, batch(64), "cpu") == pytest.approx(0.1 / 64)
    assert calls[FIRST:] == [*range(STEPS)] * ROUNDS  # a mixture comes as often as in training


def test_slow_steps_are_timed_on_fewer_images(clock):
    sizes = []

    def step(number, part):
        sizes.append(part.size)
        clock.now += 0.05 * part.size

    assert _image_seconds(step, batch(64), "cpu") == pytest.approx(0.05)
    assert set(sizes[FIRST:]) == {10}
    assert sum(sizes) < 64 * (FIRST + 2)


def test_a_step_of_the_sandwich_costs_more_than_classifying(tiny_space):
    forward = forward_seconds(tiny_space.largest())
    assert 0 < forward < sandwich_seconds(tiny_space, SupernetSettings())


def test_a_supernet_of_pretrained_weights_is_timed_as_it_trains(tiny_space):
    settings = SupernetSettings.model_validate({"weights": "any"})
    assert sandwich_seconds(tiny_space, settings) > 0
