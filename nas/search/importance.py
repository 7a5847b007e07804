"""Slimming by importance, the way of EfficientFormer V1 (Li et al. 2022, arXiv 2206.01191)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from nas.search.problem import Assignment, Problem
from nas.search.walk import Action, Groups, Key, Position, Strategy, below, first_useful


class PathChoice(NamedTuple):
    """A slot that may vary in kind or, where it ``may_go``, be left out by option 0."""

    choice: int
    stage: int
    probabilities: tuple[float, ...]
    may_go: bool

    @property
    def importance(self) -> float:
        """How many times more probable the slot is than nothing in its place."""
        return sum(self.probabilities[1:]) / self.probabilities[0]


class PathChoices(NamedTuple):
    """Slots that may vary, in the order images pass them; the choice of each stage's width."""

    slots: Sequence[PathChoice] = ()
    widths: Mapping[int, int] = {}


class Importance(Strategy):
    """The least important slot goes, the first steps down, or the least important stage narrows.

    A drop counts per unit of the first bounded cost that is too high. Where none of the three
    actions lowers that cost, every choice that does is an action.
    """

    def __init__(self, paths: PathChoices) -> None:
        self._paths = paths

    def actions(self, problem: Problem, current: Assignment) -> dict[Key, Action]:
        """Return the actions by their sort: of each the first that lowers the missed cost."""
        missed = problem.missed(current)[0]
        here = problem.price(current)[missed]

        def first(groups: Groups) -> dict[Key, Action]:
            return first_useful(problem, current, groups, lambda it: it.costs[missed] < here)

        single: Groups = {
            ("lower", choice): below(current, choice) for choice in range(len(current))
        }
        return first(self._sorts(current)) or first(single)

    def gain(self, at: Position, action: Action) -> float:
        missed = at.problem.missed(at.assignment)[0]
        return at.costs[missed] - action.costs[missed]

    def affordable(self, at: Position, budget: int, spent: int) -> int:
        missed = at.problem.missed(at.assignment)[0]
        saving = float(np.mean([self.gain(at, action) for action in at.actions.values()]))
        steps = max(1, math.ceil((at.costs[missed] - at.problem.target[missed]) / saving))
        spare = budget - 1  # one for the final network
        return (spare if spare >= (len(at.actions) + 1) * steps else spare // steps) - spent

    def preference(self, problem: Problem, assignment: Assignment) -> float:
        """Prefer the less efficient, so the larger: more capacity seldom hurts."""
        return -problem.score(problem.price(assignment))

    def _sorts(self, current: Assignment) -> Groups:
        """Return the lowerings of each sort, the one to try first at the front.

        Early slots step down first, so that attention stays in a tail of the network.
        """
        slots, widths = self._paths
        present = [slot for slot in slots if slot.may_go and current[slot.choice] > 0]
        stages = dict.fromkeys(widths, 0.0)
        for slot in present:
            if slot.stage in stages:
                stages[slot.stage] += slot.importance
        removals = sorted(present, key=lambda slot: slot.importance)
        narrowings = sorted(stages, key=lambda stage: stages[stage])
        steps_down = [below(current, slot.choice, lowest=int(slot.may_go)) for slot in slots]
        return {
            ("remove",): [(slot.choice, 0) for slot in removals],
            ("step down",): list(chain(*steps_down)),
            ("narrow",): list(chain(*(below(current, widths[stage]) for stage in narrowings))),
        }
