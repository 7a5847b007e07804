"""Calibrations of synthetic networks of known cost; figures compared with values by hand."""

import math

import numpy as np
import pytest

from nas.latency.calibration import (
    Calibration,
    MeasuredNetwork,
    RowSums,
    figures,
    fit_calibration,
    fit_line,
    judge,
    reanchor,
    validate,
)
from nas.latency.networks import noise_floor


def of(ms, params):
    """Sums of rows without MACs."""
    return [RowSums(*pair, 0) for pair in zip(ms, params, strict=True)]


def networks(rng, count=12):
    sums = np.geomspace(0.1, 3, count)
    return sums, sums * 4e6 * rng.uniform(0.8, 1.2, count)


def test_a_factor_is_recovered_without_further_terms():
    rng = np.random.default_rng(0)
    sums, params = networks(rng)
    found = fit_calibration(of(sums, params), 1.07 * sums * rng.normal(1, 0.01, len(sums)))
    assert found.factor == pytest.approx(1.07, rel=0.02)
    assert found.overhead_ms == found.ms_per_megabyte == 0
    assert found.networks == 12


def test_an_overhead_is_recovered():
    rng = np.random.default_rng(0)
    sums = np.geomspace(0.05, 0.5, 16)
    truth = 1.02 * sums + 0.004
    found = fit_calibration(of(sums, sums * 1e6), truth * rng.normal(1, 0.003, len(sums)))
    assert found.overhead_ms == pytest.approx(0.004, rel=0.2)
    assert found.factor == pytest.approx(1.02, rel=0.01)
    assert found.ms_per_megabyte == 0
    assert found.latency(0.1, 1e5) == pytest.approx(0.106, rel=0.01)


def test_weights_beyond_the_cache_are_recovered():
    rng = np.random.default_rng(0)
    sums, params = networks(rng, 16)
    megabytes = params * 4e-6
    truth = 1.02 * sums + 0.04 * megabytes * np.exp(-((12 / megabytes) ** 3))
    found = fit_calibration(of(sums, params), truth * rng.normal(1, 0.01, len(sums)))
    assert found.ms_per_megabyte == pytest.approx(0.04, rel=0.25)
    assert found.cache_megabytes == pytest.approx(12, rel=0.25)
    predicted = [found.latency(*it) for it in zip(sums, params, strict=True)]
    assert np.abs(predicted / truth - 1).max() < 0.05


def test_few_networks_fit_a_factor_only():
    assert fit_calibration(of([1.0, 2.0], [8e6, 9e7]), [1.1, 4.0]).ms_per_megabyte == 0


@pytest.mark.parametrize(
    ("params", "fetched_megabytes"),
    [
        (250_000, 0.0),  # a third of the cache: exp(-27)
        (375_000, 1.5 * math.exp(-8)),
        (750_000, 3.0 * math.exp(-1)),
        (1_500_000, 6.0 * math.exp(-1 / 8)),
        (75_000_000, 300.0),
    ],
)
def test_latency_includes_weights_fetched_from_memory(params, fetched_megabytes):
    calibration = Calibration(factor=2.0, ms_per_megabyte=0.5, cache_megabytes=3.0)
    assert calibration.latency(1.0, params) == pytest.approx(
        2.0 + 0.5 * fetched_megabytes, rel=1e-5
    )


def test_other_traffic_takes_its_share_of_the_cache():
    calibration = Calibration(
        factor=2.0, ms_per_megabyte=0.5, cache_megabytes=3.0, traffic_megabytes_per_ms=4.0
    )
    found = calibration.latency(0.25, 500_000)  # 2 MB of weights and 1 MB of traffic
    assert found == pytest.approx(0.5 + 0.5 * 2 * math.exp(-1))


def test_latency_never_falls_as_a_network_grows():
    rng = np.random.default_rng(1)
    sums, params = networks(rng)
    found = fit_calibration(of(sums, params), sums + 0.05 * np.maximum(0, params * 4e-6 - 3))
    order = [found.latency(ms, 4e6 * ms) for ms in np.linspace(0.1, 3, 50)]
    assert order == sorted(order)


def test_reanchoring_is_one_factor_where_everything_shifted_alike():
    calibration = Calibration(factor=2.0, ms_per_megabyte=0.5, cache_megabytes=3.0)
    rng = np.random.default_rng(0)
    sums, params = networks(rng)
    truth = [1.06 * calibration.latency(*it) for it in zip(sums, params, strict=True)]
    found = reanchor(calibration, of(sums, params), truth * rng.normal(1, 0.005, len(truth)))
    assert found.factor == pytest.approx(2.12, rel=0.005)
    assert found.ms_per_megabyte / found.factor == pytest.approx(0.25)
    assert found.cache_megabytes == 3.0


def test_reanchoring_separates_fetching_from_computing():
    calibration = Calibration(factor=1.0, ms_per_megabyte=0.05, cache_megabytes=4.0)
    rng = np.random.default_rng(0)
    sums, params = networks(rng)
    busy = calibration.model_copy(update={"ms_per_megabyte": 0.08})
    truth = [busy.latency(*it) for it in zip(sums, params, strict=True)]
    found = reanchor(calibration, of(sums, params), truth * rng.normal(1, 0.005, len(truth)))
    assert found.factor == pytest.approx(1.0, rel=0.01)
    assert found.ms_per_megabyte == pytest.approx(0.08, rel=0.05)


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
