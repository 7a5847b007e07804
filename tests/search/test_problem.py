import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.search import (
    InfeasibleTarget,
    Problem,
    hypervolume,
    mobile_efficiency_score,
    scale_uniformly,
)
from nas.search.problem import unjudged


def test_each_assignment_is_priced_once():
    asked = []
    problem = Problem(
        (2, 2), lambda one: asked.append(one) or {"ms": sum(one)}, unjudged, {"ms": 1.0}
    )
    assert problem.fits((1, 0))
    assert not problem.fits((1, 1))
    assert problem.fits((1, 0))
    assert sorted(asked) == sorted(set(asked))


def test_problems_within_other_bounds_share_their_prices():
    asked = []
    problem = Problem(
        (3, 3), lambda one: asked.append(one) or {"ms": 1.0 + sum(one)}, unjudged, {"ms": 4.0}
    )
    tighter = problem.within({"ms": 2.0})
    assert problem.fits((2, 1))
    assert not tighter.fits((2, 1))
    assert tighter.target == {"ms": 2.0}
    assert len(asked) == len(set(asked))
    assert (2, 1) in tighter.priced()
    assert problem.within({"ms": 1.0}).priced() == [(0, 0)]


def test_a_problem_that_is_only_priced_has_no_accuracy():
    problem = Problem((2,), lambda one: {"ms": sum(one)}, unjudged, {"ms": 1.0})
    with pytest.raises(ValueError, match=r"it has no accuracy to judge \(1,\) by"):
        problem.accuracy((1,))


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


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_a_grown_assignment_leaves_no_room_and_loses_nothing(seed, share):
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.1, 1, 5)
    sizes = tuple(rng.integers(1, 5, 5).tolist())
    start = tuple(int(rng.integers(size)) for size in sizes)
    ceiling = tuple(int(rng.integers(one, size)) for one, size in zip(start, sizes, strict=True))

    def ms(assignment):
        return 1 + float(weights @ assignment)

    most = ms(start) + share * (ms(ceiling) - ms(start)) + 1e-9
    problem = Problem(sizes, lambda it: {"ms": ms(it)}, unjudged, {"ms": most})
    found = problem.grow(start, ceiling, rng)
    assert all(low <= one <= high for low, one, high in zip(start, found, ceiling, strict=True))
    assert problem.fits(found)
    for choice, (one, high) in enumerate(zip(found, ceiling, strict=True)):
        assert one == high or not problem.fits(problem.changed(found, choice, one + 1))


def test_uniform_scaling_takes_the_largest_share_that_fits():
    problem = Problem((4,) * 6, lambda one: {"ms": 0.1 + sum(one)}, unjudged, {"ms": 12.2})

    def scale(share):
        return (round(3 * share),) * 6

    assert scale_uniformly(scale, problem) == (2,) * 6
    with pytest.raises(InfeasibleTarget, match=r"ms <= 0\.01 \(least reachable: 0\.1\)"):
        scale_uniformly(scale, problem.within({"ms": 0.01}))


PUBLISHED = {  # parameters, iPhone 12 ms, score: EfficientFormer V2, table 1
    "S0": (3.5e6, 0.9, 102.9),
    "S1": (6.1e6, 1.1, 63.8),
    "S2": (12.6e6, 1.6, 30.5),
    "L": (26.1e6, 2.7, 12.6),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_scores(name):
    params, latency_ms, score = PUBLISHED[name]
    found = mobile_efficiency_score({"params": params, "latency_ms": latency_ms})
    assert found == pytest.approx(score, abs=0.05)


def test_units_only_rescale():
    fast, slow = {"params": 1e6, "latency_ms": 1.0}, {"params": 2e6, "latency_ms": 3.0}
    other = {"params": 5.0, "latency_ms": 7.0}
    assert mobile_efficiency_score(fast) / mobile_efficiency_score(slow) == pytest.approx(
        mobile_efficiency_score(fast, units=other) / mobile_efficiency_score(slow, units=other)
    )


def test_exponents_choose_what_counts():
    measures = {"params": 4.0, "latency_ms": 9.0, "energy": 100.0}
    found = mobile_efficiency_score(
        measures, units={"params": 1, "energy": 1}, exponents={"params": 0.5, "energy": 0.5}
    )
    assert found == pytest.approx(100 / 2 / 10)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_measures_are_refused(value):
    with pytest.raises(ValueError, match="latency_ms must be positive"):
        mobile_efficiency_score({"params": 1.0, "latency_ms": value})


def test_missing_measures_and_units_are_named():
    with pytest.raises(ValueError, match="params must be positive, got None"):
        mobile_efficiency_score({"latency_ms": 1.0})
    with pytest.raises(ValueError, match="joule has no unit"):
        mobile_efficiency_score({"joule": 1.0}, exponents={"joule": 1.0})


def test_a_single_point_covers_a_rectangle():
    assert hypervolume([(1.0, 90.0)], (3.0, 80.0)) == pytest.approx(20.0)


def test_points_no_better_than_the_reference_cover_nothing():
    assert hypervolume([(3.0, 90.0), (1.0, 80.0), (4.0, 95.0)], (3.0, 80.0)) == 0.0
    assert hypervolume([], (3.0, 80.0)) == 0.0


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=8))
def test_equals_a_count_of_covered_cells(points):
    covered = np.zeros((10, 10), bool)  # cells of [0, 10] x [0, 10]; the reference is (10, 0)
    for latency, accuracy in points:
        covered[latency:, :accuracy] = True
    inside = [(float(latency), float(min(accuracy, 10))) for latency, accuracy in points]
    assert hypervolume(inside, (10.0, 0.0)) == covered.sum()
