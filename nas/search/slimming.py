"""Slimming: from the largest network down to a target, one cheap option at a time.

The walk is the loop of EfficientFormer V2 (Li et al., ICCV 2023, section 3.3): of all actions that
lower one choice, take the one with the least accuracy drop per gain in Mobile Efficiency Score, and
repeat. It cannot take an early removal back; what it saw and what it missed goes to ``refine``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from nas.search.problem import Assignment, Costs, Problem, as_it_is, solvable
from nas.search.racing import Floats, Race
from nas.search.refinement import refine
from nas.search.score import mobile_efficiency_score

WALK_SHARE = 0.15
"""Of the evaluations for one target; the rest refines. With 0.25 regrets at 60 evaluations fell by
a fifth on NAS-Bench-Macro and rose by a third on tables of 20 to 40 choices: benchmarks/search.py.
"""


class Action(NamedTuple):
    """Lowering choice ``choice`` to option ``option``, and what that makes of the network."""

    choice: int
    option: int
    assignment: Assignment
    costs: Costs
    score: float
    accuracy: float | None
    """None if the budget of evaluations did not allow to look; an estimate if a race dropped it."""


class Step(NamedTuple):
    """One round: where it started, every action it considered, and the one it took."""

    assignment: Assignment
    accuracy: float | None
    costs: Costs
    score: float
    actions: tuple[Action, ...]
    taken: Action


class SlimmingResult(NamedTuple):
    """The most accurate assignment found that meets every bound, and how it was found."""

    best: Assignment
    trace: tuple[Step, ...]
    evaluated: Mapping[Assignment, float]


class FamilyResult(NamedTuple):
    """For each target the most accurate assignment found that meets it, and how they were found."""

    bests: tuple[Assignment, ...]
    trace: tuple[Step, ...]
    evaluated: Mapping[Assignment, float]


def slim(
    sizes: Sequence[int],
    cost: Callable[[Assignment], Costs],
    accuracy: Callable[[Assignment], float],
    target: Mapping[str, float],
    *,
    evaluations: int,
    rng: np.random.Generator,
    score: Callable[[Costs], float] = mobile_efficiency_score,
    start: Assignment | None = None,
    known: Mapping[Assignment, float] | None = None,
    canonical: Callable[[Assignment], Assignment] = as_it_is,
    race: Race | None = None,
) -> SlimmingResult:
    """Walk from the largest network to the bounds of ``target``, then refine on the bounds.

    The walk's evaluations are data for the refinement as much as its own.

    Args:
        sizes: number of options of each choice, cheapest first.
        cost: of an assignment, ``{"latency_ms": ..., "params": ...}``; asked some thousand
            times, once for each assignment.
        accuracy: of an assignment; called at most ``evaluations`` times, never twice for one.
        target: an upper bound for each cost that matters.
        evaluations: for walk and refinement together.
        rng: draws what the model believes, breaks ties, orders actions of which nothing is known.
        score: efficiency of costs, higher is better.
        start: where to start instead of at the largest network.
        known: accuracies that need no evaluation.
        canonical: the one assignment that stands for all that make the same network; by default
            each makes its own. Only canonical ones are evaluated and returned.
        race: judges the actions of a step against each other, instead of ``accuracy`` one by one;
            each that it judges counts as an evaluation, also where it is an estimate.

    Raises:
        InfeasibleTarget: nothing meets every bound; found before anything is evaluated.
        ValueError: no evaluation is allowed, or a bound names no cost.
    """
    (best,), trace, evaluated = slim_family(
        sizes,
        cost,
        accuracy,
        [target],
        evaluations=evaluations,
        rng=rng,
        score=score,
        start=start,
        known=known,
        canonical=canonical,
        race=race,
    )
    return SlimmingResult(best, trace, evaluated)


def slim_family(
    sizes: Sequence[int],
    cost: Callable[[Assignment], Costs],
    accuracy: Callable[[Assignment], float],
    targets: Sequence[Mapping[str, float]],
    *,
    evaluations: int,
    rng: np.random.Generator,
    score: Callable[[Costs], float] = mobile_efficiency_score,
    start: Assignment | None = None,
    known: Mapping[Assignment, float] | None = None,
    canonical: Callable[[Assignment], Assignment] = as_it_is,
    race: Race | None = None,
) -> FamilyResult:
    """One walk to the tightest of the targets, then refinement on the bounds of each in turn.

    All targets learn from all evaluations, so together they cover the frontier: with eight of them
    100 evaluations cover more than evolution's 100, and 50 about as much (benchmarks/frontiers.py,
    benchmarks/search.py). Arguments and errors are those of ``slim``; ``evaluations`` are for all
    targets together.
    """
    problems = [solvable(sizes, cost, target, canonical, evaluations) for target in targets]
    tightest = max(problems, key=lambda problem: problem.excess(problem.largest))
    seen = {canonical(one): hits for one, hits in (known or {}).items()}
    share = max(1, round(WALK_SHARE * evaluations / len(targets)))
    walk = _Walk(tightest, accuracy, score, rng, share, dict(seen), race)
    walk.run(canonical(start) if start else tightest.largest)
    bests, evaluated = refine(
        problems,
        accuracy,
        evaluations=evaluations - (len(walk.evaluated) - len(seen)),
        rng=rng,
        known=walk.evaluated,
    )
    return FamilyResult(tuple(bests), tuple(walk.trace), evaluated)


def slim_greedily(
    sizes: Sequence[int],
    cost: Callable[[Assignment], Costs],
    accuracy: Callable[[Assignment], float],
    target: Mapping[str, float],
    *,
    evaluations: int,
    rng: np.random.Generator,
    score: Callable[[Costs], float] = mobile_efficiency_score,
    canonical: Callable[[Assignment], Assignment] = as_it_is,
    race: Race | None = None,
) -> SlimmingResult:
    """The published loop alone, with all evaluations: a baseline. Arguments are ``slim``'s.

    Where evaluations do not suffice for every action of every step, an action that was tried
    before is ranked by its last drop, and the most promising are looked at again.
    """
    problem = solvable(sizes, cost, target, canonical, evaluations)
    walk = _Walk(problem, accuracy, score, rng, evaluations, {}, race)
    reached = walk.run(problem.largest)
    feasible = [one for one in walk.evaluated if problem.fits(one)]
    best = max(feasible, key=lambda one: walk.evaluated[one], default=reached)
    return SlimmingResult(best, tuple(walk.trace), walk.evaluated)


@dataclass
class _Walk:
    """The state of one walk: what was evaluated, the last known drop of each choice, the trace."""

    problem: Problem
    accuracy: Callable[[Assignment], float]
    score: Callable[[Costs], float]
    rng: np.random.Generator
    budget: int
    evaluated: dict[Assignment, float]
    race: Race | None = None
    drops: dict[tuple[int, int], float] = field(default_factory=dict)
    trace: list[Step] = field(default_factory=list)

    def run(self, start: Assignment) -> Assignment:
        """Take one action after the other until every bound is met, or no action is left."""
        current = start
        while not self.problem.fits(current):
            reached = self.step(current)
            if reached is None:
                return self.problem.feasible()
            current = reached
        self.evaluate(current)
        return current

    def evaluate(self, assignment: Assignment) -> float | None:
        """The accuracy, from memory if it was seen; None when the budget is spent."""
        if assignment not in self.evaluated:
            if self.budget < 1:
                return None
            self.budget -= 1
            self.evaluated[assignment] = self.accuracy(assignment)
        return self.evaluated[assignment]

    def step(self, current: Assignment) -> Assignment | None:
        """Consider every action, take the best, and return where it leads.

        None where no action raises the score: then costs do not grow with every option.
        """
        actions = self._actions(current)
        if not actions:
            return None
        now = self.evaluate(current) if self._affordable(current, actions) > 0 else None
        costs = self.problem.price(current)
        score = self.score(costs)
        looked_at = set(self._worth_a_look(actions, score, self._affordable(current, actions)))
        self._race(current, [it for it in actions if it.assignment in looked_at], score)
        tried = []
        for action in actions:
            seen = action.assignment in looked_at or action.assignment in self.evaluated
            found = self.evaluate(action.assignment) if seen else None
            tried.append(action._replace(accuracy=found))
            if found is not None and now is not None:
                self.drops[action.choice, action.option] = now - found
        # where nothing is known all ranks are infinite: then chance decides, not the order
        order = self.rng.permutation(len(tried))
        ranks = [
            (self._rank(action, score), chance) for action, chance in zip(tried, order, strict=True)
        ]
        taken = tried[ranks.index(min(ranks))]
        self.trace.append(Step(current, now, costs, score, tuple(tried), taken))
        return taken.assignment

    def _race(self, current: Assignment, actions: Sequence[Action], score: float) -> None:
        """Evaluate actions against each other, if there is a race to do so."""
        scores = {it.assignment: it.score for it in actions if it.assignment not in self.evaluated}
        if self.race is None or len(scores) < 2 or current not in self.evaluated:
            return
        gains = np.array(list(scores.values())) - score
        found = self.race(current, list(scores), lambda drops: drop_per_gain(drops, gains))
        self.budget -= len(scores)
        self.evaluated.update(zip(scores, found, strict=True))

    def _actions(self, current: Assignment) -> list[Action]:
        """For each choice the next lower option that raises the score and lowers a missed bound.

        Fewer channels may save parameters, and so raise the score, but no time: on a device that
        computes 16 channels at once 40 cost as much as 48. Where no action lowers a missed bound
        on its own, those that raise the score are left.
        """
        costs = self.problem.price(current)
        missed = [name for name, bound in self.problem.target.items() if costs[name] > bound]
        useful = self._lowered(current, lambda it: any(it[name] < costs[name] for name in missed))
        return useful or self._lowered(current, lambda it: True)

    def _lowered(self, current: Assignment, is_useful: Callable[[Costs], bool]) -> list[Action]:
        here = self.score(self.problem.price(current))
        found = []
        for choice, index in enumerate(current):
            for option in range(index - 1, -1, -1):
                lowered = self.problem.changed(current, choice, option)
                costs = self.problem.price(lowered)
                score = self.score(costs)
                if score > here and is_useful(costs):
                    found.append(Action(choice, option, lowered, costs, score, None))
                    break
        return found

    def _affordable(self, current: Assignment, actions: Sequence[Action]) -> int:
        """How many evaluations this step may spend so that they last to the target.

        One is kept for the final network.
        """
        here = self.problem.excess(current)
        savings = [here - self.problem.excess(action.assignment) for action in actions]
        saving = float(np.mean([max(one, 0.0) for one in savings])) or math.inf
        steps = max(1, math.ceil(here / saving))
        spare = self.budget - 1
        if not self.trace and spare >= len(actions) + 2 * steps:
            return spare  # the first look at everything ranks all later steps
        return spare // steps

    def _worth_a_look(
        self, actions: Sequence[Action], score: float, affordable: int
    ) -> list[Assignment]:
        order = self.rng.permutation(len(actions))
        ranked = sorted((actions[index] for index in order), key=lambda a: self._rank(a, score))
        unseen = [action for action in ranked if action.choice not in self._tried_choices()]
        known = [action for action in ranked if action.choice in self._tried_choices()]
        return [action.assignment for action in (*unseen, *known)[: max(0, affordable)]]

    def _tried_choices(self) -> set[int]:
        return {choice for choice, _ in self.drops}

    def _rank(self, action: Action, score: float) -> float:
        drop = self.drops.get((action.choice, action.option))
        if drop is None:  # of this choice another option may be known
            others = [value for (choice, _), value in self.drops.items() if choice == action.choice]
            drop = others[-1] if others else math.inf
        return float(drop_per_gain(np.array(drop), np.array(action.score - score)))


def drop_per_gain(drops: Floats, gains: Floats) -> Floats:
    """Accuracy drops per gain, the least is the best; where accuracy rises, more of either is."""
    return np.where(drops > 0, drops / gains, drops * gains)
