"""Calibration: what it recovers from synthetic networks of known cost."""

import math

import numpy as np
import pytest

from nas.latency.calibration import Calibration, fit_calibration, reanchor


def networks(rng, count=12):
    sums = np.geomspace(0.1, 3, count)
    return sums, sums * 4e6 * rng.uniform(0.8, 1.2, count)


def test_a_factor_is_recovered_and_nothing_else_invented():
    rng = np.random.default_rng(0)
    sums, params = networks(rng)
    found = fit_calibration(sums, params, 1.07 * sums * rng.normal(1, 0.01, len(sums)))
    assert found.factor == pytest.approx(1.07, rel=0.02)
    assert found.overhead_ms == found.ms_per_megabyte == 0
    assert found.networks == 12


def test_an_overhead_is_recovered():
    rng = np.random.default_rng(0)
    sums = np.geomspace(0.05, 0.5, 16)
    truth = 1.02 * sums + 0.004
    found = fit_calibration(sums, sums * 1e6, truth * rng.normal(1, 0.003, len(sums)))
    assert found.overhead_ms == pytest.approx(0.004, rel=0.2)
    assert found.factor == pytest.approx(1.02, rel=0.01)
    assert found.ms_per_megabyte == 0
    assert found.latency(0.1, 1e5) == pytest.approx(0.106, rel=0.01)


def test_weights_beyond_the_cache_are_recovered():
    rng = np.random.default_rng(0)
    sums, params = networks(rng, 16)
    megabytes = params * 4e-6
    truth = 1.02 * sums + 0.04 * megabytes * np.exp(-((12 / megabytes) ** 3))
    found = fit_calibration(sums, params, truth * rng.normal(1, 0.01, len(sums)))
    assert found.ms_per_megabyte == pytest.approx(0.04, rel=0.25)
    assert found.cache_megabytes == pytest.approx(12, rel=0.25)
    predicted = [found.latency(*it) for it in zip(sums, params, strict=True)]
    assert np.abs(predicted / truth - 1).max() < 0.05


def test_few_networks_fit_a_factor_only():
    assert fit_calibration([1.0, 2.0], [8e6, 9e7], [1.1, 4.0]).ms_per_megabyte == 0


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
def test_latency_adds_what_is_fetched_from_memory(params, fetched_megabytes):
    calibration = Calibration(factor=2.0, ms_per_megabyte=0.5, cache_megabytes=3.0)
    assert calibration.latency(1.0, params) == pytest.approx(
        2.0 + 0.5 * fetched_megabytes, rel=1e-5
    )


def test_what_else_passes_through_the_cache_takes_its_share():
    calibration = Calibration(
        factor=2.0, ms_per_megabyte=0.5, cache_megabytes=3.0, traffic_megabytes_per_ms=4.0
    )
    found = calibration.latency(0.25, 500_000)  # 2 MB of weights and 1 MB of traffic
    assert found == pytest.approx(0.5 + 0.5 * 2 * math.exp(-1))


def test_latency_never_falls_as_a_network_grows():
    rng = np.random.default_rng(1)
    sums, params = networks(rng)
    found = fit_calibration(sums, params, sums + 0.05 * np.maximum(0, params * 4e-6 - 3))
    order = [found.latency(ms, 4e6 * ms) for ms in np.linspace(0.1, 3, 50)]
    assert order == sorted(order)


def test_reanchoring_is_one_factor_where_everything_shifted_alike():
    calibration = Calibration(factor=2.0, ms_per_megabyte=0.5, cache_megabytes=3.0)
    rng = np.random.default_rng(0)
    sums, params = networks(rng)
    truth = [1.06 * calibration.latency(*it) for it in zip(sums, params, strict=True)]
    found = reanchor(calibration, sums, params, truth * rng.normal(1, 0.005, len(truth)))
    assert found.factor == pytest.approx(2.12, rel=0.005)
    assert found.ms_per_megabyte / found.factor == pytest.approx(0.25)
    assert found.cache_megabytes == 3.0


def test_reanchoring_tells_fetching_from_computing():
    calibration = Calibration(factor=1.0, ms_per_megabyte=0.05, cache_megabytes=4.0)
    rng = np.random.default_rng(0)
    sums, params = networks(rng)
    busy = calibration.model_copy(update={"ms_per_megabyte": 0.08})
    truth = [busy.latency(*it) for it in zip(sums, params, strict=True)]
    found = reanchor(calibration, sums, params, truth * rng.normal(1, 0.005, len(truth)))
    assert found.factor == pytest.approx(1.0, rel=0.01)
    assert found.ms_per_megabyte == pytest.approx(0.08, rel=0.05)
