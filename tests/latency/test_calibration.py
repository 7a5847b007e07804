"""Calibration: what it recovers from synthetic networks of known cost."""

import math

import numpy as np
import pytest

from nas.latency.calibration import Calibration, fit_calibration


def networks(rng, count=12):
    sums = np.geomspace(0.1, 3, count)
    return sums, sums * 4e6 * rng.uniform(0.8, 1.2, count)


def test_a_factor_is_recovered_and_nothing_else_invented():
    rng = np.random.default_rng(0)
    sums, params = networks(rng)
    found = fit_calibration(sums, params, 1.07 * sums * rng.normal(1, 0.01, len(sums)))
    assert found.factor == pytest.approx(1.07, rel=0.02)
    assert found.ms_per_megabyte == 0
    assert found.networks == 12


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


def test_latency_never_falls_as_a_network_grows():
    rng = np.random.default_rng(1)
    sums, params = networks(rng)
    found = fit_calibration(sums, params, sums + 0.05 * np.maximum(0, params * 4e-6 - 3))
    order = [found.latency(ms, 4e6 * ms) for ms in np.linspace(0.1, 3, 50)]
    assert order == sorted(order)


def test_scaling_scales_every_latency():
    calibration = Calibration(factor=2.0, ms_per_megabyte=0.5, cache_megabytes=3.0)
    for params in (1000, 5_000_000):
        found = calibration.scaled(1.1).latency(1.0, params)
        assert found == pytest.approx(1.1 * calibration.latency(1.0, params))
