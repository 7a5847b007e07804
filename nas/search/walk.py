"""The walk of slimming: from the largest network down to the bounds, one cheaper option at a time.

A strategy says which actions a step has and how they rank; the walk evaluates them, compares their
accuracy drops, takes the best and repeats. ``Frontier`` is the loop of EfficientFormer V2 (Li et
al., ICCV 2023, section 3.3): of all actions that lower one choice, the one with the least drop per
gain in Mobile Efficiency Score. A walk cannot take an early removal back; its evaluations go to
``refine``, which can.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nas.search.problem import Assignment, Costs, Floats, Problem


class Action(NamedTuple):
    """Lowering choice ``choice`` to option ``option``, and what that makes of the network."""

    choice: int
    option: int
    assignment: Assignment
    costs: Costs
    score: float
    accuracy: float | None = None
    """None where no evaluation was left for it; an estimate where a race dropped it."""


class Step(NamedTuple):
    """One step of a walk: where it started, every action it considered, and the one it took."""

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
        """The best for the first problem, or the only one."""
        return self.bests[0]


Key = tuple[str | int, ...]
Actions = Mapping[Key, Action]
"""The actions of a step; the last drop of an action is remembered under its key."""


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
    """Part of the evaluations of one problem that walks; if below 1, the others refine."""
    recalls = True
    """Whether a step that may evaluate nothing compares with what earlier steps evaluated."""

    @abstractmethod
    def actions(self, problem: Problem, current: Assignment) -> Actions:
        """Return the actions of a step from ``current``, which misses a bound; empty to give up."""

    @abstractmethod
    def gain(self, at: Position, action: Action) -> float:
        """Return what an action's drop is divided by, above zero: what it saves."""

    @abstractmethod
    def affordable(self, at: Position, budget: int, spent: int) -> int:
        """Return how many actions this step may evaluate so that the budget lasts to the bounds.

        ``budget`` evaluations were left when the step began, ``spent`` of them (0 or 1) went to the
        network that it starts from.
        """

    def drop(self, key: Key, drops: Mapping[Key, float]) -> float | None:
        """Return the drop to expect of an action, by the last drops of all; None if unknown."""
        return drops.get(key)

    def order(self, count: int, rng: np.random.Generator) -> Sequence[int]:  # noqa: ARG002
        """Return in which order ``count`` equally good actions stand."""
        return range(count)

    def choose(
        self, ranked: Actions, evaluated: Container[Assignment], affordable: int
    ) -> list[Key]:
        """Return the actions to evaluate, in this order; those in ``evaluated`` cost nothing.

        ``ranked`` are the actions of unknown drop, then the others, the most promising first.
        """
        every = [action.assignment for action in ranked.values()]
        new = dict.fromkeys(assignment for assignment in every if assignment not in evaluated)
        unaffordable = list(new)[max(0, affordable) :]
        return [key for key, action in ranked.items() if action.assignment not in unaffordable]

    def preference(self, problem: Problem, assignment: Assignment) -> float:  # noqa: ARG002
        """Return which of equally accurate networks is the best: the highest, then the first."""
        return 0.0


class Frontier(Strategy):
    """Every choice may be lowered; the drop per gain in efficiency score decides."""

    recalls = False

    def __init__(self, walk_share: float = 0.15) -> None:
        """Set the part of the evaluations that walks; for the default see benchmarks/README.md."""
        self.walk_share = walk_share

    def actions(self, problem: Problem, current: Assignment) -> Actions:
        """Return, for each choice, the next option that raises the score and lowers a missed bound.

        Fewer channels may save parameters, and so raise the score, but no time: on a device that
        computes 16 channels at once 40 cost as much as 48. Where no action lowers a missed bound
        on its own, those that raise the score are left.
        """
        costs = problem.price(current)
        missed = [name for name, bound in problem.target.items() if costs[name] > bound]

        def saves(lowered: Costs) -> bool:
            return any(lowered[name] < costs[name] for name in missed)

        return _raising(problem, current, saves) or _raising(problem, current, lambda _: True)

    def gain(self, at: Position, action: Action) -> float:
        return action.score - at.score

    def affordable(self, at: Position, budget: int, spent: int) -> int:
        """Keep one evaluation for the final network."""
        here = at.problem.excess(at.assignment)
        savings = [here - at.problem.excess(it.assignment) for it in at.actions.values()]
        saving = float(np.mean([max(it, 0.0) for it in savings])) or math.inf
        steps = max(1, math.ceil(here / saving))
        spare = budget - spent - 1
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
        """Return a random order: where nothing is known, chance decides."""
        return [int(index) for index in rng.permutation(count)]

    def choose(
        self, ranked: Actions, evaluated: Container[Assignment], affordable: int
    ) -> list[Key]:
        """Return the first few in the order of choices, and those in ``evaluated``."""
        first = {action.assignment for action in list(ranked.values())[: max(0, affordable)]}
        chosen = [
            key
            for key, action in ranked.items()
            if action.assignment in first or action.assignment in evaluated
        ]
        return sorted(chosen, key=lambda key: ranked[key].choice)


