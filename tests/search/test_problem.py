import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.search.problem import InfeasibleTarget, Problem, unjudged


def test_each_assignment_is_priced_once():
    asked = []
    problem = Problem(
        (2, 2), lambda one: asked.append(one) or {"ms": sum(one)}, unjudged, {"ms": 1.0}
    )
    assert problem.fits((1, 0))
    assert not problem.fits((1, 1))
    assert problem.fits((1, 0))
    assert sorted(asked) == sorted(set(asked))


def test_the_excess_is_that_of_the_bound_missed_most():
    problem = Problem((5, 5), lambda it: {"a": it[0], "b": it[1]}, unjudged, {"a": 1.0, "b": 2.0})
    assert problem.excess((2, 2)) == pytest.approx(np.log(2))
    assert problem.excess((2, 8)) == pytest.approx(np.log(4))
    assert problem.excess((0, 1)) == pytest.approx(np.log(0.5))


def test_where_the_smallest_misses_a_bound_another_may_meet_it():
    ms = {(0, 0): 3.0, (1, 0): 2.0, (0, 1): 4.0, (1, 1): 1.0}
    problem = Problem((2, 2), lambda one: {"ms": ms[one]}, unjudged, {"ms": 1.5})
    assert problem.feasible() == (1, 1)
    with pytest.raises(InfeasibleTarget, match=r"ms <= 0\.5 \(least reachable: 1\)") as caught:
        Problem((2, 2), lambda one: {"ms": ms[one]}, unjudged, {"ms": 0.5}).feasible()
    assert caught.value.least == {"ms": 1.0}


def test_only_missed_bounds_are_named():
    costs = {"ms": 2.0, "params": 5.0}
    problem = Problem((1,), lambda one: costs, unjudged, {"ms": 1.0, "params": 6.0})
    message = r"^target out of reach: ms <= 1 \(least reachable: 2\)$"
    with pytest.raises(InfeasibleTarget, match=message):
        problem.feasible()


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 2**32), st.floats(0, 1))
def test_samples_meet_the_bounds_and_nearly_fill_them(sizes, seed, share):
    rng = np.random.default_rng(seed)
    prices = [np.cumsum(rng.uniform(0.1, 1, size)) for size in sizes]
    largest_step = max((np.diff(price).max() for price in prices if len(price) > 1), default=0)

    def cost(one):
        return {"ms": float(sum(p[i] for p, i in zip(prices, one, strict=True)))}

    least, most = cost((0,) * len(sizes))["ms"], cost(tuple(n - 1 for n in sizes))["ms"]
    bound = least + share * (most - least) + 1e-9
    problem = Problem(tuple(sizes), cost, unjudged, {"ms": bound})
    for _ in range(5):
        found = cost(problem.sample(rng))["ms"]
        assert bound - largest_step - 1e-6 <= found <= bound


def test_samples_are_of_many_shapes_and_canonical():
    def canonical(one):
        return (one[0], one[1] * (one[0] > 0), one[2])

    problem = Problem(
        (2, 3, 4), lambda one: {"ms": sum(canonical(one))}, unjudged, {"ms": 3}, canonical
    )
    rng = np.random.default_rng(0)
    samples = {problem.sample(rng) for _ in range(200)}
    every = itertools.product(range(2), range(3), range(4))
    filled = {canonical(one) for one in every if sum(canonical(one)) == 3}
    assert filled <= samples
    assert all(canonical(one) == one for one in samples)
