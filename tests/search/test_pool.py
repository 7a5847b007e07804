import itertools

import numpy as np
import pytest

from nas.search.problem import Problem, unjudged
from nas.search.refinement import LOOKS, MOVES, STARTS, Pool


@pytest.fixture
def knapsack():
    """Nine choices of four options, with additive prices and values."""
    rng = np.random.default_rng(0)
    sizes = (4,) * 9
    prices, values = (np.cumsum(rng.uniform(0.1, 1, (9, 3)), axis=1) for _ in range(2))

    def priced(one):
        return {"ms": 1 + sum(row[i - 1] for row, i in zip(prices, one, strict=True) if i)}

    def value(indicators, _):
        return indicators @ np.diff(values, axis=1, prepend=0).ravel()

    return Problem(sizes, priced, unjudged, {"ms": 9.0}), value


def best(problem, value):
    """By dynamic programming over prices rounded to a thousandth."""
    steps = 12_000
    table = np.full(steps, -np.inf)
    table[0] = 0
    for choice, size in enumerate(problem.sizes):
        grown = table.copy()
        for option in range(1, size):
            one = tuple(option * (j == choice) for j in range(len(problem.sizes)))
            gain = value(np.array([[float(i >= v) for i in one for v in (1, 2, 3)]]), None)[0]
            price = round(1000 * (problem.price(one)["ms"] - 1))
            grown[price:] = np.maximum(grown[price:], table[: steps - price] + gain)
        table = grown
    return table[: round(1000 * (problem.target["ms"] - 1)) + 1].max()


def test_searches_of_a_large_space_come_near_the_best(knapsack):
    problem, value = knapsack
    pool = Pool(problem, np.random.default_rng(0))
    assert not pool.is_complete
    found = pool.search(value, ())
    assert problem.fits(found)
    assert value(pool.features([found])[0], None)[0] > 0.98 * best(problem, value)


def test_prices_are_asked_sparingly(knapsack):
    problem, value = knapsack
    pool = Pool(problem, np.random.default_rng(0))
    before = len(problem.priced())
    pool.search(value, ())
    assert len(problem.priced()) - before <= STARTS * MOVES * LOOKS


def test_small_spaces_are_searched_as_a_whole():
    problem = Problem((3, 3, 3), lambda one: {"ms": sum(one)}, unjudged, {"ms": 4.0})
    pool = Pool(problem, np.random.default_rng(0))
    every = {one for one in itertools.product(range(3), repeat=3) if sum(one) <= 4}
    assert pool.is_complete
    assert set(pool.members) == every

    def value(indicators, costs):
        return indicators @ np.array([3.0, 3.0, 2.0, 2.0, 1.0, 1.0])

    seen = []
    for expected in sorted((np.dot((3, 2, 1), one) for one in every), reverse=True):
        seen.append(pool.search(value, seen))
        assert np.dot((3, 2, 1), seen[-1]) == expected
    assert pool.search(value, every) is None


def test_assignments_of_one_network_are_one_member():
    def canonical(one):
        return (one[0], one[1] * one[0])

    problem = Problem(
        (2, 3), lambda one: {"ms": sum(canonical(one))}, unjudged, {"ms": 2.0}, canonical
    )
    assert set(Pool(problem, np.random.default_rng(0)).members) == {(0, 0), (1, 0), (1, 1)}


def test_costs_of_nothing_have_a_logarithm():
    problem = Problem(
        (3, 3), lambda one: {"ms": 1.0, "params": float(sum(one))}, unjudged, {"ms": 2.0}
    )
    _, costs = Pool(problem, np.random.default_rng(0)).features([(0, 0), (1, 0), (2, 2)])
    np.testing.assert_allclose(costs, np.log([[1, 4e-4], [1, 1], [1, 4]]))
