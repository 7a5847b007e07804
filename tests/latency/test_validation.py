"""Figures of merit, compared with values worked out by hand."""

import numpy as np
import pytest

from nas.latency.calibration import (
    MeasuredNetwork,
    figures,
    fit_line,
    judge,
    validate,
)
from nas.latency.networks import noise_floor
from nas.statistics import spread_over


def test_figures_of_known_errors():
    found = figures([1.02, 1.94, 3.3, 4.0], [1.0, 2.0, 3.0, 4.0])
    assert found.networks == 4
    assert found.mape == pytest.approx((0.02 + 0.03 + 0.10 + 0) / 4)
    assert found.bias == pytest.approx((0.02 - 0.03 + 0.10 + 0) / 4)
    assert found.max_error == pytest.approx(0.10)
    assert (found.within_5, found.within_10) == (0.75, 1.0)
    assert (found.spearman, found.kendall) == (pytest.approx(1), pytest.approx(1))
    assert found.spearman_interval == found.kendall_interval == (pytest.approx(1), pytest.approx(1))


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
        MeasuredNetwork(
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


def validation_of(error, *, macs_error=0.2, swap=False):
    """A table that errs by ``error`` up and down; its predictions keep the order unless swapped."""
    measured = np.geomspace(1, 8, 24)
    predicted = measured * np.where(np.arange(24) % 2, 1 + error, 1 - error)
    if swap:
        predicted = predicted[np.arange(24).reshape(-1, 4)[:, ::-1].ravel()]
    good = figures(predicted, measured)
    macs = figures(measured * (1 + macs_error), measured)
    point = MeasuredNetwork(
        sum_ms=1, params=1, macs=1, predicted_ms=1, measured_ms=1, held_out=True
    )
    made = validate([point, point.model_copy(update={"held_out": False})] * 4, 0.01)
    return made.model_copy(update={"calibrated": good, "macs": macs})


def test_good_tables_pass():
    assert judge(validation_of(0.01)) == ((), ())


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (None, "it was not validated on whole networks"),
        (validation_of(0.0305), "its mean error on held-out networks is 3.05 %, above 3 %"),
        (validation_of(0.0, swap=True), "its Spearman correlation is 0.9"),
        (validation_of(float("nan")), "its mean error on held-out networks is nan %, above 3 %"),
    ],
)
def test_failing_tables_name_the_figure_and_its_bound(validation, message):
    assert any(message in failure for failure in judge(validation).failures)


def test_a_table_hardly_better_than_macs_is_warned_of_but_not_refused():
    verdict = judge(validation_of(0.01, macs_error=0.015))
    assert verdict.failures == ()
    assert verdict.warnings == (
        "its mean error, 1.0 %, is more than half of the 1.5 % of a fit on MACs alone",
    )
