"""The methods that choose networks: slimming, and what it has to beat at equal evaluations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from nas import search
from nas.errors import UserError
from nas.search.problem import SCALE_STEPS, Costs, meets
from nas.slim.candidates import Candidates
from nas.slim.loop import is_clearly_better
from nas.slim.plan import target_text
from nas.slim.result import COUNTS, EvaluatedNetwork, MethodResult, WalkAction, WalkStep
from nas.space import Assignment, Choice
from nas.training.supernets import path_probabilities

CORRECTION_SHARE = 0.1
"""Of the evaluations; kept for the searches after a measurement above the target."""
NEAR = 0.96
"""The share of a bound from which a network counts as near it."""
UNIFORM_NETWORKS = 12
"""Uniformly scaled networks that are evaluated along the scale: a frontier of few points."""
Targets = Sequence[Costs]
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
        self._searched: dict[frozenset[tuple[str, float]], Assignment] = {}
        self._clearly_best: set[Assignment] = set()

    def choose(self, bounds: Costs) -> Assignment:
        """A network within all bounds, near them if that costs no clear difference in accuracy.

        The first call searches for all targets; later ones for new bounds, while evaluations last.
        """
        targets = self.candidates.plan.targets
        if not self._searched:
            bests = self._search(targets, max(1, self._left - self._kept))
            self._searched = {_key(it): best for it, best in zip(targets, bests, strict=True)}
        key = _key(bounds)
        if key not in self._searched:
            granted = min(self._left, self._kept // (2 * len(targets)))
            if granted < 1 and self._fitting(bounds):
                self._searched[key] = self._best(bounds)
            else:
                (self._searched[key],) = self._search((bounds,), max(1, granted))
        return self._near(self._searched[key], bounds)

    def explain(self, chosen: Assignment, ms: float) -> str:
        """Why a chosen network, measured at ``ms``, is not near its target."""
        if chosen in self._clearly_best:
            return "its network is clearly more accurate than those that it found near the target"
        return f"found no network between {ms:.3f} ms and the target"

    def _near(self, best: Assignment, bounds: Costs) -> Assignment:
        """The most accurate of those near the bounds; the best where it is clearly better.

        Where none is near, or none as good, one that the best is a part of joins them.
        """
        candidates = self.candidates
        if self._is_near(best, bounds):
            return best
        near = [one for one in self.evaluated if NEAR <= self._share(one, bounds) <= 1]
        accuracy, images = candidates.accuracy(best), len(candidates.dataset.search)

        def is_worse(one: Assignment) -> bool:
            return is_clearly_better(accuracy, self.evaluated[one], images)

        if all(map(is_worse, near)):
            near += self._grown(best, bounds)
        if not near:
            return best
        found = max(near, key=lambda one: (self.evaluated[one], self._share(one, bounds)))
        if not is_worse(found):
            return found
        if best not in self._clearly_best:
            self._clearly_best.add(best)
            candidates.progress.say(
                f"{self.name}: takes a network at {100 * self._share(best, bounds):.0f} % of its "
                f"bound, {100 * (accuracy - self.evaluated[found]):.1f} points more accurate than "
                "any near it"
            )
        return best

    def _is_near(self, network: Assignment, bounds: Costs) -> bool:
        """Whether it takes most of a bound, or nothing is measured."""
        return bounds.keys() <= set(COUNTS) or self._share(network, bounds) >= NEAR

    def _grown(self, network: Assignment, bounds: Costs) -> list[Assignment]:
        """The network and more, near the bounds; none if no evaluation is left or none is near."""
        problem, largest = self.candidates.problem.within(bounds), self.candidates.largest
        grown = problem.grow(network, largest, self._rng)
        if self._left < 1 or self._share(grown, bounds) < NEAR:
            return []
        self._spend({grown: self.candidates.accuracy(grown)})
        return [grown]

    def _share(self, network: Assignment, bounds: Costs) -> float:
        """The largest share of a bound that a network takes."""
        costs = self.candidates.prices.cost(network)
        return max(costs[name] / bound for name, bound in bounds.items())

    @abstractmethod
    def _search(self, targets: Targets, evaluations: int) -> Sequence[Assignment]:
        """The best network for each target; what it evaluates joins ``evaluated``."""

    def _spend(self, evaluated: Mapping[Assignment, float]) -> None:
        self._left -= len(evaluated.keys() - self.evaluated.keys())
        self.evaluated |= evaluated

    def _fitting(self, bounds: Costs) -> list[Assignment]:
        cost = self.candidates.prices.cost
        return [one for one in self.evaluated if meets(cost(one), bounds)]

    def _best(self, bounds: Costs) -> Assignment:
        """The most accurate evaluated network within bounds; ValueError if there is none."""
        return max(self._fitting(bounds), key=lambda one: self.evaluated[one])

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


def _key(bounds: Costs) -> frozenset[tuple[str, float]]:
    return frozenset(bounds.items())


def _named(action: search.Action, choice: Choice) -> WalkAction:
    return WalkAction(
        choice=choice.name,
        option=choice.options[action.option],
        costs=dict(action.costs),
        score=action.score,
        accuracy=action.accuracy,
    )


class Uniform(Method):
    """The largest network whose widths, expansions and depths all have the same share.

    Between two of these the smaller one is enlarged by as much of the larger as the bounds allow.
    """

    name = "uniform"

    def choose(self, bounds: Costs) -> Assignment:
        """The largest share that is within all bounds, and a part of the next if it is not near."""
        if not self.evaluated:
            self._search(self.candidates.plan.targets, 1)
        (found,) = self._search((bounds,), 1)
        if self._is_near(found, bounds):
            return found
        problem = self.candidates.problem.within(bounds)
        grown = problem.grow(found, self._above(problem), self._rng)
        self.evaluated[grown] = self.candidates.accuracy(grown)
        return grown

    def _above(self, problem: search.Problem) -> Assignment:
        """The smallest scaled network that is not within the bounds of the problem."""
        canonical, uniform = self.candidates.space.canonical, self.candidates.space.uniform
        scale = (canonical(uniform(share)) for share in np.linspace(0, 1, SCALE_STEPS + 1))
        return next((one for one in scale if not problem.fits(one)), self.candidates.largest)

    def _search(self, targets: Targets, evaluations: int) -> list[Assignment]:  # noqa: ARG002
        space, problem = self.candidates.space, self.candidates.problem
        scaled = [search.scale_uniformly(space.uniform, problem.within(it)) for it in targets]
        found = [space.canonical(one) for one in scaled]
        between = []
        if self.candidates.plan.baselines and not self.evaluated:
            shares, most = np.linspace(0, 1, 100), max(map(sum, found))
            scale = dict.fromkeys(space.canonical(space.uniform(share)) for share in shares)
            smaller = [one for one in scale if one not in found and sum(one) < most]
            few = np.linspace(0, len(smaller) - 1, min(len(smaller), UNIFORM_NETWORKS - 1))
            between = [smaller[index] for index in few.round().astype(int)]
        for one in (*between, *found):
            self.evaluated[one] = self.candidates.accuracy(one)
        return found

    def explain(self, chosen: Assignment, ms: float) -> str:  # noqa: ARG002
        return f"no scaled network lies between {ms:.3f} ms and the target"


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

    def _grown(self, network: Assignment, bounds: Costs) -> list[Assignment]:  # noqa: ARG002
        """None: the network to deliver is one of the study's."""
        return []

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
