"""Rank correlations, their intervals, spread samples, and McNemar's test."""

import math

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from nas.statistics import kendall, mcnemar, spearman, spread_over, with_interval

ORACLES = [(spearman, spearmanr), (kendall, kendalltau)]


@pytest.mark.parametrize(("correlation", "oracle"), ORACLES)
def test_correlations_are_those_of_scipy_with_ties_and_repeated_points(correlation, oracle):
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = rng.integers(0, 12, 15).astype(float)
        y = x + rng.normal(0, 3, 15)
        assert with_interval(correlation, x, y)[0] == pytest.approx(oracle(x, y).statistic)
        weights = rng.multinomial(15, np.full(15, 1 / 15))
        repeated = oracle(np.repeat(x, weights), np.repeat(y, weights)).statistic
        assert correlation(x, y, weights[None].astype(float))[0] == pytest.approx(repeated)


@pytest.mark.parametrize(("correlation", "oracle"), ORACLES)
def test_interval_contains_the_correlation_of_the_population(correlation, oracle):
    rng = np.random.default_rng(1)

    def draw(count):
        x = rng.normal(size=count)
        return x, x + 0.5 * rng.normal(size=count)

    truth = oracle(*draw(20_000)).statistic
    intervals = [with_interval(correlation, *draw(30))[1] for _ in range(60)]
    held = np.mean([low <= truth <= high for low, high in intervals])
    assert held >= 0.85


def test_interval_is_the_same_each_time_and_narrows_with_more_points():
    rng = np.random.default_rng(2)
    x = rng.normal(size=100)
    y = x + 0.3 * rng.normal(size=100)
    low, high = with_interval(spearman, x, y)[1]
    assert with_interval(spearman, x, y)[1] == (low, high)
    few_low, few_high = with_interval(spearman, x[:12], y[:12])[1]
    assert high - low < few_high - few_low


def test_order_kept_has_correlation_one_and_constant_predictions_none():
    x = np.arange(1.0, 9.0)
    assert with_interval(kendall, x, x**2) == (
        pytest.approx(1),
        (pytest.approx(1), pytest.approx(1)),
    )
    assert with_interval(spearman, np.ones(8), x)[0] == 0


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


def hits(bits):
    return np.array([bit == "1" for bit in bits])


def test_mcnemars_p_is_that_of_fair_coins():
    wins, losses = 9, 1
    found = mcnemar(hits("1" * wins + "0" * losses + "1111"), hits("0" * wins + "1" * 5))
    tail = sum(math.comb(10, k) for k in (0, 1, 9, 10)) / 2**10
    assert found == pytest.approx(tail)


def test_networks_that_agree_on_every_image_differ_by_chance_only():
    assert mcnemar(hits("1100"), hits("1100")) == 1.0


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_series_with_what_is_no_number_is_refused_by_its_name(number):
    for first, second, side in (
        ([1, number], [1, 2], "first"),
        ([1, 2], [number, 1], "second"),
    ):
        with pytest.raises(ValueError, match=f"the {side} series holds a number that is not"):
            with_interval(spearman, first, second)
    with pytest.raises(ValueError, match="holds a number that is not finite"):
        spread_over([1, number, 3], 2)
