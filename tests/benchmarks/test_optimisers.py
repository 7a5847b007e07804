"""What slimming is compared with plays by the same rules."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from nas.search import Problem

MODULE = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "optimisers.py"))
SIZES = (3, 4, 2, 3, 3, 2)
WEIGHTS = np.random.default_rng(0).uniform(0.2, 1, (2, len(SIZES)))
QUICK = ("local", "GP, NEI", "GP, TS", "Optuna TPE")
every = pytest.mark.parametrize(
    "name",
    [
        pytest.param(it, marks=() if it in QUICK else pytest.mark.slow)
        for it in MODULE["OPTIMISERS"]
    ],
)


def cost(assignment):
    return {"latency_ms": 0.5 + float(WEIGHTS[0] @ assignment)}


def accuracy(assignment):
    return float(WEIGHTS[1] @ np.sqrt(assignment))


def searched(name, bound, evaluations):
    calls = []
    problem = Problem(
        SIZES, cost, lambda one: calls.append(one) or accuracy(one), {"latency_ms": bound}
    )
    result = MODULE["OPTIMISERS"][name](
        [problem], evaluations=evaluations, rng=np.random.default_rng(0)
    )
    assert list(result.evaluated) == calls
    return result


@every
def test_only_what_fits_is_evaluated_and_nothing_twice(name):
    result = searched(name, 3.0, 16)
    assert len(result.evaluated) == 16
    assert all(cost(one)["latency_ms"] <= 3 for one in result.evaluated)
    assert result.best in result.evaluated


@every
def test_a_space_that_is_used_up_ends_the_search(name):
    result = searched(name, 1.5, 500)
    fits = [one for one in np.ndindex(SIZES) if cost(one)["latency_ms"] <= 1.5]
    assert 2 < len(fits) < 50
    assert len(result.evaluated) <= len(fits)
    assert accuracy(result.best) == pytest.approx(max(map(accuracy, fits)), rel=0.03)


@every
def test_the_same_seed_gives_the_same(name):
    assert searched(name, 3.0, 14) == searched(name, 3.0, 14)


def test_a_network_that_is_high_by_luck_is_not_what_a_process_delivers():
    rng = np.random.default_rng(0)
    problem = Problem(SIZES, cost, accuracy, {"latency_ms": 9.0})
    seen = list(dict.fromkeys(tuple(int(rng.integers(n)) for n in SIZES) for _ in range(60)))
    fair = sorted(seen, key=accuracy)[-12]
    evaluated = {one: accuracy(one) + 0.1 * rng.normal() for one in seen}
    evaluated[fair] = max(evaluated.values()) + 0.01
    incumbent, thompson = MODULE["incumbent"], MODULE["thompson"]
    assert accuracy(incumbent(thompson, problem, evaluated)) > accuracy(fair)
    assert incumbent(None, problem, evaluated) == fair
