"""Calibrations of synthetic networks of known cost; figures compared with values by hand."""

import math

import numpy as np
import pytest

from nas.latency.calibration import (
    Calibration,
    MeasuredNetwork,
    RowSums,
    StateLatency,
    figures,
    fit_factor,
    fit_line,
    judge,
    validate,
)
from nas.latency.estimator import STATES


@pytest.mark.parametrize(
    ("params", "share"),
    [
        (250_000, math.exp(-9)),  # a third of the cache
        (375_000, math.exp(-4)),
        (750_000, math.exp(-1)),
        (1_500_000, math.exp(-1 / 4)),
        (750_000_000, 1.0),
    ],
)
def test_a_warm_network_fetches_a_share_of_its_weights(params, share):
    calibration = Calibration(factor=2.0, fetching=0.5, cache_megabytes=3.0, overhead_ms=0.1)
    found = calibration.latency(RowSums(1.0, 1.8, params, 0))
    assert found == pytest.approx(2.0 + 0.5 * share * 0.8 + 0.1, rel=1e-5)


def test_a_cold_network_takes_what_its_cold_rows_take():
    calibration = Calibration(
        factor=7.0, cold_factor=0.9, cold_fetching=0.5, cold_overhead_ms=0.1, cold_unit=2.0
    )
    found = calibration.latency(RowSums(1.0, 1.8, 10, 0), "cold")
    assert found == pytest.approx(2 * (0.9 * 1.0 + 0.5 * 0.8 + 0.1))
    assert Calibration(factor=7.0).latency(RowSums(1.0, 1.8, 10, 0), "cold") == 1.8


def test_a_changed_machine_multiplies_all_latencies(sums):
    calibration = Calibration(factor=1.2, fetching=0.5, cache_megabytes=3.0, overhead_ms=0.1)
    slower = calibration.model_copy(update={"warm_unit": 1.5, "cold_unit": 2.0})
    for one in sums:
        assert slower.latency(one) == pytest.approx(1.5 * calibration.latency(one))
        assert slower.latency(one, "cold") == pytest.approx(2 * calibration.latency(one, "cold"))


FETCHING = Calibration(
    factor=1.1, fetching=0.8, cache_megabytes=4.0, overhead_ms=0.05, cold_overhead_ms=0.02
)
ROWS = [
    RowSums(0.5, 0.55, 10_000, 1),  # early: large maps, few weights
    RowSums(0.4, 0.90, 900_000, 1),  # late: small maps, many weights
    RowSums(0.3, 0.35, 100_000, 1),
    RowSums(0.2, 0.24, 50_000, 1),
]


def total(rows):
    return RowSums(*map(sum, zip(*rows, strict=True)))


@pytest.mark.parametrize("state", STATES)
def test_shares_add_up_to_the_latency_in_proportion_to_what_leaving_out_saves(state):
    whole = FETCHING.latency(total(ROWS), state)
    shares = FETCHING.shares(ROWS, state)
    assert sum(shares) == pytest.approx(whole, abs=1e-9)
    saved = [
        whole - FETCHING.latency(total(ROWS[:place] + ROWS[place + 1 :]), state)
        for place in range(len(ROWS))
    ]
    assert shares == pytest.approx([it * whole / sum(saved) for it in saved])


def test_weights_that_are_fetched_make_a_late_layer_cost_more_than_a_slower_early_one():
    early, late, *_ = FETCHING.shares(ROWS)
    assert ROWS[1].warm < ROWS[0].warm
    assert late > 1.1 * early
    without = Calibration(factor=1.1)
    early, late, *_ = without.shares(ROWS)
    assert late == pytest.approx(0.8 * early)


@pytest.mark.parametrize("state", STATES)
def test_a_price_is_what_a_candidate_adds_on_the_scale_of_shares(state):
    other = RowSums(0.25, 0.5, 400_000, 1)
    found = FETCHING.prices(ROWS, 1, [None, other, ROWS[1]], state)
    shares = FETCHING.shares(ROWS, state)
    assert found[0] == 0
    assert found[2] == pytest.approx(shares[1])
    rest = FETCHING.latency(total([ROWS[0], *ROWS[2:]]), state)
    saved = FETCHING.latency(total(ROWS), state) - rest
    added = FETCHING.latency(total([ROWS[0], other, *ROWS[2:]]), state) - rest
    assert found[1] == pytest.approx(added * shares[1] / saved)


def test_a_factor_is_that_of_the_least_squared_relative_error():
    predicted, truth = np.array([1.0, 2.0, 4.0]), np.array([1.1, 2.1, 4.6])
    found = fit_factor(predicted, truth)
    errors = {
        factor: (((factor * predicted - truth) / truth) ** 2).sum()
        for factor in (found, found - 1e-3, found + 1e-3)
    }
    assert min(errors, key=errors.get) == found


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


