"""The methods that choose networks: slimming, and what it has to beat at equal evaluations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from nas import search
from nas.errors import UserError
from nas.search.problem import meets
from nas.slim.delivery import Candidates
from nas.slim.plan import target_text
from nas.slim.result import EvaluatedNetwork, MethodResult, WalkAction, WalkStep
from nas.space import Assignment, Choice
from nas.training.supernets import path_probabilities

CORRECTION_SHARE = 0.1
"""Of the evaluations; kept for the searches after a measurement above the target."""
UNIFORM_NETWORKS = 12
"""Uniformly scaled networks that are evaluated along the scale: a frontier of few points."""
Targets = Sequence[Mapping[str, float]]
BASELINES: Mapping[str, Callable[..., search.Solution]] = {
    "random": search.search_randomly,
    "evolution": search.evolve,
}
"""Random networks near the bounds, and Optuna's NSGA-II: searches to compare slimming with."""


class Method(ABC):
    """Chooses networks within bounds; ``trace`` holds the steps of a walk."""

    name: str

    def __init__(self, candidates: Candidates) -> None:
        self.candidates = candidates
        self.evaluated: dict[Assignment, float] = {}
        self.trace: list[search.Step] = []
        plan = candidates.plan
        self._rng = np.random.default_rng(plan.seed)
        self._left = plan.evaluations * len(plan.targets)
        self._kept = int(CORRECTION_SHARE * self._left)
        self._chosen: dict[frozenset[tuple[str, float]], Assignment] = {}

    def choose(self, bounds: Mapping[str, float]) -> Assignment:
        """The best network found within all bounds; the first call searches for all targets."""
        targets = self.candidates.plan.targets
        if not self._chosen:
            bests = self._search(targets, max(1, self._left - self._kept))
            self._chosen = {
                frozenset(target.items()): best for target, best in zip(targets, bests, strict=True)
            }
        key = frozenset(bounds.items())
        if key not in self._chosen:
            granted = max(1, min(self._left, self._kept // (2 * len(targets))))
            (self._chosen[key],) = self._search((bounds,), granted)
        return self._chosen[key]

    @abstractmethod
    def _search(self, targets: Targets, evaluations: int) -> Sequence[Assignment]:
        """The best network for each target; what it evaluates joins ``evaluated``."""

    def _spend(self, evaluated: Mapping[Assignment, float]) -> None:
        self._left -= len(evaluated.keys() - self.evaluated.keys())
        self.evaluated |= evaluated

    def _best(self, target: Mapping[str, float]) -> Assignment:
        """The most accurate evaluated network within a target; ValueError if there is none."""
        cost = self.candidates.prices.cost
        fitting = [one for one in self.evaluated if meets(cost(one), target)]
        return max(fitting, key=lambda one: self.evaluated[one])

    def result(self) -> MethodResult:
        """All that it evaluated; the area is that up to the largest network's cost and chance."""
        prices, target = self.candidates.prices, self.candidates.plan.targets[0]
        measure, *others = target
        within = {name: target[name] for name in others}
        evaluated = tuple(
            EvaluatedNetwork(order=order, assignment=one, costs=prices.cost(one), accuracy=accuracy)
            for order, (one, accuracy) in enumerate(self.evaluated.items())
        )
        points = [(it.costs[measure], it.accuracy) for it in evaluated if meets(it.costs, within)]
        corner = prices.cost(self.candidates.largest)[measure], 1 / prices.space.classes
        area = search.hypervolume(points, corner)
        return MethodResult(name=self.name, evaluated=evaluated, hypervolume=area)

    def steps(self) -> tuple[WalkStep, ...]:
        choices = self.candidates.space.typed_choices
        return tuple(
            WalkStep(
                costs=dict(step.costs),
                score=step.score,
                accuracy=step.accuracy,
                actions=tuple(_named(action, choices[action.choice]) for action in step.actions),
                taken=[action.assignment for action in step.actions].index(step.taken.assignment),
            )
            for step in self.trace
        )


def _named(action: search.Action, choice: Choice) -> WalkAction:
    return WalkAction(
        choice=choice.name,
        option=choice.options[action.option],
        costs=dict(action.costs),
        score=action.score,
        accuracy=action.accuracy,
    )


class Uniform(Method):
    """The largest network whose widths, expansions and depths all have the same share."""

    name = "uniform"

    def _search(self, targets: Targets, evaluations: int) -> list[Assignment]:  # noqa: ARG002
        space, problem = self.candidates.space, self.candidates.problem
        scaled = [search.scale_uniformly(space.uniform, problem.within(it)) for it in targets]
        found = [space.canonical(one) for one in scaled]
        between = []
        if self.candidates.plan.baselines:
            shares, most = np.linspace(0, 1, 100), max(map(sum, found))
            scale = dict.fromkeys(space.canonical(space.uniform(share)) for share in shares)
            smaller = [one for one in scale if one not in found and sum(one) < most]
            few = np.linspace(0, len(smaller) - 1, min(len(smaller), UNIFORM_NETWORKS - 1))
            between = [smaller[index] for index in few.round().astype(int)]
        for one in (*between, *found):
            self.evaluated[one] = self.candidates.accuracy(one)
        return found


class Baseline(Method):
    """A search that knows nothing of the order of choices; the best of all that it evaluated."""

    def __init__(self, candidates: Candidates, name: str) -> None:
        super().__init__(candidates)
        self.name = name
        stream = 1 + list(BASELINES).index(name)
        self._rng = np.random.default_rng([candidates.plan.seed, stream])

    def _search(self, targets: Targets, evaluations: int) -> list[Assignment]:
        problems = [self.candidates.problem.within(target) for target in targets]
        found = BASELINES[self.name](problems, evaluations=evaluations, rng=self._rng)
        self._spend(found.evaluated)
        missing = [one for one in found.bests if one not in self.evaluated]
        self._spend({one: self.candidates.accuracy(one) for one in missing})
        return [self._best(target) for target in targets]


class Slimming(Method):
    """From the largest network down; a correction goes on from where the walk ended."""

    name = "slimmed"

    def _search(self, targets: Targets, evaluations: int) -> Sequence[Assignment]:
        strategy = search.STRATEGIES[self.candidates.plan.strategy](_path_choices(self.candidates))
        found = search.slim_problems(
            [self.candidates.problem.within(target) for target in targets],
            strategy,
            evaluations=evaluations,
            rng=self._rng,
            start=self.trace[-1].taken.assignment if self.trace else None,
            known=self.evaluated,
        )
        self._spend(found.evaluated)
        self.trace += found.trace
        return found.bests


class Searched(Method):
    """The networks of a study that workers have evaluated together."""

    name = "searched"

    def __init__(
        self, candidates: Candidates, evaluated: Mapping[Assignment, float], folder: Path
    ) -> None:
        super().__init__(candidates)
        self.evaluated |= evaluated
        self.folder = folder

    def _search(self, targets: Targets, evaluations: int) -> list[Assignment]:  # noqa: ARG002
        (target,) = targets
        try:
            return [self._best(target)]
        except ValueError:
            missed = f"no network of the study meets {target_text(target)}"
            raise UserError(f"{self.folder}: {missed}; search with more --trials") from None


def _path_choices(candidates: Candidates) -> search.PathChoices:
    """The space and the supernet's probabilities, as a strategy may know them."""
    space = candidates.space
    stages = {slot.name: slot.stage for slot in space.slots}
    slots = [
        search.PathChoice(
            choice=space.kind_choices[slot],
            stage=stages[slot],
            probabilities=tuple(chances.values()),
            may_go=space.typed_choices[space.kind_choices[slot]].is_optional,
        )
        for slot, chances in path_probabilities(candidates.supernet).items()
    ]
    return search.PathChoices(slots, space.width_choices)
