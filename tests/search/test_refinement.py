import itertools

import numpy as np
import pytest

from nas.search.problem import Problem, unjudged
from nas.search.refinement import LOOKS, MOVES, STARTS, Pool, refine


def concave(choices, seed):
    """A problem of three options each, with diminishing returns; its price and its accuracy."""
    rng = np.random.default_rng(seed)
    prices = np.cumsum(rng.uniform(0.2, 1, (choices, 2)), axis=1)
    gains = rng.uniform(0.2, 1, choices)

    def cost(one):
        return {"ms": 1 + sum(row[i - 1] for row, i in zip(prices, one, strict=True) if i)}

    def accuracy(one):
        return 90 - 10 * np.exp(-sum(g * i**0.7 for g, i in zip(gains, one, strict=True)) / 2)

    most = cost((2,) * choices)["ms"]
    return Problem((3,) * choices, cost, accuracy, {"ms": most / 2}), accuracy


def judged(problem, accuracy):
    return Problem(problem.sizes, problem.cost, accuracy, problem.target)


def counted(accuracy):
    calls = []
    return calls, lambda one: calls.append(one) or accuracy(one)


@pytest.mark.parametrize("seed", range(4))
def test_finds_the_best_of_a_space_of_hundreds_with_forty_evaluations(seed):
    problem, accuracy = concave(6, seed)
    (best,), evaluated = refine(
        [problem], evaluations=40, rng=np.random.default_rng(seed), known={}
    )
    every = [one for one in itertools.product(range(3), repeat=6) if problem.fits(one)]
    regret = max(map(accuracy, every)) - accuracy(best)
    spread = np.std([accuracy(one) for one in every])
    assert len(evaluated) == 40 < len(every) / 4
    assert regret < 0.05 * spread


def test_evaluations_above_what_there_is_find_the_best_exactly():
    problem, accuracy = concave(5, 0)
    rng = np.random.default_rng(0)
    rough = {one: accuracy(one) + rng.normal() for one in itertools.product(range(3), repeat=5)}
    calls, counting = counted(rough.__getitem__)
    (best,), evaluated = refine([judged(problem, counting)], evaluations=500, rng=rng, known={})
    every = [one for one in rough if problem.fits(one)]
    assert sorted(calls) == sorted(every) == sorted(evaluated)
    assert best == max(every, key=rough.__getitem__)


def test_a_large_space_is_refined_within_its_bounds_and_its_budget():
    problem, accuracy = concave(16, 0)
    calls, counting = counted(accuracy)
    (best,), evaluated = refine(
        [judged(problem, counting)], evaluations=50, rng=np.random.default_rng(0), known={}
    )
    assert len(calls) == len(set(calls)) == len(evaluated) == 50
    assert all(problem.fits(one) for one in calls)
    random = [accuracy(problem.sample(np.random.default_rng(seed))) for seed in range(300)]
    assert accuracy(best) > max(random)


def test_what_is_known_is_not_asked_again_and_comes_back():
    problem, accuracy = concave(6, 0)
    known = {(2,) * 6: 0.0, (0,) * 6: accuracy((0,) * 6)}  # of these the first is not feasible
    calls, counting = counted(accuracy)
    (best,), evaluated = refine(
        [judged(problem, counting)], evaluations=20, rng=np.random.default_rng(0), known=known
    )
    assert not known.keys() & set(calls)
    assert list(evaluated)[:2] == list(known)
    assert problem.fits(best)


def test_a_lucky_observation_is_not_taken_at_its_word():
    problem, accuracy = concave(6, 1)
    rng = np.random.default_rng(0)
    every = [one for one in itertools.product(range(3), repeat=6) if problem.fits(one)]
    seen = [every[i] for i in rng.permutation(len(every))[:60]]
    poor, *_, rich = sorted(seen, key=accuracy)
    known = {one: accuracy(one) for one in seen}
    known[poor] = accuracy(rich) + 0.01
    (best,), _ = refine([problem], evaluations=0, rng=rng, known=known)
    assert best == rich


def test_what_is_known_suffices_where_nothing_may_be_evaluated():
    problem, accuracy = concave(6, 0)
    known = {one: accuracy(one) for one in [(0,) * 6, (1, 0, 0, 0, 0, 0)]}
    (best,), evaluated = refine([problem], evaluations=0, rng=np.random.default_rng(0), known=known)
    assert best in evaluated == known
    with pytest.raises(ValueError, match="refine: evaluations must be at least 1, got 0"):
        refine([problem], evaluations=0, rng=np.random.default_rng(0), known={})


def test_problems_of_several_bounds_share_what_is_evaluated():
    problem, accuracy = concave(8, 0)
    most = problem.target["ms"]
    calls, counting = counted(accuracy)
    problems = [
        judged(problem, counting).within({"ms": share * most}) for share in (1.6, 1.3, 1, 0.8)
    ]
    bests, evaluated = refine(problems, evaluations=24, rng=np.random.default_rng(0), known={})
    assert len(calls) == len(set(calls)) == len(evaluated) == 24
    assert all(one.fits(best) for one, best in zip(problems, bests, strict=True))
    alone = [
        refine([judged(one, accuracy)], evaluations=6, rng=np.random.default_rng(0), known={})[0][0]
        for one in problems
    ]
    assert np.mean([*map(accuracy, bests)]) > np.mean([*map(accuracy, alone)])


def test_every_problem_starts_from_a_network_that_is_near_its_own_bounds():
    problem, accuracy = concave(8, 0)
    most = problem.target["ms"]
    calls, counting = counted(accuracy)
    problems = [
        judged(problem, counting).within({"ms": share * most}) for share in (1.6, 1.3, 1, 0.8)
    ]
    cheap = {(0,) * 8: 100.0, (1, *[0] * 7): 99.0}  # the more they cost the worse, so far
    refine(problems, evaluations=4, rng=np.random.default_rng(0), known=cheap)
    for index, tighter in enumerate(problems[1:]):
        assert problems[index].fits(calls[index])
        assert not tighter.fits(calls[index])


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
