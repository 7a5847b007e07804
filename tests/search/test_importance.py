import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.search import (
    Importance,
    InfeasibleTarget,
    PathChoice,
    PathChoices,
    Problem,
    slim_problems,
)

# Two stages: the width of each, then of each two slots, which may be nothing, a cheap kind, or, in
# the second stage, an expensive one.
SIZES = (3, 2, 2, 3, 3, 3)
WIDTHS = {0: 0, 1: 3}
PATHS = (
    PathChoice(1, 0, (0.5, 0.5), may_go=True),
    PathChoice(2, 0, (0.2, 0.8), may_go=True),
    PathChoice(4, 1, (0.1, 0.3, 0.6), may_go=True),
    PathChoice(5, 1, (0.25, 0.5, 0.25), may_go=True),
)
MS = ((0.3, 0.4, 0.5), (0, 0.2), (0, 0.3), (0.1, 0.3, 0.6), (0, 0.2, 0.5), (0, 0.1, 0.6))
HITS = ((0, 0.09, 0.1), (0, 0.03), (0, 0.2), (0, 0.1, 0.11), (0, 0.15, 0.17), (0, 0.08, 0.1))
LARGEST = (2, 1, 1, 2, 2, 2)


def cost(assignment):
    ms = sum(options[index] for options, index in zip(MS, assignment, strict=True))
    return {"latency_ms": ms, "params": 1e6 * (1 + sum(assignment))}


def accuracy(assignment):
    return 0.2 + sum(options[index] for options, index in zip(HITS, assignment, strict=True))


def searched(sizes, cost, accuracy, target, *, paths, widths, evaluations, race=None, **options):
    problem = Problem(sizes, cost, accuracy, target, race=race)
    strategy = Importance(PathChoices(paths, widths))
    rng = np.random.default_rng(0)
    return slim_problems([problem], strategy, evaluations=evaluations, rng=rng, **options)


def slimmed(bound, evaluations=1000, **options):
    calls = []

    def counted(assignment):
        calls.append(assignment)
        return accuracy(assignment)

    result = searched(
        SIZES, cost, counted, {"latency_ms": bound}, evaluations=evaluations, paths=PATHS,
        widths=WIDTHS, **options,
    )  # fmt: skip
    assert len(calls) == len(set(calls)) <= evaluations
    return result


def test_importance_is_the_odds_of_any_module_against_none():
    assert [path.importance for path in PATHS] == pytest.approx([1, 4, 9, 3])


def three_actions(assignment):
    """What the paper's three rules propose, written down slot by slot for the space above."""
    proposed = []
    for slot in (1, 5, 2, 4):  # least important first
        if assignment[slot]:
            proposed.append((*assignment[:slot], 0, *assignment[slot + 1 :]))
            break
    for slot in (4, 5):  # in the order images pass them
        if assignment[slot] == 2:
            proposed.append((*assignment[:slot], 1, *assignment[slot + 1 :]))
            break
    first = (1 if assignment[1] else 0) + (4 if assignment[2] else 0)
    second = (9 if assignment[4] else 0) + (3 if assignment[5] else 0)
    for stage in sorted((0, 3), key=lambda it: {0: first, 3: second}[it]):
        if assignment[stage]:
            lowered = assignment[stage] - 1
            proposed.append((*assignment[:stage], lowered, *assignment[stage + 1 :]))
            break
    return proposed


def test_each_step_takes_the_least_drop_per_millisecond_of_three_actions():
    result = slimmed(0.8)
    assert len(result.trace) > 5
    at = LARGEST
    for step in result.trace:
        assert step.assignment == at
        proposed = three_actions(at)
        assert {action.assignment for action in step.actions} == set(proposed)
        assert all(action.accuracy == accuracy(action.assignment) for action in step.actions)
        ratios = [
            (accuracy(at) - accuracy(it)) / (cost(at)["latency_ms"] - cost(it)["latency_ms"])
            for it in proposed
        ]
        at = proposed[ratios.index(min(ratios))]
        assert step.taken.assignment == at
    assert cost(at)["latency_ms"] <= 0.8
    assert result.best == at


def test_attention_stays_a_tail():
    for step in slimmed(0.8).trace:
        expensive = [step.assignment[slot] == 2 for slot in (4, 5) if step.assignment[slot]]
        steps_down = [it.choice for it in step.actions if it.option == 1 and it.choice in (4, 5)]
        if any(expensive):
            assert steps_down == [4 if step.assignment[4] == 2 else 5]


def test_slots_of_one_kind_and_of_none_need_no_third_rule():
    paths = [PathChoice(0, 0, (0.4, 0.6), may_go=True), PathChoice(1, 0, (0.6, 0.4), may_go=True)]
    result = searched(
        (2, 2), lambda a: {"latency_ms": 1 + sum(a), "params": 1e6}, sum, {"latency_ms": 2},
        evaluations=9, paths=paths, widths={},
    )  # fmt: skip
    assert [(it.choice, it.option) for it in result.trace[0].actions] == [(1, 0)]
    assert result.best == (1, 0)


