from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from nas.training.loop import CHECK_STEPS, LossMonitor, SetbackError, is_spike

QUIET = [0.8 + 0.1 * math.sin(step) for step in range(32)]  # deviates by 0.1 at most


def read_all(monitor: LossMonitor, losses: Tensor, *, every: int) -> None:
    """Read them after ``every`` so many steps."""
    for step, loss in enumerate(losses, start=1):
        monitor.add(loss.expand(3), step)
        if step % every == 0:
            monitor.read(step)


def test_a_lasting_rise_is_a_spike() -> None:
    assert is_spike([*QUIET, *[3.0] * 3, 0.8, 0.8], classes=10)  # 3 of the last 5 are its median
    assert not is_spike([*QUIET, *[3.0] * 2, 0.8, 0.8, 0.8], classes=10)


def test_one_bad_batch_is_no_spike() -> None:
    for place in range(5):
        losses = [*QUIET, *[0.8] * 5]
        losses[32 + place] = 1e9
        assert not is_spike(losses, classes=10)


def test_old_outliers_do_not_hide_a_spike() -> None:
    losses = list(QUIET)
    losses[3] = losses[9] = 1e9  # a mean and a standard deviation would be lost
    assert is_spike([*losses, *[3.0] * 5], classes=10)


def test_a_rise_within_the_noise_is_no_spike() -> None:
    noisy = [1.0, 2.0] * 16  # the median absolute deviation is 0.5, ten deviations are 7.4
    assert not is_spike([*noisy, *[8.0] * 5], classes=10)
    assert is_spike([*noisy, *[9.5] * 5], classes=10)


@pytest.mark.parametrize(("classes", "rise"), [(10, 0.576), (1000, 1.727)])
def test_a_rise_of_less_than_a_quarter_of_guessing_is_no_spike(classes: int, rise: float) -> None:
    calm = [0.01] * 32
    assert not is_spike([*calm, *[0.01 + rise - 0.01] * 5], classes)
    assert is_spike([*calm, *[0.01 + rise + 0.01] * 5], classes)


def test_few_losses_are_not_judged() -> None:
    assert not is_spike([*QUIET[1:], *[9.0] * 5], classes=10)


def test_falling_losses_with_noise_have_no_spike() -> None:
    rng = np.random.default_rng(0)
    monitor = LossMonitor(10)
    for step in range(1, 3001):  # a loss of two images a batch has heavy tails
        mean = 2.3 * math.exp(-step / 500) + 0.1
        monitor.add(torch.tensor([mean * rng.exponential(size=2).mean()] * 3), step)


def test_a_loss_that_is_not_finite_is_found_at_its_step() -> None:
    for bad in ([math.nan, 1.0, 1.0], [1.0, math.inf, 1.0], [1.0, 1.0, math.nan]):
        monitor = LossMonitor(10)
        for step in range(41, 51):
            monitor.add(torch.tensor(bad if step == 43 else [1.0, 1.0, 1.0]), step)
        with pytest.raises(SetbackError, match="the loss is not finite") as error:
            monitor.read(50)
        assert error.value.step == 43


def test_losses_are_read_now_and_then_only() -> None:
    monitor = LossMonitor(10)
    for step in range(1, CHECK_STEPS):
        monitor.add(torch.tensor([math.nan] * 3), step)  # not looked at: no GPU waits
    with pytest.raises(SetbackError):
        monitor.add(torch.tensor([1.0] * 3), CHECK_STEPS)


def test_what_is_found_does_not_depend_on_when_it_is_looked_for() -> None:
    losses = torch.tensor([*QUIET, *[0.8] * 20, *[4.0] * 20])
    found = []
    for every in (1, 7, 72):
        monitor = LossMonitor(10)
        with pytest.raises(SetbackError, match="the loss rose to 4") as error:
            read_all(monitor, losses, every=every)
        found.append(error.value.step)
    assert found == [55, 55, 55]  # the third of the high ones


def test_losses_go_on_from_where_they_were() -> None:
    monitor = LossMonitor(10, QUIET)
    with pytest.raises(SetbackError) as error:
        read_all(monitor, torch.tensor([5.0] * 5), every=1)
    assert error.value.step == 5
    assert monitor.losses[-1] == 5.0