class Walk:
    """A walk and its state: what was evaluated, the last drop of each action, the trace."""

    def __init__(
        self,
        problem: Problem,
        strategy: Strategy,
        rng: np.random.Generator,
        budget: int,
        known: Mapping[Assignment, float],
    ) -> None:
        """Allow ``budget`` evaluations beside the ``known`` accuracies."""
        self.evaluated = dict(known)
        self.trace: list[Step] = []
        self._problem, self._strategy, self._rng, self._budget = problem, strategy, rng, budget
        self._drops: dict[Key, float] = {}

    def run(self, start: Assignment) -> Assignment:
        """Take one action after the other until every bound is met, and return where that is.

        Where no action is left before, as costs need not grow with every option, it is another
        network that meets the bounds.
        """
        current = start
        while not self._problem.fits(current):
            actions = self._strategy.actions(self._problem, current)
            if not actions:
                return self._problem.feasible()
            current = self._step(Position(self._problem, current, actions, not self.trace))
        self._evaluate(current)
        return current

    def _evaluate(self, assignment: Assignment) -> float | None:
        """Return the accuracy, from memory if it is known; None where the budget is spent."""
        if assignment not in self.evaluated:
            if self._budget < 1:
                return None
            self._budget -= 1
            self.evaluated[assignment] = self._problem.accuracy(assignment)
        return self.evaluated[assignment]

    def _step(self, at: Position) -> Assignment:
        """Evaluate actions, take the best, and return where it leads."""
        strategy, actions, budget = self._strategy, dict(at.actions), self._budget
        may_evaluate = strategy.affordable(at, budget, 0) > 0
        if may_evaluate:
            self._evaluate(at.assignment)
        known = may_evaluate or strategy.recalls
        now = self.evaluated.get(at.assignment) if known else None
        affordable = strategy.affordable(at, budget, budget - self._budget)
        gains = {key: strategy.gain(at, action) for key, action in actions.items()}

        def expected(key: Key) -> tuple[bool, float]:
            drop = strategy.drop(key, self._drops)
            ranked = math.inf if drop is None else drop
            rank = drop_per_gain(np.array(ranked), np.array(gains[key]))
            return drop is not None, float(rank)

        keys = list(actions)
        ranked = sorted(
            (keys[index] for index in strategy.order(len(keys), self._rng)), key=expected
        )
        chosen = strategy.choose({key: actions[key] for key in ranked}, self.evaluated, affordable)
        self._race(at, {actions[key].assignment: gains[key] for key in chosen})
        for key in chosen:
            found = self._evaluate(actions[key].assignment)
            actions[key] = actions[key]._replace(accuracy=found)
            if found is not None and now is not None:
                self._drops[key] = now - found
        order = strategy.order(len(keys), self._rng)
        ranks = [(expected(key)[1], place) for key, place in zip(keys, order, strict=True)]
        taken = actions[keys[ranks.index(min(ranks))]]
        self.trace.append(
            Step(at.assignment, now, at.costs, at.score, tuple(actions.values()), taken)
        )
        return taken.assignment

    def _race(self, at: Position, gains: Mapping[Assignment, float]) -> None:
        """Evaluate new networks against each other, if the problem has a race."""
        race = self._problem.race
        new = [assignment for assignment in gains if assignment not in self.evaluated]
        if race is None or len(new) < 2 or at.assignment not in self.evaluated:
            return
        saved = np.array([gains[assignment] for assignment in new])
        found = race(at.assignment, new, lambda drops: drop_per_gain(drops, saved))
        self._budget -= len(new)
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
    """Walk by a strategy, then refine on the bounds of each problem in turn.

    A strategy with a ``walk_share`` of 1 walks alone, from the bounds of one problem to those of
    the next, each with its share of the evaluations. Another walks to the tightest bounds; then all
    problems learn from all evaluations, so together they cover the frontier of latency and
    accuracy.

    Args:
        problems: the same problem ``within`` different bounds, or one alone.
        strategy: which actions a step has, and how they rank.
        evaluations: how often ``accuracy`` may be called for all problems together; it is never
            called twice for one assignment.
        rng: draws what the model believes, breaks ties, orders actions of which nothing is known.
        start: where to start instead of at the largest network.
        known: accuracies that need no evaluation.

    Returns:
        For each problem the best; the walks' steps; accuracies in the order of their evaluation.

    Raises:
        InfeasibleTarget: nothing meets every bound of a problem; found before any evaluation.
        ValueError: no evaluation is allowed.
    """
    from nas.search.refinement import refine  # loads scipy, which the command line's help can spare

    problems = [problem.ready(evaluations) for problem in problems]
    canonical = problems[0].canonical
    seen = {canonical(assignment): found for assignment, found in (known or {}).items()}
    current = canonical(start) if start else problems[0].largest
    if strategy.walk_share < 1:
        tightest = max(problems, key=lambda problem: problem.excess(problem.largest))
        budget = max(1, round(strategy.walk_share * evaluations / len(problems)))
        walk = Walk(tightest, strategy, rng, budget, seen)
        walk.run(current)
        left = evaluations - (len(walk.evaluated) - len(seen))
        found, evaluated = refine(problems, evaluations=left, rng=rng, known=walk.evaluated)
        return Solution(tuple(found), tuple(walk.trace), evaluated)
    bests: list[Assignment] = []
    trace: list[Step] = []
    for problem in problems:
        walk = Walk(problem, strategy, rng, max(1, evaluations // len(problems)), seen)
        reached = walk.run(current)
        current = walk.trace[-1].taken.assignment if walk.trace else current
        seen = walk.evaluated
        trace += walk.trace
        bests.append(most_accurate(problem, seen, reached, strategy.preference))
    return Solution(tuple(bests), tuple(trace), seen)


def slim_greedily(
    problems: Sequence[Problem], *, evaluations: int, rng: np.random.Generator
) -> Solution:
    """Walk by ``Frontier`` with all evaluations, as published: a baseline.

    Where evaluations do not suffice for every action of every step, an action that was tried
    before is ranked by its last drop, and the most promising are evaluated again. Arguments and
    errors are those of ``slim_problems``.
    """
    return slim_problems(problems, Frontier(walk_share=1.0), evaluations=evaluations, rng=rng)


def most_accurate(
    problem: Problem,
    evaluated: Mapping[Assignment, float],
    default: Assignment,
    preference: Callable[[Problem, Assignment], float] = lambda *_: 0.0,
) -> Assignment:
    """Return the best of ``evaluated`` that meets the bounds, or the default where none does.

    Of equally accurate ones the highest ``preference`` decides, then their order.
    """
    return max(
        (assignment for assignment in evaluated if problem.fits(assignment)),
        key=lambda it: (evaluated[it], preference(problem, it)),
        default=default,
    )


def drop_per_gain(drops: Floats, gains: Floats) -> Floats:
    """Return drops per gain, the least is the best; where accuracy rises, more of either is."""
    return np.where(drops > 0, drops / gains, drops * gains)


def _raising(
    problem: Problem, current: Assignment, is_useful: Callable[[Costs], bool]
) -> dict[Key, Action]:
    """Return, for each choice, the next lower option that raises the score and is useful."""
    here = problem.score(problem.price(current))
    found: dict[Key, Action] = {}
    for choice, index in enumerate(current):
        for option in range(index - 1, -1, -1):
            lowered = problem.changed(current, choice, option)
            costs = problem.price(lowered)
            score = problem.score(costs)
            if score > here and is_useful(costs):
                found[choice, option] = Action(choice, option, lowered, costs, score)
                break
    return found
