"""Slimming by importance, the way of EfficientFormer V1 (Li et al. 2022, arXiv 2206.01191).

A step weighs three actions: the least important slot goes, the first slot with a dearer kind steps
down to a cheaper one, the least important stage loses one width step. The one with the least
accuracy drop per millisecond is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from nas.search.problem import Assignment, Costs, InfeasibleTarget, Problem, as_it_is, solvable
from nas.search.racing import Race
from nas.search.score import mobile_efficiency_score
from nas.search.slimming import Action, SlimmingResult, Step, drop_per_gain

Lowering = tuple[int, int]
"""A choice, and the option that it is lowered to."""


class PathChoice(NamedTuple):
    """A slot that may vary in kind or be left out.

    ``choice`` is its place in an assignment, ``probabilities`` those of its options, cheapest
    first; ``may_go``: option 0 leaves the slot out.
    """

    choice: int
    stage: int
    probabilities: tuple[float, ...]
    may_go: bool

    @property
    def importance(self) -> float:
        """How many times more probable the slot is than nothing in its place."""
        return sum(self.probabilities[1:]) / self.probabilities[0]


def slim_by_importance(
    sizes: Sequence[int],
    cost: Callable[[Assignment], Costs],
    accuracy: Callable[[Assignment], float],
    target: Mapping[str, float],
    *,
    evaluations: int,
    paths: Sequence[PathChoice],
    widths: Mapping[int, int],
    score: Callable[[Costs], float] = mobile_efficiency_score,
    start: Assignment | None = None,
    known: Mapping[Assignment, float] | None = None,
    canonical: Callable[[Assignment], Assignment] = as_it_is,
    race: Race | None = None,
) -> SlimmingResult:
    """Like ``slim``, but only three actions a step, which the importance of slots chooses.

    A drop counts per unit of the first bound of ``target`` that is missed, so per millisecond while
    latency is too high. Where none of the three lowers that, every choice that does is an action.
    If the evaluations do not suffice for all, an action counts by the last drop of its sort; where
    none is known the least important slot goes.

    ``paths`` are the slots that may vary in kind or be left out, in the order images pass them;
    ``widths`` holds the choice of each stage's width; ``score`` stands in the trace only. All else
    is as ``slim`` has it.

    Raises:
        InfeasibleTarget: the smallest network misses a bound.
        ValueError: no evaluation is allowed, or a bound names no cost.
    """
    problem = solvable(sizes, cost, target, canonical, evaluations)
    seen = {canonical(one): hits for one, hits in (known or {}).items()}
    walk = _Walk(problem, accuracy, paths, widths, score, evaluations, seen, race)
    current = canonical(start) if start else problem.largest
    while not problem.fits(current):
        current = walk.step(current)
    walk.evaluate(current)
    feasible = [one for one in walk.evaluated if problem.fits(one)]
    best = max(
        feasible, key=lambda it: (walk.evaluated[it], -score(problem.price(it))), default=current
    )
    return SlimmingResult(best, tuple(walk.trace), walk.evaluated)


@dataclass
class _Walk:
    """The state of a walk: what was evaluated, the last drop of each sort of action, the trace."""

    problem: Problem
    accuracy: Callable[[Assignment], float]
    paths: Sequence[PathChoice]
    widths: Mapping[int, int]
    score: Callable[[Costs], float]
    budget: int
    evaluated: dict[Assignment, float]
    race: Race | None = None
    drops: dict[str, float] = field(default_factory=dict)
    trace: list[Step] = field(default_factory=list)

    def evaluate(self, assignment: Assignment) -> float | None:
        """The accuracy, from memory if it was seen; None when the budget is spent."""
        if assignment not in self.evaluated:
            if self.budget < 1:
                return None
            self.budget -= 1
            self.evaluated[assignment] = self.accuracy(assignment)
        return self.evaluated[assignment]

    def step(self, current: Assignment) -> Assignment:
        """Weigh the actions, take the best, and return where it leads."""
        costs = self.problem.price(current)
        missed = next(name for name, bound in self.problem.target.items() if costs[name] > bound)
        actions = self._actions(current, missed)
        if not actions:  # the smallest network is feasible, so the costs are not monotonous
            raise InfeasibleTarget(self.problem.target, costs)
        affordable = self._affordable(missed, costs, list(actions.values()))
        if affordable > 0 and current not in self.evaluated:
            self.evaluate(current)
            affordable -= 1
        now = self.evaluated.get(current)

        def rank(sort: str) -> float:
            drop = self.drops.get(sort, math.inf)
            saved = costs[missed] - actions[sort].costs[missed]
            return float(drop_per_gain(np.array(drop), np.array(saved)))

        # sorts of which nothing is known first, then the most promising
        order = sorted(actions, key=lambda it: (it in self.drops, rank(it)))
        affordable -= self._race(current, missed, [actions[it] for it in order], affordable)
        for sort in order:
            action = actions[sort]
            if affordable > 0 or action.assignment in self.evaluated:
                affordable -= action.assignment not in self.evaluated
                found = self.evaluate(action.assignment)
                actions[sort] = action._replace(accuracy=found)
                if found is not None and now is not None:
                    self.drops[sort] = now - found
        taken = actions[min(actions, key=rank)]
        self.trace.append(
            Step(current, now, costs, self.score(costs), tuple(actions.values()), taken)
        )
        return taken.assignment

    def _race(
        self, current: Assignment, missed: str, actions: Sequence[Action], affordable: int
    ) -> int:
        """Evaluate the first actions against each other, and tell how many it were."""
        unseen = {it.assignment: it for it in actions if it.assignment not in self.evaluated}
        raced = list(unseen.values())[: max(0, affordable)]
        if self.race is None or len(raced) < 2 or current not in self.evaluated:
            return 0
        here = self.problem.price(current)[missed]
        saved = np.array([here - action.costs[missed] for action in raced])
        assignments = [action.assignment for action in raced]
        found = self.race(current, assignments, lambda drops: drop_per_gain(drops, saved))
        self.budget -= len(raced)
        self.evaluated.update(zip(assignments, found, strict=True))
        return len(raced)

    def _actions(self, current: Assignment, missed: str) -> dict[str, Action]:
        """The actions by their sort: of each the first that lowers the cost ``missed``."""
        sorts = {
            "remove": self._removals(current),
            "step down": self._steps_down(current),
            "narrow": self._narrowings(current),
        }
        found = {sort: self._first(current, missed, lowerings) for sort, lowerings in sorts.items()}
        if not any(found.values()):
            for choice in range(len(current)):
                found[f"lower {choice}"] = self._first(current, missed, _below(current, choice))
        return {sort: action for sort, action in found.items() if action is not None}

    def _first(
        self, current: Assignment, missed: str, lowerings: Iterator[Lowering]
    ) -> Action | None:
        here = self.problem.price(current)[missed]
        for choice, option in lowerings:
            lowered = self.problem.changed(current, choice, option)
            costs = self.problem.price(lowered)
            if costs[missed] < here:
                return Action(choice, option, lowered, costs, self.score(costs), None)
        return None

    def _present(self, current: Assignment) -> list[PathChoice]:
        """The slots that may still go."""
        return [path for path in self.paths if path.may_go and current[path.choice] > 0]

    def _removals(self, current: Assignment) -> Iterator[Lowering]:
        for path in sorted(self._present(current), key=lambda it: it.importance):
            yield path.choice, 0

    def _steps_down(self, current: Assignment) -> Iterator[Lowering]:
        """First slot first, so that the dear kind, attention, stays in a tail of the network."""
        for path in self.paths:
            yield from _below(current, path.choice, lowest=1 if path.may_go else 0)

    def _narrowings(self, current: Assignment) -> Iterator[Lowering]:
        """A stage is as important as its slots together."""
        importances = dict.fromkeys(self.widths, 0.0)
        for path in self._present(current):
            if path.stage in importances:
                importances[path.stage] += path.importance
        for stage in sorted(importances, key=lambda it: importances[it]):
            yield from _below(current, self.widths[stage])

    def _affordable(self, missed: str, costs: Costs, actions: Sequence[Action]) -> int:
        """How many evaluations this step may spend so that they last to the bound.

        One is kept for the final network.
        """
        saving = float(np.mean([costs[missed] - action.costs[missed] for action in actions]))
        steps = max(1, math.ceil((costs[missed] - self.problem.target[missed]) / saving))
        spare = self.budget - 1
        return spare if spare >= (len(actions) + 1) * steps else spare // steps


def _below(current: Assignment, choice: int, lowest: int = 0) -> Iterator[Lowering]:
    """The options below the current one, the next first."""
    for option in range(current[choice] - 1, lowest - 1, -1):
        yield choice, option
