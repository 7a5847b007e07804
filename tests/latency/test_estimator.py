"""Estimates from synthetic visits whose truth is known."""

import numpy as np
import pytest

from nas.latency.measure import Estimate, estimate, slope

TRUTH = 2.0


def test_estimate_ignores_visits_gone_astray():
    rng = np.random.default_rng(0)
    visits = TRUTH * rng.normal(1, 0.01, 12)
    visits[[3, 7]] *= 3
    found = estimate(visits, 0.25)
    assert found.value == pytest.approx(TRUTH, rel=0.02)
    assert found.is_within(0.04)


@pytest.mark.parametrize("count", [1, 2, 4, 9, 30])
def test_estimate_of_equal_visits_is_that_value(count):
    found = estimate([TRUTH] * count, 0.5)
    assert found.value == pytest.approx(TRUTH)
    assert found.error == pytest.approx(0, abs=1e-6)


def test_estimate_is_the_quantile_of_many_visits():
    visits = np.random.default_rng(0).normal(TRUTH, 0.1, 4000)
    for quantile in (0.25, 0.5):
        assert estimate(visits, quantile).value == pytest.approx(
            np.quantile(visits, quantile), abs=0.005
        )


def test_order_of_visits_does_not_matter():
    visits = np.random.default_rng(0).normal(TRUTH, 0.1, 15)
    assert estimate(visits, 0.25) == estimate(visits[::-1], 0.25)


@pytest.mark.parametrize("quantile", [0.25, 0.5])
def test_interval_covers_the_truth(quantile):
    rng = np.random.default_rng(1)
    truth = np.quantile(rng.normal(TRUTH, 0.1, 100_000), quantile)
    covered = []
    for _ in range(500):
        found = estimate(rng.normal(TRUTH, 0.1, 12), quantile)
        covered.append(abs(found.value - truth) <= found.half_width)
    assert np.mean(covered) >= 0.90


def test_drift_and_bimodality_widen_the_interval():
    rng = np.random.default_rng(2)
    quiet = TRUTH * rng.normal(1, 0.005, 12)
    drift = quiet * np.linspace(1, 1.3, 12)
    bimodal = quiet * np.where(np.arange(12) % 2, 1.4, 1.0)
    narrow = estimate(quiet, 0.5).half_width
    assert estimate(drift, 0.5).half_width > 5 * narrow
    assert estimate(bimodal, 0.5).half_width > 5 * narrow
    assert estimate(quiet, 0.5).status == "ok"
    assert estimate(bimodal, 0.5).status == "noisy"


def test_lower_quartile_stands_for_the_undisturbed_mode():
    rng = np.random.default_rng(3)
    visits = TRUTH * rng.normal(1, 0.005, 20) * np.where(np.arange(20) % 2, 1.4, 1.0)
    assert estimate(visits, 0.25).value == pytest.approx(TRUTH, rel=0.02)


def test_slope_divides_the_difference_and_adds_the_errors():
    found = slope(Estimate(3.0, 0.03, 8), Estimate(1.0, 0.04, 6), 2)
    assert found == Estimate(1.0, 0.025, 6)


def test_a_slope_of_zero_is_noisy():
    assert slope(Estimate(1.0, 0.0, 8), Estimate(1.0, 0.0, 8), 2).status == "noisy"


def test_one_visit_tells_nothing_about_its_error():
    assert estimate([TRUTH], 0.25).half_width == np.inf
    assert estimate([TRUTH], 0.25).status == "noisy"
