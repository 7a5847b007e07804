"""Slimming by importance, the way of EfficientFormer V1 (Li et al. 2022, arXiv 2206.01191).

A step compares three actions: the least important slot goes, the first slot with a more expensive
kind steps down to a cheaper one, the least important stage loses one width step. The one with the
least accuracy drop per millisecond is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nas.search.problem import Assignment, Problem
from nas.search.walk import Action, Key, Position, Strategy

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


class PathChoices(NamedTuple):
    """What a strategy may know of a space beside its sizes.

    ``slots`` are those that may vary in kind or be left out, in the order images pass them;
    ``widths`` holds the choice of each stage's width.
    """

    slots: Sequence[PathChoice] = ()
    widths: Mapping[int, int] = {}


class Importance(Strategy):
    """Three actions a step, which the importance of slots proposes.

    A drop counts per unit of the first bounded cost that is too high, so per millisecond while
    latency is. Where none of the three lowers it, every choice that does is an action. If the
    evaluations do not suffice for all, an action counts by the last drop of its sort; where none is
    known the least important slot goes.
    """

    def __init__(self, paths: PathChoices) -> None:
        self._paths = paths

    def actions(self, problem: Problem, current: Assignment) -> dict[Key, Action]:
        """Return the actions by their sort: of each the first that lowers the missed cost."""
        sorts: dict[Key, Iterator[Lowering]] = {
            ("remove",): self._removals(current),
            ("step down",): self._steps_down(current),
            ("narrow",): self._narrowings(current),
        }
        found = _first_of_each(problem, current, sorts)
        if not found:
            every = range(len(current))
            sorts = {("lower", choice): _below(current, choice) for choice in every}
            found = _first_of_each(problem, current, sorts)
        return found

    def gain(self, at: Position, action: Action) -> float:
        missed = _missed(at.problem, at.assignment)
        return at.costs[missed] - action.costs[missed]

    def affordable(self, at: Position, budget: int, spent: int) -> int:
        """Keep one evaluation for the final network."""
        missed = _missed(at.problem, at.assignment)
        saving = float(np.mean([self.gain(at, action) for action in at.actions.values()]))
        steps = max(1, math.ceil((at.costs[missed] - at.problem.target[missed]) / saving))
        spare = budget - 1
        return (spare if spare >= (len(at.actions) + 1) * steps else spare // steps) - spent

    def preference(self, problem: Problem, assignment: Assignment) -> float:
        """Prefer the less efficient, so the larger: more capacity seldom hurts."""
        return -problem.score(problem.price(assignment))

    def _present(self, current: Assignment) -> list[PathChoice]:
        """Return the slots that may still go."""
        return [slot for slot in self._paths.slots if slot.may_go and current[slot.choice] > 0]

    def _removals(self, current: Assignment) -> Iterator[Lowering]:
        for slot in sorted(self._present(current), key=lambda it: it.importance):
            yield slot.choice, 0

    def _steps_down(self, current: Assignment) -> Iterator[Lowering]:
        """Yield the first slot first, so that attention stays in a tail of the network."""
        for slot in self._paths.slots:
            yield from _below(current, slot.choice, lowest=1 if slot.may_go else 0)

    def _narrowings(self, current: Assignment) -> Iterator[Lowering]:
        """Yield the least important stage first; it is as important as its slots together."""
        importances = dict.fromkeys(self._paths.widths, 0.0)
        for slot in self._present(current):
            if slot.stage in importances:
                importances[slot.stage] += slot.importance
        for stage in sorted(importances, key=lambda it: importances[it]):
            yield from _below(current, self._paths.widths[stage])


def _missed(problem: Problem, current: Assignment) -> str:
    """Return the name of the first bound that is missed."""
    costs = problem.price(current)
    return next(name for name, bound in problem.target.items() if costs[name] > bound)


def _first_of_each(
    problem: Problem, current: Assignment, sorts: Mapping[Key, Iterator[Lowering]]
) -> dict[Key, Action]:
    """Return, of each sort, the first lowering that saves some of the missed cost."""
    missed = _missed(problem, current)
    here = problem.price(current)[missed]
    found: dict[Key, Action] = {}
    for sort, lowerings in sorts.items():
        for choice, option in lowerings:
            lowered = problem.changed(current, choice, option)
            costs = problem.price(lowered)
            if costs[missed] < here:
                found[sort] = Action(choice, option, lowered, costs, problem.score(costs))
                break
    return found


def _below(current: Assignment, choice: int, lowest: int = 0) -> Iterator[Lowering]:
    """Yield the options below the current one, the next first."""
    for option in range(current[choice] - 1, lowest - 1, -1):
        yield choice, option
