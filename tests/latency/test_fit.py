"""Calibrations are recovered from synthetic networks of known cost."""

import numpy as np
import pytest
from scipy.optimize import lsq_linear

from nas.latency.calibration import Calibration, Machine
from nas.latency.estimator import STATES
from nas.latency.fit import CACHES, MOST_FETCHING, _solve, fit_calibration


def measured(truth, sums, noise, seed=1):
    """What a machine of which ``truth`` is the calibration takes, warm and cold."""
    rng = np.random.default_rng(seed)
    return [[truth.latency(one, state) * rng.normal(1, noise) for one in sums] for state in STATES]


def test_the_sum_of_rows_is_kept_where_it_is_right(sums):
    found = fit_calibration(sums, *measured(Calibration(factor=1.07, fetching=1.07), sums, 0.01))
    assert found.factor == found.fetching == pytest.approx(1.07, rel=0.01)
    assert (found.overhead_ms, found.cold_factor, found.cold_overhead_ms) == (0, 1, 0)
    assert found.networks == 16


def test_overheads_are_recovered(sums):
    truth = Calibration(factor=1.02, overhead_ms=0.03, cold_factor=0.9, cold_overhead_ms=0.05)
    found = fit_calibration(sums, *measured(truth, sums, 0.002))
    assert found.overhead_ms == pytest.approx(0.03, rel=0.1)
    assert found.factor == pytest.approx(1.02, rel=0.02)
    assert found.cold_overhead_ms == pytest.approx(0.05, rel=0.1)
    assert found.cold_factor == pytest.approx(0.9, rel=0.02)


def test_what_cold_networks_take_beside_their_sums_is_one_factor_and_an_overhead(sums):
    truth = Calibration(cold_factor=1.04, cold_fetching=1.04, cold_overhead_ms=0.05)
    found = fit_calibration(sums, *measured(truth, sums, 0.01))
    assert found.cold_factor == found.cold_fetching == pytest.approx(1.04, rel=0.02)
    assert found.cold_overhead_ms == pytest.approx(0.05, rel=0.15)


def test_weights_that_a_warm_network_fetches_are_recovered(sums):
    truth = Calibration(factor=1.0, fetching=0.6, cache_megabytes=CACHES[20])
    found = fit_calibration(sums, *measured(truth, sums, 0.003))
    assert found.fetching == pytest.approx(0.6, rel=0.15)
    assert found.cache_megabytes == pytest.approx(CACHES[20], rel=0.15)
    errors = [found.latency(it) / truth.latency(it) - 1 for it in sums]
    assert np.abs(errors).max() < 0.01


def test_what_passes_through_the_caches_besides_weights_is_recovered(sums):
    rng = np.random.default_rng(2)  # networks of equal weights differ in what they compute
    sums = [it._replace(params=int(1e6 * rng.uniform(0.5, 2))) for it in sums]
    truth = Calibration(fetching=0.8, cache_megabytes=CACHES[28], traffic_megabytes_per_ms=8.0)
    found = fit_calibration(sums, *measured(truth, sums, 0.003))
    assert found.traffic_megabytes_per_ms == 8.0
    errors = [found.latency(it) / truth.latency(it) - 1 for it in sums]
    assert np.abs(errors).max() < 0.01


def test_few_networks_fit_one_factor_only(sums):
    sums = sums[::4]
    truth = Calibration(factor=1.1, overhead_ms=0.2, cold_factor=2.0)
    found = fit_calibration(sums, *measured(truth, sums, 0.0))
    assert found.overhead_ms == 0
    assert (found.cold_factor, found.cold_overhead_ms) == (1, 0)


@pytest.mark.parametrize("scale", [1e-2, 1e-4])
def test_networks_whose_weights_fit_into_any_cache_fetch_nothing(sums, scale):
    sums = [it._replace(params=int(scale * it.params)) for it in sums]
    truth = Calibration(factor=1.1, overhead_ms=0.05)
    found = fit_calibration(sums, *measured(truth, sums, 0.01))
    larger = [it._replace(params=20 * it.params) for it in sums]
    for one in [*sums, *larger]:
        assert found.latency(one) == pytest.approx(truth.latency(one), rel=0.03)


def test_what_hardly_any_network_fetches_does_not_explode_where_caches_have_less_room(sums):
    largest = max(it.megabytes for it in sums)
    truth = Calibration(fetching=30.0, cache_megabytes=1.75 * largest, sharpness=3.0)
    found = fit_calibration(sums, *measured(truth, sums, 0.003))
    assert found.fetching <= MOST_FETCHING
    errors = [found.latency(it) / truth.latency(it) - 1 for it in sums]
    assert np.abs(errors).max() < 0.05
    crowded = found.on(Machine(cache=0.5))
    for one in sums:
        assert crowded.latency(one) <= 1.05 * MOST_FETCHING * one.cold


def test_coefficients_within_bounds_are_those_of_bounded_least_squares():
    rng = np.random.default_rng(0)
    at_bound = 0
    for _ in range(50):
        warm, ones = rng.uniform(0.1, 1, 12), np.ones(12)
        fetched = rng.uniform(0.01, 1) * rng.uniform(0.1, 1, 12)
        measured = warm + rng.uniform(0, 3) * fetched + rng.normal(0, 0.02, 12)
        columns = [warm, fetched, ones]
        found, residual = _solve(columns, measured)
        bounds = (0, [np.inf, MOST_FETCHING, np.inf])
        best = lsq_linear(np.stack(columns, 1) / measured[:, None], ones, bounds, tol=1e-12)
        assert found == pytest.approx(best.x, abs=1e-4)
        assert residual == pytest.approx(np.sqrt(2 * best.cost), abs=1e-6)
        at_bound += found[1] == MOST_FETCHING
    assert 10 < at_bound < 40
