"""Figures of merit, compared with values worked out by hand."""

import numpy as np
import pytest

from nas.latency.validation import (
    Point,
    figures,
    fit_line,
    noise_floor,
    spread_over,
    validate,
)


def test_figures_of_known_errors():
    found = figures([1.02, 1.94, 3.3, 4.0], [1.0, 2.0, 3.0, 4.0])
    assert found.networks == 4
    assert found.mape == pytest.approx((0.02 + 0.03 + 0.10 + 0) / 4)
    assert found.bias == pytest.approx((0.02 - 0.03 + 0.10 + 0) / 4)
    assert found.max_error == pytest.approx(0.10)
    assert (found.within_5, found.within_10) == (0.75, 1.0)
    assert (found.spearman, found.kendall) == (1.0, 1.0)


def test_ranks_see_a_swap():
    found = figures([1.0, 3.0, 2.0, 4.0], [1.0, 2.0, 3.0, 4.0])
    assert found.spearman == pytest.approx(0.8)
    assert found.kendall == pytest.approx(4 / 6)


def test_line_is_recovered():
    x = np.array([1.0, 2.0, 5.0, 9.0])
    assert fit_line(x, 3 * x + 2) == pytest.approx((3, 2))


def test_noise_floor_is_the_difference_between_halves():
    quiet, shaky = [1.0] * 6, [1.0, 1.1] * 3
    assert noise_floor([quiet], 0.5) == pytest.approx(0, abs=1e-9)
    assert noise_floor([quiet, shaky], 0.5) == pytest.approx((1 - 1 / 1.1) / 2)


def test_spread_covers_the_range_evenly_by_ratio():
    values = np.random.default_rng(0).uniform(1, 100, 3000)
    chosen = values[spread_over(values, 9)]
    assert len(set(chosen)) == 9
    assert chosen[0] == values.min()
    assert chosen[-1] == values.max()
    ratios = chosen[1:] / chosen[:-1]
    assert ratios == pytest.approx([100 ** (1 / 8)] * 8, rel=0.05)


def test_spread_of_everything_is_everything():
    assert sorted(spread_over([3.0, 1.0, 2.0], 3)) == [0, 1, 2]


def test_validation_compares_held_out_networks_only():
    points = [
        Point(
            sum_ms=ms,
            params=10,
            macs=round(1000 * ms),
            predicted_ms=1.1 * ms,
            measured_ms=1.1 * ms,
            held_out=held_out,
        )
        for ms, held_out in [(1.0, False), (2.0, True), (3.0, False), (4.0, True), (6.0, True)]
    ]
    found = validate(points, 0.01)
    assert found.calibrated.networks == 3
    assert found.calibrated.mape == pytest.approx(0)
    assert found.raw.mape == pytest.approx(1 - 1 / 1.1)
    assert found.macs.mape == pytest.approx(0, abs=1e-6)
    assert (found.least_ms, found.most_ms) == (2.2, 6.6000000000000005)
    assert found.noise_floor == 0.01
