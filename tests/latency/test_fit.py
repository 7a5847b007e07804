"""Calibrations are recovered from synthetic networks of known cost."""

import numpy as np
import pytest

from nas.latency.calibration import Calibration
from nas.latency.estimator import STATES
from nas.latency.fit import CACHES, fit_calibration


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
