"""The walk of slimming: from the largest network down to the bounds, one cheaper option at a time.

``Frontier`` is the loop of EfficientFormer V2 (Li et al., ICCV 2023, section 3.3). A walk cannot
take an early removal back; ``refine``, to which most evaluations go, can.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from nas.search.problem import Assignment, Costs, Floats, Problem


class Action(NamedTuple):
    """Lowering a choice to an option, and the network that it leads to."""

    choice: int
    option: int
    assignment: Assignment
    costs: Costs
    score: float
    accuracy: float | None = None
    """None where no evaluation was left for it; an estimate where a race dropped it."""


class Step(NamedTuple):
    """One step of a walk: its start, all actions that it considered, and the one that it took."""

    assignment: Assignment
    accuracy: float | None
    costs: Costs
    score: float
    actions: tuple[Action, ...]
    taken: Action


class Solution(NamedTuple):
    """For each problem the best assignment found that meets its bounds, and how it was found."""

    bests: tuple[Assignment, ...]
    trace: tuple[Step, ...]
    evaluated: Mapping[Assignment, float]

    @property
    def best(self) -> Assignment:
        return self.bests[0]


Lowering = tuple[int, int]  # a choice, and the option that it is lowered to
Key = tuple[str | int, ...]
Actions = Mapping[Key, Action]
"""The actions of a step; the last drop of an action is remembered under its key."""
Groups = Mapping[Key, Sequence[Lowering]]
"""Of each group one lowering becomes an action."""


class Position(NamedTuple):
    """The start of a step, and its actions."""

    problem: Problem
    assignment: Assignment
    actions: Actions
    is_first: bool

    @property
    def costs(self) -> Costs:
        return self.problem.price(self.assignment)

    @property
    def score(self) -> float:
        return self.problem.score(self.costs)


class Strategy(ABC):
    """Which actions a step has, how they rank, and how many of them it may evaluate."""

    walk_share = 1.0
    """Part of the evaluations of one problem that the walk takes; if below 1, the rest refines."""
    recalls = True
    """Whether a step that may evaluate nothing compares with what earlier steps evaluated."""

    @abstractmethod
    def actions(self, problem: Problem, current: Assignment) -> Actions:
        """Return the actions of a step from ``current``; none to give up."""

    @abstractmethod
    def gain(self, at: Position, action: Action) -> float:
        """Return what an action saves, above zero; its drop is divided by that."""

    @abstractmethod
    def affordable(self, at: Position, budget: int, spent: int) -> int:
        """Return how many actions a step may evaluate that began with ``budget`` left.

        The start of the step took ``spent`` of it, 0 or 1.
        """

    def drop(self, key: Key, drops: Mapping[Key, float]) -> float | None:
        """Return the drop to expect of an action, from the last drops of all; None if unknown."""
        return drops.get(key)

    def order(self, count: int, rng: np.random.Generator) -> Sequence[int]:  # noqa: ARG002
        return range(count)

    def choose(
        self, ranked: Actions, evaluated: Container[Assignment], affordable: int
    ) -> list[Key]:
        """Return the actions to evaluate, in this order; those in ``evaluated`` cost nothing."""
        every = [action.assignment for action in ranked.values()]
        new = dict.fromkeys(assignment for assignment in every if assignment not in evaluated)
        unaffordable = list(new)[max(0, affordable) :]
        return [key for key, action in ranked.items() if action.assignment not in unaffordable]

    def preference(self, problem: Problem, assignment: Assignment) -> float:  # noqa: ARG002
        """Return by what equally accurate networks rank: the highest, then the first, is best."""
        return 0.0


class Frontier(Strategy):
    """Every choice may be lowered; the drop per gain in Mobile Efficiency Score decides."""

    recalls = False

    def __init__(self, walk_share: float = 0.15) -> None:  # see benchmarks/README.md
        self.walk_share = walk_share

    def actions(self, problem: Problem, current: Assignment) -> Actions:
        """Return, for each choice, the next option that raises the score and lowers a missed cost.

        Where no option lowers a missed cost, those that raise the score are left.
        """
        costs = problem.price(current)
        score = problem.score(costs)
        missed = problem.missed(current)
        groups: Groups = {(choice,): below(current, choice) for choice in range(len(current))}

        def saves(action: Action) -> bool:
            return any(action.costs[name] < costs[name] for name in missed)

        found = first_useful(problem, current, groups, lambda it: it.score > score and saves(it))
        found = found or first_useful(problem, current, groups, lambda it: it.score > score)
        return {(action.choice, action.option): action for action in found.values()}

    def gain(self, at: Position, action: Action) -> float:
        return action.score - at.score

    def affordable(self, at: Position, budget: int, spent: int) -> int:
        here = at.problem.excess(at.assignment)
        savings = [here - at.problem.excess(it.assignment) for it in at.actions.values()]
        saving = float(np.mean([max(it, 0.0) for it in savings])) or math.inf
        steps = max(1, math.ceil(here / saving))
        spare = budget - spent - 1  # one for the final network
        if at.is_first and spare >= len(at.actions) + 2 * steps:
            return spare  # the first look at everything ranks all later steps
        return spare // steps

    def drop(self, key: Key, drops: Mapping[Key, float]) -> float | None:
        """Return the last drop of this option, or else of another option of the same choice."""
        if key in drops:
            return drops[key]
        others = [drop for other, drop in drops.items() if other[0] == key[0]]
        return others[-1] if others else None

    def order(self, count: int, rng: np.random.Generator) -> Sequence[int]:
        return [int(index) for index in rng.permutation(count)]

    def choose(
        self, ranked: Actions, evaluated: Container[Assignment], affordable: int
    ) -> list[Key]:
        """Return the first few in the order of choices, and those in ``evaluated``."""
        actions = list(ranked.values())
        first = {action.assignment for action in actions[: max(0, affordable)]}
        chosen = [it for it in actions if it.assignment in first or it.assignment in evaluated]
        return [(it.choice, it.option) for it in sorted(chosen, key=lambda it: it.choice)]


@dataclass
class Walk:
    """A walk; ``budget`` is the evaluations left, ``drops`` the last drop of each action."""

    problem: Problem
    strategy: Strategy
    rng: np.random.Generator
    budget: int
    evaluated: dict[Assignment, float]
    trace: list[Step] = field(default_factory=list)
    drops: dict[Key, float] = field(default_factory=dict)

    def run(self, start: Assignment) -> Assignment:
        """Return the network that meets every bound at the end; another one if actions run out."""
        current = start
        while not self.problem.fits(current):
            actions = self.strategy.actions(self.problem, current)
            if not actions:
                return self.problem.feasible()
            current = self._step(Position(self.problem, current, actions, not self.trace))
        self._evaluate(current)
        return current

    def _evaluate(self, assignment: Assignment) -> float | None:
        if assignment not in self.evaluated:
            if self.budget < 1:
                return None
            self.budget -= 1
            self.evaluated[assignment] = self.problem.judge(assignment)
        return self.evaluated[assignment]

    def _step(self, at: Position) -> Assignment:
        strategy, actions, budget = self.strategy, dict(at.actions), self.budget
        may_evaluate = strategy.affordable(at, budget, 0) > 0
        if may_evaluate:
            self._evaluate(at.assignment)
        known = may_evaluate or strategy.recalls
        now = self.evaluated.get(at.assignment) if known else None
        affordable = strategy.affordable(at, budget, budget - self.budget)
        gains = {key: strategy.gain(at, action) for key, action in actions.items()}

        def expected(key: Key) -> tuple[bool, float]:
            drop = strategy.drop(key, self.drops)
            known_drop = np.array(math.inf if drop is None else drop)
            return drop is not None, float(drop_per_gain(known_drop, np.array(gains[key])))

        keys = list(actions)
        order = strategy.order(len(keys), self.rng)
        ranked = sorted((keys[index] for index in order), key=expected)
        chosen = strategy.choose({key: actions[key] for key in ranked}, self.evaluated, affordable)
        self._race(at, {actions[key].assignment: gains[key] for key in chosen})
        for key in chosen:
            found = self._evaluate(actions[key].assignment)
            actions[key] = actions[key]._replace(accuracy=found)
            if found is not None and now is not None:
                self.drops[key] = now - found
        order = strategy.order(len(keys), self.rng)
        ranks = [(expected(key)[1], place) for key, place in zip(keys, order, strict=True)]
        taken = actions[keys[ranks.index(min(ranks))]]
        every = tuple(actions.values())
        self.trace.append(Step(at.assignment, now, at.costs, at.score, every, taken))
        return taken.assignment

    def _race(self, at: Position, gains: Mapping[Assignment, float]) -> None:
        """Evaluate new networks against each other, if the problem has a race."""
        new = [assignment for assignment in gains if assignment not in self.evaluated]
        if self.problem.race is None or len(new) < 2 or at.assignment not in self.evaluated:
            return
        saved = np.array([gains[assignment] for assignment in new])
        found = self.problem.judge_race(
            at.assignment, new, lambda drops: drop_per_gain(drops, saved)
        )
        self.budget -= len(new)
        self.evaluated.update(zip(new, found, strict=True))


def slim_problems(
    problems: Sequence[Problem],
    strategy: Strategy,
    *,
    evaluations: int,
    rng: np.random.Generator,
    start: Assignment | None = None,
    known: Mapping[Assignment, float] | None = None,
) -> Solution:
    """Walk from ``start``, by default the largest network, then refine on each problem's bounds.

    ``problems`` are the same one ``within`` different bounds. Together they call ``accuracy`` at
    most ``evaluations`` times, never twice for one assignment nor for a ``known`` one. Before that,
    raises InfeasibleTarget if nothing meets the bounds, and ValueError without an evaluation.
    """
    from nas.search.refinement import refine  # loads scipy, which the command line's help can spare

    problems = [problem.ready(evaluations) for problem in problems]
    canonical = problems[0].canonical
    seen = {canonical(assignment): found for assignment, found in (known or {}).items()}
    current = canonical(start) if start else problems[0].largest
    if strategy.walk_share < 1:
        tightest = max(problems, key=lambda problem: problem.excess(problem.largest))
        budget = max(1, round(strategy.walk_share * evaluations / len(problems)))
        walk = Walk(tightest, strategy, rng, budget, dict(seen))
        walk.run(current)
        left = evaluations + len(seen) - len(walk.evaluated)
        found, evaluated = refine(problems, evaluations=left, rng=rng, known=walk.evaluated)
        return Solution(tuple(found), tuple(walk.trace), evaluated)
    bests: list[Assignment] = []
    trace: list[Step] = []
    for problem in problems:
        walk = Walk(problem, strategy, rng, max(1, evaluations // len(problems)), seen)
        reached = walk.run(current)
        current = walk.trace[-1].taken.assignment if walk.trace else current
        trace += walk.trace
        bests.append(most_accurate(problem, seen, reached, strategy.preference))
    return Solution(tuple(bests), tuple(trace), seen)


def slim_greedily(
    problems: Sequence[Problem], *, evaluations: int, rng: np.random.Generator
) -> Solution:
    """Walk by ``Frontier`` with all evaluations, as published; see ``slim_problems``."""
    return slim_problems(problems, Frontier(walk_share=1.0), evaluations=evaluations, rng=rng)


def most_accurate(
    problem: Problem,
    evaluated: Mapping[Assignment, float],
    default: Assignment,
    preference: Callable[[Problem, Assignment], float] = lambda *_: 0.0,
) -> Assignment:
    """Return the most accurate that meets the bounds, then by ``preference``, or the default."""
    feasible = filter(problem.fits, evaluated)
    return max(feasible, key=lambda it: (evaluated[it], preference(problem, it)), default=default)


def drop_per_gain(drops: Floats, gains: Floats) -> Floats:
    """Return drops per gain, the least is the best; where accuracy rises, more of either is."""
    return np.where(drops > 0, drops / gains, drops * gains)


def below(current: Assignment, choice: int, lowest: int = 0) -> list[Lowering]:
    """Return the options below the current one, the next first."""
    return [(choice, option) for option in reversed(range(lowest, current[choice]))]


def first_useful(
    problem: Problem, current: Assignment, groups: Groups, is_useful: Callable[[Action], bool]
) -> dict[Key, Action]:
    """Return the first useful lowering of each group, where there is one."""
    found: dict[Key, Action] = {}
    for key, lowerings in groups.items():
        for choice, option in lowerings:
            lowered = problem.changed(current, choice, option)
            costs = problem.price(lowered)
            action = Action(choice, option, lowered, costs, problem.score(costs))
            if is_useful(action):
                found[key] = action
                break
    return found
