import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.search import (
    Action,
    Frontier,
    Importance,
    InfeasibleTarget,
    PathChoices,
    Problem,
    Strategy,
    slim,
    slim_greedily,
    slim_problems,
)


def slim_by_frontier(problems, **options):
    return slim_problems(problems, Frontier(), **options)


class InOrder(Strategy):
    """As little as a strategy can say: the first choice that can be lowered is, at any price."""

    def actions(self, problem, current):
        choice = next((j for j, option in enumerate(current) if option), None)
        if choice is None:
            return {}
        lowered = problem.changed(current, choice, current[choice] - 1)
        costs = problem.price(lowered)
        return {(choice,): Action(choice, lowered[choice], lowered, costs, problem.score(costs))}

    def gain(self, at, action):  # noqa: ARG002
        return 1.0

    def affordable(self, at, budget, spent):  # noqa: ARG002
        return budget - spent - 1


def additive(weights):
    """A problem where each option has its own cost and its own accuracy."""

    def cost(assignment):
        ms = 0.1 + sum(w[i][0] for w, i in zip(weights, assignment, strict=True))
        return {"latency_ms": ms, "params": 1e6 * ms}

    def accuracy(assignment):
        return sum(w[i][1] for w, i in zip(weights, assignment, strict=True))

    return cost, accuracy


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    weights = [
        [(0.1 * i * c, 1 - np.exp(-i * g)) for i in range(4)]
        for c, g in zip(rng.uniform(0.5, 2, 6), rng.uniform(0.2, 2, 6), strict=True)
    ]
    return [4] * 6, *additive(weights)


def slimmed(problem, bound, evaluations=10_000, **options):
    sizes, cost, accuracy = problem
    calls = []

    def counted(assignment):
        calls.append(assignment)
        return accuracy(assignment)

    rng = np.random.default_rng(0)
    result = slim(
        sizes, cost, counted, {"latency_ms": bound}, evaluations=evaluations, rng=rng, **options
    )
    assert len(calls) == len(set(calls)) <= evaluations
    assert result.evaluated == {call: accuracy(call) for call in calls}
    return result


def test_the_first_step_takes_the_least_drop_per_score_gain(problem):
    _, cost, accuracy = problem
    largest = (3,) * 6
    step = slimmed(problem, 1.0).trace[0]
    assert step.assignment == largest
    ratios = {}
    for choice in range(6):
        lowered = tuple(3 - (j == choice) for j in range(6))
        gain = 100 * (cost(lowered)["params"] / 3e6) ** -0.5 / cost(lowered)["latency_ms"]
        gain -= 100 * (cost(largest)["params"] / 3e6) ** -0.5 / cost(largest)["latency_ms"]
        ratios[choice] = (accuracy(largest) - accuracy(lowered)) / gain
    assert step.taken.choice == min(ratios, key=ratios.get)
    assert {action.choice for action in step.actions} == set(range(6))


def test_with_budget_to_spare_every_action_of_every_step_is_evaluated(problem):
    result = slimmed(problem, 0.8)
    assert all(action.accuracy is not None for step in result.trace for action in step.actions)
    for before, after in itertools.pairwise(result.trace):
        assert after.assignment == before.taken.assignment


def test_is_near_the_optimum_of_a_small_space(problem):
    sizes, cost, accuracy = problem
    for bound in (1.8, 1.2, 0.7):
        best = max(
            accuracy(a)
            for a in itertools.product(*(range(size) for size in sizes))
            if cost(a)["latency_ms"] <= bound
        )
        found = accuracy(slimmed(problem, bound).best)
        assert best - found <= 0.06 * best


@pytest.mark.parametrize("evaluations", [1, 2, 5, 12, 30])
def test_meets_the_target_with_any_budget(problem, evaluations):
    result = slimmed(problem, 0.9, evaluations)
    assert problem[1](result.best)["latency_ms"] <= 0.9
    assert result.best in result.evaluated


def test_more_evaluations_do_not_hurt_much(problem):
    accuracies = [problem[2](slimmed(problem, 0.9, n).best) for n in (2, 20, 60)]
    assert accuracies[-1] >= max(accuracies) - 1e-9
    assert accuracies[0] < accuracies[-1]


def test_every_bound_holds(problem):
    sizes, cost, accuracy = problem
    target = {"latency_ms": 1.5, "params": 0.9e6}
    result = slim(sizes, cost, accuracy, target, evaluations=60, rng=np.random.default_rng(0))
    assert cost(result.best)["params"] <= 0.9e6
    assert cost(result.best)["latency_ms"] <= 1.5


