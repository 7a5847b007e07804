import subprocess
import sys

import numpy as np
import pytest

from nas.search import (
    Frontier,
    InfeasibleTarget,
    Problem,
    evolve,
    hypervolume,
    search_randomly,
    slim_greedily,
    slim_problems,
)


def slim_by_frontier(problems, **options):
    return slim_problems(problems, Frontier(), **options)


SIZES = (3, 4, 2, 3, 3, 2)
WEIGHTS = np.random.default_rng(0).uniform(0.2, 1, (2, len(SIZES)))
SEARCHES = [slim_by_frontier, slim_greedily, search_randomly, evolve]


def cost(assignment):
    ms = 0.5 + float(WEIGHTS[0] @ assignment)
    return {"latency_ms": ms, "params": 1e6 * ms}


def accuracy(assignment):
    return float(WEIGHTS[1] @ np.sqrt(assignment))


def searched(search, bound, evaluations=30, seed=0):
    calls = []
    problem = Problem(
        SIZES, cost, lambda one: calls.append(one) or accuracy(one), {"latency_ms": bound}
    )
    result = search([problem], evaluations=evaluations, rng=np.random.default_rng(seed))
    assert result.evaluated == {one: accuracy(one) for one in calls}
    assert len(calls) == len(set(calls)) <= evaluations
    return result


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("bound", [0.6, 2.0, 9.0])
@pytest.mark.parametrize("evaluations", [1, 30])
def test_every_search_meets_the_bound_within_its_budget(search, bound, evaluations):
    best = searched(search, bound, evaluations).best
    assert cost(best)["latency_ms"] <= bound


@pytest.mark.parametrize("search", SEARCHES)
def test_every_search_gives_the_same_for_the_same_seed(search):
    assert searched(search, 3.0) == searched(search, 3.0)


@pytest.mark.parametrize("search", SEARCHES)
def test_every_search_says_what_is_out_of_reach(search):
    with pytest.raises(InfeasibleTarget, match=r"latency_ms <= 0\.4 \(least reachable: 0\.5\)"):
        searched(search, 0.4)


@pytest.mark.parametrize("search", [search_randomly, evolve])
def test_baselines_evaluate_only_what_fits_and_spend_their_budget(search):
    result = searched(search, 3.0)
    assert len(result.evaluated) == 30
    assert all(cost(one)["latency_ms"] <= 3.0 for one in result.evaluated)
    assert accuracy(result.best) == max(result.evaluated.values())


def test_evolution_improves_on_its_first_generation():
    bests = [
        [accuracy(searched(evolve, 3.0, evaluations, seed).best) for seed in range(3)]
        for evaluations in (20, 60)
    ]
    assert np.mean(bests[1]) > np.mean(bests[0])


def test_optuna_is_loaded_only_by_evolution():
    code = "import nas.search, sys; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def within(bounds, judge=accuracy):
    problem = Problem(SIZES, cost, judge, {"latency_ms": bounds[0]})
    return [problem.within({"latency_ms": bound}) for bound in bounds]


@pytest.mark.parametrize("search", SEARCHES)
def test_a_family_meets_each_of_its_bounds_within_one_budget(search):
    calls = []
    bounds = [9.0, 5.0, 3.0, 1.0]
    problems = within(bounds, lambda one: calls.append(one) or accuracy(one))
    found = search(problems, evaluations=40, rng=np.random.default_rng(0))
    assert len(calls) == len(set(calls)) == len(found.evaluated) <= 40
    assert len(calls) == 40 or search is slim_greedily  # whose walks may end before
    for bound, best in zip(bounds, found.bests, strict=True):
        assert cost(best)["latency_ms"] <= bound
        if search is not slim_by_frontier:  # which trusts its model as much as one evaluation
            fits = [it for one, it in found.evaluated.items() if cost(one)["latency_ms"] <= bound]
            assert accuracy(best) == max(fits, default=accuracy(best))


@pytest.mark.slow
def test_a_family_covers_more_of_the_frontier_than_one_target():
    areas = [
        np.mean(
            [
                hypervolume(
                    [
                        (cost(one)["latency_ms"], hits)
                        for one, hits in slim_by_frontier(
                            within(bounds), evaluations=30, rng=np.random.default_rng(seed)
                        ).evaluated.items()
                    ],
                    (9.0, 0.0),
                )
                for seed in range(3)
            ]
        )
        for bounds in ((9.0,), (9.0, 5.0, 3.0, 1.5))
    ]  # fmt: skip
    assert areas[1] > areas[0]


@pytest.mark.parametrize("search", SEARCHES)
def test_a_family_with_a_bound_out_of_reach_says_so(search):
    with pytest.raises(InfeasibleTarget, match=r"latency_ms <= 0\.4 \(least reachable: 0\.5\)"):
        search(within([3.0, 0.4]), evaluations=9, rng=np.random.default_rng(0))
