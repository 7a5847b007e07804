"""Who chooses networks: slimming, and what it has to beat at the same number of evaluations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar

import numpy as np

from nas.delivery.plan import Strategy
from nas.delivery.workshop import Workshop
from nas.search import (
    PathChoice,
    SlimmingResult,
    evolve,
    scale_uniformly,
    search_randomly,
    slim,
    slim_by_importance,
)
from nas.search.problem import meets
from nas.search.slimming import Step
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
        self._left = 0

    def begin_target(self) -> None:
        """Grant the evaluations for one more target."""
        self._left += self.workshop.plan.evaluations

    @abstractmethod
    def choose(self, bounds: Mapping[str, float]) -> Assignment:
        """The best network found that meets all bounds."""

    def _granted(self) -> int:
        return max(1, self._left - int(CORRECTION_SHARE * self._left))


class Uniform(Method):
    """The largest network whose widths, expansions and depths all have the same share."""

    name = "uniform"

    def choose(self, bounds: Mapping[str, float]) -> Assignment:
        space, cost = self.workshop.space, self.workshop.prices.cost
        best = space.canonical(scale_uniformly(space.uniform, cost, bounds))
        scale = (space.canonical(space.uniform(share)) for share in np.linspace(0, 1, 100))
        smaller = [one for one in dict.fromkeys(scale) if one != best and meets(cost(one), bounds)]
        if self.workshop.plan.baselines:
            few = np.linspace(0, len(smaller) - 1, min(len(smaller), UNIFORM_NETWORKS - 1))
            for index in few.round().astype(int):
                self.evaluated[smaller[index]] = self.workshop.accuracy(smaller[index])
        self.evaluated[best] = self.workshop.accuracy(best)
        return best


class Baseline(Method):
    """A search that knows nothing of the order of choices; the best of all that it evaluated."""

    search: ClassVar[Callable[..., SlimmingResult]]

    def __init__(self, workshop: Workshop, rng: np.random.Generator) -> None:
        super().__init__(workshop)
        self.rng = rng

    def choose(self, bounds: Mapping[str, float]) -> Assignment:
        space, cost = self.workshop.space, self.workshop.prices.cost
        found = type(self).search(
            space.sizes,
            cost,
            self.workshop.accuracy,
            bounds,
            evaluations=self._granted(),
            rng=self.rng,
            canonical=space.canonical,
        )
        self._left -= len(found.evaluated)
        self.evaluated |= found.evaluated
        fitting = [one for one in self.evaluated if meets(cost(one), bounds)]
        return max(fitting, key=lambda one: self.evaluated[one])


class Random(Baseline):
    """Random networks near the bounds."""

    name = "random"
    search = staticmethod(search_randomly)


class Evolution(Baseline):
    """Optuna's NSGA-II."""

    name = "evolution"
    search = staticmethod(evolve)


class Slimming(Method):
    """From the largest network down, each time on from where the last bounds were reached."""

    name = "slimmed"

    def __init__(self, workshop: Workshop, rng: np.random.Generator) -> None:
        super().__init__(workshop)
        self.trace: list[Step] = []
        self._walk = _walk(workshop, workshop.plan.strategy, rng)
        self._reached: Assignment | None = None

    def choose(self, bounds: Mapping[str, float]) -> Assignment:
        space = self.workshop.space
        found = self._walk(
            space.sizes,
            self.workshop.prices.cost,
            self.workshop.accuracy,
            bounds,
            evaluations=self._granted(),
            score=self.workshop.plan.score,
            start=self._reached,
            known=self.evaluated,
            canonical=space.canonical,
        )
        self._left -= len(found.evaluated) - len(self.evaluated)
        self.evaluated = dict(found.evaluated)
        self.trace += found.trace
        self._reached = found.trace[-1].taken.assignment if found.trace else self._reached
        return found.best


def _walk(
    workshop: Workshop, strategy: Strategy, rng: np.random.Generator
) -> Callable[..., SlimmingResult]:
    """The search of a strategy, with what it needs to know of the space and the supernet."""
    if strategy == "frontier":
        return partial(slim, rng=rng)
    space = workshop.space
    positions = {name: index for index, name in enumerate(space.choices)}
    stages = {slot.name: slot.stage for slot in space.slots}
    paths = [
        PathChoice(
            choice=positions[f"{slot}.kind"],
            stage=stages[slot],
            probabilities=tuple(chances.values()),
            may_go=next(iter(chances)) == "identity",
        )
        for slot, chances in path_probabilities(workshop.supernet).items()
    ]
    widths = {
        stage: positions[name]
        for stage in range(len(space.stages))
        if (name := f"stage{stage + 1}.width") in positions
    }
    return partial(slim_by_importance, paths=paths, widths=widths)