@pytest.mark.parametrize("method", [slim_by_frontier, slim_greedily])
def test_an_exact_race_leads_where_single_evaluations_lead(method):
    rng = np.random.default_rng(0)
    weights = [[(0.0, 0.0), tuple(rng.uniform(0.1, 1, 2))] for _ in range(5)]
    cost, accuracy = additive(weights)
    asked, raced = [], []

    def race(current, candidates, rank):
        found = [accuracy(one) for one in candidates]
        ranks = rank(accuracy(current) - np.array(found))
        raced.append((current, candidates, candidates[ranks.argmin()]))
        return found

    def run(count, race=None):
        counted = Problem(
            (2,) * 5, cost, lambda it: count.append(it) or accuracy(it), {"latency_ms": 1.2},
            race=race,
        )  # fmt: skip
        return method([counted], evaluations=200, rng=np.random.default_rng(0))

    result = run(asked, race=race)
    assert result == run([])
    judged = [one for _, candidates, _ in raced for one in candidates]
    assert sorted([*asked, *judged]) == sorted(result.evaluated)
    steps = {step.assignment: step.taken.assignment for step in result.trace}
    assert len(raced) > 1
    assert all(steps[current] == best for current, _, best in raced)


def test_each_that_races_counts_as_an_evaluation(problem):
    sizes, cost, accuracy = problem
    counts = {"race": 0, "alone": 0}

    def race(current, candidates, rank):
        counts["race"] += len(candidates)
        return [accuracy(one) for one in candidates]

    def alone(assignment):
        counts["alone"] += 1
        return accuracy(assignment)

    raced = Problem(tuple(sizes), cost, alone, {"latency_ms": 0.6}, race=race)
    result = slim_greedily([raced], evaluations=37, rng=np.random.default_rng(0))
    assert counts["race"] > counts["alone"] > 0
    assert sum(counts.values()) == len(result.evaluated) <= 37