def test_a_slot_that_may_not_go_steps_down_to_its_cheapest_kind():
    paths = [PathChoice(0, 0, (0.3, 0.3, 0.4), may_go=False)]
    result = searched(
        (3,), lambda a: {"latency_ms": 1 + sum(a), "params": 1e6}, sum, {"latency_ms": 1},
        evaluations=9, paths=paths, widths={},
    )  # fmt: skip
    assert [step.taken.option for step in result.trace] == [1, 0]


def test_where_the_three_rules_end_any_choice_may_be_lowered():
    result = searched(
        (2, 3, 2), lambda a: {"latency_ms": 1 + sum(a), "params": 1e6}, lambda a: a[2],
        {"latency_ms": 2}, evaluations=99, paths=[PathChoice(0, 0, (0.5, 0.5), may_go=True)],
        widths={},
    )  # fmt: skip
    taken = [(step.taken.choice, step.taken.option) for step in result.trace]
    assert taken == [(0, 0), (1, 1), (1, 0)]
    assert {it.choice for it in result.trace[1].actions} == {1, 2}


def test_options_that_save_no_time_are_stepped_over():
    ms = (0.6, 0.6, 1.0, 1.0)  # of four widths, on a device that computes 16 channels at once
    result = searched(
        (4,), lambda a: {"latency_ms": ms[a[0]], "params": 1e6 * (1 + a[0])}, sum,
        {"latency_ms": 0.7}, evaluations=9, paths=[], widths={0: 0},
    )  # fmt: skip
    assert result.best == (1,)


def test_a_bound_on_parameters_counts_once_latency_is_met():
    result = searched(
        SIZES, cost, accuracy, {"latency_ms": 2.0, "params": 5.1e6}, evaluations=99, paths=PATHS,
        widths=WIDTHS,
    )  # fmt: skip
    assert cost(result.best)["params"] <= 5.1e6
    before, *_, last = result.trace
    assert before.costs["latency_ms"] > 2.0 > last.costs["latency_ms"]


def test_with_nothing_known_the_least_important_slots_go_first():
    result = slimmed(1.2, evaluations=1)
    assert [step.taken.choice for step in result.trace] == [1, 5, 2, 4][: len(result.trace)]
    assert result.evaluated.keys() == {result.best}


@given(st.integers(1, 40), st.floats(0.41, 2.6))
def test_any_budget_and_bound_end_within_them(evaluations, bound):
    result = slimmed(bound, evaluations)
    assert cost(result.best)["latency_ms"] <= bound
    assert result.best in result.evaluated
    for before, after in itertools.pairwise(result.trace):
        assert after.assignment == before.taken.assignment


def test_more_evaluations_do_not_hurt():
    found = [accuracy(slimmed(1.2, count).best) for count in (1, 6, 1000)]
    assert found[0] < found[-1] == max(found)


def test_starts_where_it_is_told_and_reuses_what_is_known():
    first = slimmed(1.5)
    again = slimmed(1.0, start=first.best, known=first.evaluated)
    assert again.trace[0].assignment == first.best
    assert first.evaluated.items() <= again.evaluated.items()


def test_a_target_out_of_reach_says_the_least():
    with pytest.raises(InfeasibleTarget, match=r"latency_ms <= 0\.1 \(least reachable: 0\.4\)$"):
        slimmed(0.1)
    with pytest.raises(ValueError, match="evaluations must be at least 1, got 0"):
        slimmed(1.0, 0)


def test_random_problems_find_what_the_rules_find_by_hand():
    rng = np.random.default_rng(0)
    for _ in range(20):
        hits = [np.sort(rng.uniform(0, 1, size)) for size in SIZES]

        def judged(assignment, hits=hits):
            return float(sum(it[index] for it, index in zip(hits, assignment, strict=True)))

        result = searched(
            SIZES, cost, judged, {"latency_ms": 0.9}, evaluations=999, paths=PATHS, widths=WIDTHS
        )
        at = LARGEST
        while cost(at)["latency_ms"] > 0.9:
            at = min(
                three_actions(at),
                key=lambda it: (
                    (judged(at) - judged(it)) / (cost(at)["latency_ms"] - cost(it)["latency_ms"])
                ),
            )
        assert result.trace[-1].taken.assignment == at


@pytest.mark.parametrize("evaluations", [4, 1000])
def test_an_exact_race_leads_where_single_evaluations_lead(evaluations):
    raced = []

    def race(current, candidates, rank):
        raced.extend(candidates)
        found = [accuracy(one) for one in candidates]
        assert len(rank(accuracy(current) - np.array(found))) == len(candidates) > 1
        return found

    result = slimmed(0.8, evaluations, race=race)
    assert result == slimmed(0.8, evaluations)
    assert len(raced) == len(set(raced)) < len(result.evaluated) <= evaluations
    assert bool(raced) == (evaluations > 4)