def point(ms, *, held_out, error=0.1, noise=0.01):
    def state(ms):
        return StateLatency(
            sum_ms=ms, predicted_ms=(1 + error) * ms, measured_ms=1.1 * ms, noise=noise
        )

    return MeasuredNetwork(
        params=10, macs=round(1000 * ms), held_out=held_out, warm=state(ms), cold=state(2 * ms)
    )


def test_validation_compares_held_out_networks_only():
    points = [
        point(ms, held_out=held_out, error=0.1 if held_out else 0.9)
        for ms, held_out in [(1.0, False), (2.0, True), (3.0, False), (4.0, True), (6.0, True)]
    ]
    found = validate(points, (0.002, -0.03))
    for state, factor in (("warm", 1), ("cold", 2)):
        it = found.of(state)
        assert it.calibrated.networks == 3
        assert it.calibrated.mape == pytest.approx(0)
        assert it.raw.mape == pytest.approx(1 - 1 / 1.1)
        assert it.macs.mape == pytest.approx(0, abs=1e-6)
        assert (it.least_ms, it.most_ms) == pytest.approx((2.2 * factor, 6.6 * factor))
    assert found.warm.noise_floor == pytest.approx(0.008), "0.8 of the standard error"
    assert found.cold.noise_floor == pytest.approx(0.008), "the reference is told beside it"
    assert (found.warm.reference_deviation, found.cold.reference_deviation) == (0.002, -0.03)


def test_the_error_of_the_table_is_what_noise_leaves_of_the_mean_error():
    points = [point(ms, held_out=ms > 2, error=0.155, noise=0.05) for ms in np.geomspace(1, 6, 9)]
    found = validate(points, (0.0, 0.0)).warm
    assert found.calibrated.mape == pytest.approx(0.05)
    assert found.table_error == pytest.approx(0.03)
    quiet = [point(ms, held_out=ms > 2, error=0.11, noise=0.05) for ms in np.geomspace(1, 6, 9)]
    assert validate(quiet, (0.0, 0.0)).warm.table_error == 0


def validation_of(error, *, macs_error=0.2, swap=False, noise=0.005, state="cold"):
    """A table that errs by ``error`` up and down; its predictions keep the order unless swapped."""
    measured = np.geomspace(1, 8, 24)
    predicted = measured * np.where(np.arange(24) % 2, 1 + error, 1 - error)
    if swap:
        predicted = predicted[np.arange(24).reshape(-1, 4)[:, ::-1].ravel()]
    points = [point(ms, held_out=ms > 2, noise=0.0) for ms in np.geomspace(1, 6, 9)]
    made = validate(points, (0.001, 0.001))
    update = {
        "calibrated": figures(predicted, measured),
        "macs": figures(measured * (1 + macs_error), measured),
        "noise_floor": noise,
    }
    both = {it: made.of(it).model_copy(update={"macs": update["macs"]}) for it in STATES}
    return made.model_copy(update={**both, state: made.of(state).model_copy(update=update)})


def test_good_tables_pass():
    assert judge(validation_of(0.01)) == ((), ())


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (None, "it was not validated on whole networks"),
        (
            validation_of(0.0405, state="warm"),
            "its mean error on held-out networks is 4.05 % (warm), above 4.0 %; noise explains 0.5 %",
        ),
        (
            validation_of(0.036),
            "its mean error on held-out networks is 3.60 % (cold), above 3.5 %; noise explains 0.5 %",
        ),
        (validation_of(0.0, swap=True), "its Spearman correlation is 0.9"),
        (
            validation_of(0.065, noise=0.045),
            "this machine's noise is 4.5 % (cold), no table can show less: run it longer (--minutes)",
        ),
    ],
)
def test_failing_tables_name_the_figure_and_its_bound(validation, message):
    assert any(message in failure for failure in judge(validation).failures)


def test_an_error_that_noise_explains_is_no_failure():
    assert judge(validation_of(0.045, noise=0.035)).failures == ()
    assert judge(validation_of(0.055, noise=0.035)).failures != ()


def test_a_table_of_the_promised_error_may_mix_up_networks():
    for error, is_refused in ((0.019, False), (0.021, True)):
        made = validation_of(error)
        figures = made.cold.calibrated.model_copy(update={"spearman": 0.9})
        cold = made.cold.model_copy(update={"calibrated": figures, "noise_spearman": 1.0})
        assert bool(judge(made.model_copy(update={"cold": cold})).failures) == is_refused


def test_a_table_hardly_better_than_macs_is_warned_of_but_not_refused():
    verdict = judge(validation_of(0.01, macs_error=0.015))
    assert verdict.failures == ()
    assert verdict.warnings == (
        "its mean error, 1.0 % (cold), is more than half of the 1.5 % of a fit on MACs alone; "
        "noise explains 0.5 %",
    )