def test_options_that_save_nothing_are_stepped_over():
    weights = [[(0.0, 0.0), (0.0, 0.5), (1.0, 1.0)], [(0.0, 0.0), (1.0, 0.4)]]
    cost, accuracy = additive(weights)
    result = slim(
        [3, 2], cost, accuracy, {"latency_ms": 1.2}, evaluations=50, rng=np.random.default_rng(0)
    )
    assert result.best == (2, 0)
    stuck = slim(
        [3, 1], *additive(weights[:1] + [[(0.0, 0.0)]]), {"latency_ms": 0.2}, evaluations=50,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    assert stuck.best == (1, 0)


STAIRCASE_MS = (0.6, 0.6, 1.0, 1.0)
"""Of widths 8, 16, 24 and 32 on a device that computes 16 channels at once."""


def staircase(assignment):
    width, other = assignment
    return {
        "latency_ms": STAIRCASE_MS[width] + 0.2 * other,
        "params": 1e6 * (width + 1) + 1e5 * other,
    }


@pytest.mark.parametrize("bound", ["latency_ms", "params"])
def test_actions_that_save_no_time_are_not_taken_where_time_is_the_bound(bound):
    target = {"latency_ms": {"latency_ms": 1.05}, "params": {"params": 3.1e6}}[bound]
    result = slim(
        [4, 2], staircase, sum, target, evaluations=50, rng=np.random.default_rng(0)
    )  # fmt: skip
    first = {(it.choice, it.option) for it in result.trace[0].actions}
    # from 32 channels the next width that saves time is 16; 24 saves parameters
    assert first == ({(0, 1), (1, 0)} if bound == "latency_ms" else {(0, 2), (1, 0)})


def test_bounds_that_are_met_need_not_be_lowered():
    target = {"latency_ms": 5.0, "params": 2.1e6}
    result = slim([4, 2], staircase, sum, target, evaluations=50, rng=np.random.default_rng(0))
    assert (0, 2) in {(it.choice, it.option) for it in result.trace[0].actions}


def test_where_no_action_alone_saves_time_the_score_leads():
    def cost(assignment):  # time is saved only where both are lowered
        return {
            "latency_ms": 1.0 if any(assignment) else 0.5,
            "params": 1e6 * (1 + sum(assignment)),
        }

    result = slim(
        [2, 2], cost, sum, {"latency_ms": 0.7}, evaluations=9, rng=np.random.default_rng(0)
    )
    assert result.best == (0, 0)


def test_starts_where_it_is_told_and_reuses_what_is_known(problem):
    first = slimmed(problem, 1.2)
    again = slim_by_frontier(
        [Problem(tuple(problem[0]), *problem[1:], {"latency_ms": 1.0})], evaluations=100,
        rng=np.random.default_rng(0), start=first.best, known=first.evaluated,
    )  # fmt: skip
    assert again.trace[0].assignment == first.best
    assert first.evaluated.items() <= again.evaluated.items()


@pytest.mark.parametrize("bound", [1.8, 1.2, 0.7])
def test_finds_the_very_best_where_evaluations_cover_the_space(problem, bound):
    sizes, cost, accuracy = problem
    every = itertools.product(*(range(size) for size in sizes))
    best = max((one for one in every if cost(one)["latency_ms"] <= bound), key=accuracy)
    assert slimmed(problem, bound).best == best


def test_more_known_is_no_worse(problem):
    accuracies, known = [], {}
    for evaluations in (8, 8, 8, 8, 8):
        sizes, cost, accuracy = problem
        bounded = Problem(tuple(sizes), cost, accuracy, {"latency_ms": 0.9})
        result = slim_by_frontier(
            [bounded], evaluations=evaluations, rng=np.random.default_rng(0), known=known
        )
        assert known.items() <= result.evaluated.items()
        assert len(result.evaluated) <= len(known) + evaluations
        known = result.evaluated
        accuracies.append(accuracy(result.best))
    assert accuracies == sorted(accuracies)
    assert accuracies[0] < accuracies[-1]


def test_one_network_of_many_assignments_is_evaluated_once():
    def canonical(one):  # without its block, an expansion makes no difference
        return tuple(i * one[j - j % 2] for j, i in enumerate(one))

    def cost(one):
        assert canonical(one) == one, "only canonical assignments are priced"
        return {"latency_ms": 1.0 + sum(one), "params": 1e6 * (1 + sum(one))}

    calls = []
    problem = Problem(
        (2, 3) * 4, cost, lambda one: calls.append(one) or sum(map(np.sqrt, one)),
        {"latency_ms": 7.0}, canonical,
    )  # fmt: skip
    result = slim_by_frontier(
        [problem], evaluations=40, rng=np.random.default_rng(0), known={(0, 2) * 4: 0.0}
    )
    assert all(canonical(one) == one for one in result.evaluated)
    assert (0,) * 8 in result.evaluated
    assert (0,) * 8 not in calls
    assert all(canonical(step.taken.assignment) == step.taken.assignment for step in result.trace)


def test_nothing_is_evaluated_for_a_target_out_of_reach(problem):
    def refuse(assignment):
        raise AssertionError(assignment)

    sizes, cost, _ = problem
    rng = np.random.default_rng(0)
    with pytest.raises(InfeasibleTarget):
        slim(sizes, cost, refuse, {"latency_ms": 0.05}, evaluations=9, rng=rng)


def test_same_seed_same_result(problem):
    assert slimmed(problem, 0.9, 25) == slimmed(problem, 0.9, 25)


def test_a_target_out_of_reach_says_the_least(problem):
    message = r"^target out of reach: latency_ms <= 0\.05 \(least reachable: 0\.1\)$"
    with pytest.raises(InfeasibleTarget, match=message) as caught:
        slimmed(problem, 0.05)
    assert caught.value.least["latency_ms"] == pytest.approx(0.1)


def test_wrong_arguments_are_refused(problem):
    sizes, cost, accuracy = problem
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="evaluations must be at least 1, got 0"):
        slim(sizes, cost, accuracy, {"latency_ms": 1.0}, evaluations=0, rng=rng)
    with pytest.raises(ValueError, match="no cost is named 'ms'; there are latency_ms, params"):
        slim(sizes, cost, accuracy, {"ms": 1.0}, evaluations=9, rng=rng)


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=6),
    st.integers(0, 2**32),
    st.integers(1, 40),
    st.floats(0.01, 1.0),
)
def test_any_problem_ends_within_its_bounds(sizes, seed, evaluations, share):
    rng = np.random.default_rng(seed)
    weights = [sorted(zip(rng.uniform(0, 1, n), rng.normal(0, 1, n), strict=True)) for n in sizes]
    cost, accuracy = additive(weights)
    least = cost((0,) * len(sizes))["latency_ms"]
    most = cost(tuple(n - 1 for n in sizes))["latency_ms"]
    bound = least + share * (most - least) + 1e-9
    calls = []
    result = slim(
        sizes, cost, lambda a: calls.append(a) or accuracy(a), {"latency_ms": bound},
        evaluations=evaluations, rng=rng,
    )  # fmt: skip
    assert cost(result.best)["latency_ms"] <= bound
    assert len(calls) <= evaluations


