import subprocess
import sys

import numpy as np
import pytest

from nas.search import InfeasibleTarget, evolve, search_randomly, slim, slim_greedily

SIZES = (3, 4, 2, 3, 3, 2)
WEIGHTS = np.random.default_rng(0).uniform(0.2, 1, (2, len(SIZES)))
SEARCHES = [slim, slim_greedily, search_randomly, evolve]


def cost(assignment):
    ms = 0.5 + float(WEIGHTS[0] @ assignment)
    return {"latency_ms": ms, "params": 1e6 * ms}


def accuracy(assignment):
    return float(WEIGHTS[1] @ np.sqrt(assignment))


def searched(search, bound, evaluations=30, seed=0):
    calls = []
    result = search(
        SIZES, cost, lambda one: calls.append(one) or accuracy(one), {"latency_ms": bound},
        evaluations=evaluations, rng=np.random.default_rng(seed),
    )  # fmt: skip
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
        [accuracy(searched(evolve, 3.0, evaluations, seed).best) for seed in range(5)]
        for evaluations in (20, 100)
    ]
    assert np.mean(bests[1]) > np.mean(bests[0])


def test_optuna_is_loaded_only_by_evolution():
    code = "import nas.search, sys; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
