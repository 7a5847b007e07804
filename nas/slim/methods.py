"""Who chooses networks: slimming, and what it has to beat at the same number of evaluations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np

from nas.search import (
    STRATEGIES,
    PathChoice,
    PathChoices,
    Problem,
    Solution,
    Step,
    evolve,
    scale_uniformly,
    search_randomly,
    slim_problems,
)
from nas.search.problem import meets
from nas.slim.workshop import Workshop
from nas.space import Assignment
from nas.training.paths import path_probabilities

CORRECTION_SHARE = 0.1
"""Of the evaluations; kept for what is asked again after a measurement above the target."""
UNIFORM_NETWORKS = 12
"""Uniformly scaled networks that are evaluated along the scale: a frontier of few points."""


class Method(ABC):
    """Chooses networks within bounds, and knows what it evaluated, in its order.

    ``name`` is what tables, pictures and reports call it.
    """

    name: ClassVar[str]

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self.evaluated: dict[Assignment, float] = {}
        plan = workshop.plan
        self._left = plan.evaluations * len(plan.targets)
        self._kept = int(CORRECTION_SHARE * self._left)
        self._chosen: dict[frozenset[tuple[str, float]], Assignment] = {}

    def choose(self, bounds: Mapping[str, float]) -> Assignment:
        """The best network found that meets all bounds.

        The first time it is asked, all targets of the plan are searched at once.
        """
        if not self._chosen:
            targets = self.workshop.plan.targets
            bests = self._search(targets, max(1, self._left - self._kept))
            self._chosen = {_key(it): best for it, best in zip(targets, bests, strict=True)}
        if _key(bounds) not in self._chosen:
            share = self._kept // (2 * len(self.workshop.plan.targets))
            granted = max(1, min(self._left, share))
            (self._chosen[_key(bounds)],) = self._search((bounds,), granted)
        return self._chosen[_key(bounds)]

    @abstractmethod
    def _search(
        self, targets: Sequence[Mapping[str, float]], evaluations: int
    ) -> Sequence[Assignment]:
        """The best network for each target; what it evaluates joins ``evaluated``."""

    def _spend(self, evaluated: Mapping[Assignment, float]) -> None:
        self._left -= len(evaluated.keys() - self.evaluated.keys())
        self.evaluated |= evaluated

    def _bests(self, targets: Sequence[Mapping[str, float]]) -> list[Assignment]:
        """Of all that was evaluated the most accurate network within each target."""
        cost = self.workshop.prices.cost
        return [
            max(
                (one for one in self.evaluated if meets(cost(one), target)),
                key=lambda one: self.evaluated[one],
            )
            for target in targets
        ]


class Uniform(Method):
    """The largest network whose widths, expansions and depths all have the same share."""

    name = "uniform"

    def _search(
        self,
        targets: Sequence[Mapping[str, float]],
        evaluations: int,  # noqa: ARG002
    ) -> list[Assignment]:
        found = [self._scale(target) for target in targets]
        if self.workshop.plan.baselines:
            for one in self._along_the_scale(found):
                self.evaluated[one] = self.workshop.accuracy(one)
        self.evaluated |= {one: self.workshop.accuracy(one) for one in found}
        return found

    def _scale(self, target: Mapping[str, float]) -> Assignment:
        space = self.workshop.space
        problem = self.workshop.problem.within(target)
        return space.canonical(scale_uniformly(space.uniform, problem))

    def _along_the_scale(self, found: Sequence[Assignment]) -> list[Assignment]:
        """A few networks from the smallest to the largest of those found."""
        space = self.workshop.space
        scale = dict.fromkeys(
            space.canonical(space.uniform(share)) for share in np.linspace(0, 1, 100)
        )
        sizes = [sum(one) for one in found]
        smaller = [one for one in scale if one not in found and sum(one) < max(sizes)]
        few = np.linspace(0, len(smaller) - 1, min(len(smaller), UNIFORM_NETWORKS - 1))
        return [smaller[index] for index in few.round().astype(int)]


class Baseline(Method):
    """A search that knows nothing of the order of choices; the best of all that it evaluated."""

    search: ClassVar[Callable[..., Solution]]

    def __init__(self, workshop: Workshop, rng: np.random.Generator) -> None:
        super().__init__(workshop)
        self.rng = rng

    def _search(self, targets: Sequence[Mapping[str, float]], evaluations: int) -> list[Assignment]:
        problems = _within(self.workshop.problem, targets)
        found = type(self).search(problems, evaluations=evaluations, rng=self.rng)
        self._spend(found.evaluated)
        missing = [one for one in found.bests if one not in self.evaluated]
        self._spend({one: self.workshop.accuracy(one) for one in missing})
        return self._bests(targets)


class Random(Baseline):
    """Random networks near the bounds."""

    name = "random"
    search = staticmethod(search_randomly)


class Evolution(Baseline):
    """Optuna's NSGA-II."""

    name = "evolution"
    search = staticmethod(evolve)


class Slimming(Method):
    """From the largest network down; a correction goes on from where the walk ended."""

    name = "slimmed"

    def __init__(self, workshop: Workshop, rng: np.random.Generator) -> None:
        super().__init__(workshop)
        self.trace: list[Step] = []
        self._rng = rng
        self._reached: Assignment | None = None

    def _search(
        self, targets: Sequence[Mapping[str, float]], evaluations: int
    ) -> Sequence[Assignment]:
        strategy = STRATEGIES[self.workshop.plan.strategy](_path_choices(self.workshop))
        found = slim_problems(
            _within(self.workshop.problem, targets),
            strategy,
            evaluations=evaluations,
            rng=self._rng,
            start=self._reached,
            known=self.evaluated,
        )
        self._spend(found.evaluated)
        self.trace += found.trace
        self._reached = found.trace[-1].taken.assignment if found.trace else self._reached
        return found.bests


def _key(bounds: Mapping[str, float]) -> frozenset[tuple[str, float]]:
    return frozenset(bounds.items())


def _within(problem: Problem, targets: Sequence[Mapping[str, float]]) -> list[Problem]:
    return [problem.within(target) for target in targets]


def _path_choices(workshop: Workshop) -> PathChoices:
    """Return what a strategy may know of the space and the supernet."""
    space = workshop.space
    stages = {slot.name: slot.stage for slot in space.slots}
    slots = [
        PathChoice(
            choice=space.kind_choices[slot],
            stage=stages[slot],
            probabilities=tuple(chances.values()),
            may_go=space.typed_choices[space.kind_choices[slot]].is_optional,
        )
        for slot, chances in path_probabilities(workshop.supernet).items()
    ]
    return PathChoices(slots, space.width_choices)