def test_of_equally_accurate_networks_the_largest_that_fits_is_best():
    weights = [[(0.0, 0.0), (0.3, 0.0), (0.5, 0.0), (1.0, 0.0)]]
    cost, accuracy = additive(weights)
    result = slim(
        [4], cost, accuracy, {"latency_ms": 0.7}, evaluations=50, rng=np.random.default_rng(0)
    )
    assert result.best == (2,)
    known = {(0,): 0.0, (1,): 0.0, (2,): 0.0}
    again = slim_by_frontier(
        [Problem((4,), cost, accuracy, {"latency_ms": 0.7})], evaluations=50,
        rng=np.random.default_rng(0), start=(1,), known=known,
    )  # fmt: skip
    assert again.best == (2,)


def test_a_strategy_of_ones_own_leads_a_walk(problem):
    sizes, cost, accuracy = problem
    bounded = Problem(tuple(sizes), cost, accuracy, {"latency_ms": 0.9})
    found = slim_problems([bounded], InOrder(), evaluations=99, rng=np.random.default_rng(0))
    expected = (3,) * 6
    for step in found.trace:
        assert step.assignment == expected
        choice = next(j for j, option in enumerate(expected) if option)
        expected = (*expected[:choice], expected[choice] - 1, *expected[choice + 1 :])
        assert step.taken.assignment == expected
    assert found.best == expected
    assert cost(expected)["latency_ms"] <= 0.9


def test_a_walk_without_actions_ends_at_a_network_that_fits():
    def cost(assignment):  # no single change of the largest saves anything
        return {"latency_ms": 1.0 if any(assignment) else 0.5, "params": 1e6}

    bounded = Problem((2, 2), cost, sum, {"latency_ms": 0.7})
    for strategy in (Frontier(walk_share=1.0), Importance(PathChoices())):
        found = slim_problems([bounded], strategy, evaluations=9, rng=np.random.default_rng(0))
        assert found.best == (0, 0)


def test_what_a_search_finds_does_not_depend_on_searches_before_it():
    rng = np.random.default_rng(0)
    cost, accuracy = additive(
        [[(0.0, 0.0), *zip(*np.sort(rng.uniform(0.1, 1, (2, 3))), strict=True)] for _ in range(9)]
    )
    problem = Problem((4,) * 9, cost, accuracy, {"latency_ms": 4.0})  # too many to list
    first = slim_by_frontier([problem], evaluations=20, rng=np.random.default_rng(0))
    tighter = problem.within({"latency_ms": 2.0})
    slim_by_frontier([tighter, problem], evaluations=20, rng=np.random.default_rng(1))
    assert slim_by_frontier([problem], evaluations=20, rng=np.random.default_rng(0)) == first
    alone = slim([4] * 9, cost, accuracy, problem.target, evaluations=20,
                 rng=np.random.default_rng(0))  # fmt: skip
    assert alone == first


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_an_accuracy_that_is_no_number_is_refused(number):
    cost, _ = additive([[(0.0, 0.0), (1.0, 1.0)]] * 3)
    target, message = {"latency_ms": 1.5}, r"the accuracy of \(.*\) must be finite, got (nan|inf)"
    rng = np.random.default_rng(0)
    for accuracy in (lambda one: number, lambda one: number if sum(one) < 3 else 1.0):
        with pytest.raises(ValueError, match=message):
            slim((2, 2, 2), cost, accuracy, target, evaluations=9, rng=rng)

    def race(current, candidates, rank):
        return [number] * len(candidates)

    problem = Problem((2, 2, 2), cost, lambda _: 1.0, target, race=race)
    with pytest.raises(ValueError, match=message):
        slim_by_frontier([problem], evaluations=40, rng=rng)


def test_a_cost_that_is_no_number_is_refused():
    def cost(assignment):
        return {"latency_ms": np.nan, "params": 1e6}

    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"slim: latency_ms of \(0, 0\) is no number, got nan"):
        slim((2, 2), cost, lambda _: 1.0, {"latency_ms": 1.5}, evaluations=9, rng=rng)
