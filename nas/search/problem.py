"""The input of every search: choices, their prices, how networks are judged, bounds to meet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from nas.errors import UserError

Assignment = tuple[int, ...]
"""The option of each choice, by its index; the cheapest option is 0."""
Costs = Mapping[str, float]
Floats = NDArray[np.float64]

Rank = Callable[[Floats], Floats]
"""From accuracy drops (..., candidates) to ranks of the same shape, the least is the best; a rank
grows with its own drop and depends on no other."""

Race = Callable[[Assignment, Sequence[Assignment], Rank], Sequence[float]]
"""From the current assignment, candidates and how drops rank, to accuracies: see ``run_race``."""

UNITS: Mapping[str, float] = MappingProxyType({"params": 3e6, "latency_ms": 1.0})
EXPONENTS: Mapping[str, float] = MappingProxyType({"params": 0.5, "latency_ms": 1.0})
"""The published weights of size and speed; the published units only rescale the score."""
SCALE_STEPS = 400
"""Shares of uniform scaling that are tried between 0 and 1; more than any choice has options."""


def mobile_efficiency_score(
    measures: Mapping[str, float],
    *,
    units: Mapping[str, float] = UNITS,
    exponents: Mapping[str, float] = EXPONENTS,
) -> float:
    """Return 100 times the product of (measure / unit) ** -exponent; higher is better.

    As EfficientFormer V2 (Li et al., ICCV 2023, section 3.3), with the minus sign that its write-up
    lacks. Raises ValueError if a measure with an exponent is missing, not positive, or has no unit.
    """
    score = 100.0
    for name, exponent in exponents.items():
        value = measures.get(name)
        if value is None or not value > 0 or not math.isfinite(value):
            raise ValueError(f"mobile efficiency score: {name} must be positive, got {value}")
        if name not in units:
            raise ValueError(f"mobile efficiency score: {name} has no unit")
        score *= (value / units[name]) ** -exponent
    return score


class InfeasibleTarget(UserError):  # noqa: N818 - the name that other programs catch
    """A bound that even the smallest network misses; ``least`` holds the costs that it reaches."""

    def __init__(self, target: Mapping[str, float], least: Costs) -> None:
        missed = ", ".join(
            f"{name} <= {bound:g} (least reachable: {least[name]:.4g})"
            for name, bound in target.items()
            if least[name] > bound
        )
        super().__init__(f"target out of reach: {missed}")
        self.target = dict(target)
        self.least = dict(least)


def meets(costs: Costs, target: Mapping[str, float]) -> bool:
    """Return whether every bound holds."""
    return all(costs[name] <= bound for name, bound in target.items())


def as_it_is(assignment: Assignment) -> Assignment:
    """Return the assignment: the canonical form where each makes a network of its own."""
    return assignment


def unjudged(assignment: Assignment) -> float:
    """Raise ValueError: stands in for the accuracy of a problem that is only priced."""
    raise ValueError(f"problem: it has no accuracy to judge {assignment} by")


@dataclass(frozen=True, eq=False)
class Problem:
    """Choices, their prices, their accuracies, and the bounds to meet.

    ``canonical`` returns the one assignment that stands for all that make the same network; only
    such are evaluated. ``race`` compares the actions of a step, instead of ``accuracy`` one by one;
    each counts as an evaluation. Raises ValueError if a bound names no cost.
    """

    sizes: tuple[int, ...]  # options of each choice, cheapest first
    cost: Callable[[Assignment], Costs]  # called once for each assignment
    accuracy: Callable[[Assignment], float]
    target: Mapping[str, float]  # upper bounds of costs
    canonical: Callable[[Assignment], Assignment] = as_it_is
    race: Race | None = None
    score: Callable[[Costs], float] = mobile_efficiency_score
    _prices: dict[Assignment, Costs] = field(default_factory=dict, repr=False)
    _asked: dict[Assignment, None] = field(default_factory=dict, repr=False, init=False)

    def __post_init__(self) -> None:
        names = self.price(self.smallest)
        for name in self.target:
            if name not in names:
                raise ValueError(f"slim: no cost is named '{name}'; there are {', '.join(names)}")

    def within(self, target: Mapping[str, float]) -> Problem:
        """Return the same problem with other bounds; both share what was priced."""
        return replace(self, target=target)

    def ready(self, evaluations: int) -> Problem:
        """Return the problem with ``priced`` empty, so that earlier searches have no influence."""
        if evaluations < 1:
            raise ValueError(f"slim: evaluations must be at least 1, got {evaluations}")
        problem = self.within(self.target)
        problem.feasible()
        return problem

    @property
    def smallest(self) -> Assignment:
        return self.canonical((0,) * len(self.sizes))

    @property
    def largest(self) -> Assignment:
        return self.canonical(tuple(size - 1 for size in self.sizes))

    def price(self, assignment: Assignment) -> Costs:
        self._asked[assignment] = None
        if assignment not in self._prices:
            self._prices[assignment] = costs = self.cost(assignment)
            for name, cost in costs.items():
                if math.isnan(cost):
                    raise ValueError(f"slim: {name} of {assignment} is no number, got {cost}")
        return self._prices[assignment]

    def judge(self, assignment: Assignment) -> float:
        """Return ``accuracy``; raises ValueError if that is no number, which nothing is above."""
        return _judged(assignment, self.accuracy(assignment))

    def judge_race(
        self, current: Assignment, candidates: Sequence[Assignment], rank: Rank
    ) -> list[float]:
        """Return what ``race`` finds of each candidate, likewise."""
        assert self.race is not None
        found = self.race(current, candidates, rank)
        return [_judged(one, accuracy) for one, accuracy in zip(candidates, found, strict=True)]

    def priced(self) -> list[Assignment]:
        """Return every assignment whose costs were asked here, not within other bounds."""
        return list(self._asked)

    def fits(self, assignment: Assignment) -> bool:
        return meets(self.price(assignment), self.target)

    def missed(self, assignment: Assignment) -> list[str]:
        costs = self.price(assignment)
        return [name for name, bound in self.target.items() if costs[name] > bound]

    def excess(self, assignment: Assignment) -> float:
        """Return the largest logarithm of (cost / bound); above 0 a bound is missed."""
        costs = self.price(assignment)
        ratios = [_ratio(costs[name], bound) for name, bound in self.target.items()]
        return max(ratios, default=-math.inf)

    def changed(self, assignment: Assignment, choice: int, option: int) -> Assignment:
        """Return the assignment with another option of one choice, in its canonical form."""
        return self.canonical((*assignment[:choice], option, *assignment[choice + 1 :]))

    def feasible(self) -> Assignment:
        """Return an assignment that meets every bound: the smallest, or one that changes lead to.

        Raises InfeasibleTarget, with the costs where no single change lowers the worst excess.
        """
        current = self.smallest
        options = [(choice, o) for choice, size in enumerate(self.sizes) for o in range(size)]
        while not self.fits(current):
            neighbours = [self.changed(current, *option) for option in options]
            best = min(neighbours, key=self.excess, default=current)
            if self.excess(best) >= self.excess(current):
                raise InfeasibleTarget(self.target, self.price(current))
            current = best
        return current

    def sample(self, rng: np.random.Generator) -> Assignment:
        """Return the last assignment that fits on a random path upwards from a feasible one."""
        start = self.feasible()
        climbs = [  # each choice climbs at a pace of its own, so that the paths differ in shape
            (time, choice)
            for choice, (here, size) in enumerate(zip(start, self.sizes, strict=True))
            for time in rng.random(size - 1 - here) ** math.exp(rng.normal())
        ]
        order = [choice for _, choice in sorted(climbs)]

        def climbed(count: int) -> Assignment:
            raised = list(start)
            for choice in order[:count]:
                raised[choice] += 1
            return self.canonical(tuple(raised))

        low, high = 0, len(order)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.fits(climbed(middle)) else (low, middle - 1)
        return climbed(low)

    def grow(
        self, assignment: Assignment, ceiling: Assignment, rng: np.random.Generator
    ) -> Assignment:
        """Return a larger assignment that fits and in which no choice can be raised any further.

        Choices are raised by one option at a time, in random order, up to those of ``ceiling``.
        """
        current, is_done = assignment, False
        while not is_done:
            is_done = True
            for choice in rng.permutation(len(current)).tolist():
                if current[choice] < ceiling[choice]:
                    raised = self.changed(current, choice, current[choice] + 1)
                    if raised != current and self.fits(raised):
                        current, is_done = raised, False
        return current


def scale_uniformly(scale: Callable[[float], Assignment], problem: Problem) -> Assignment:
    """Return ``scale`` of the largest share in [0, 1] that fits; raises InfeasibleTarget."""
    for step in range(SCALE_STEPS, -1, -1):
        assignment = scale(step / SCALE_STEPS)
        if problem.fits(assignment):
            return assignment
    raise InfeasibleTarget(problem.target, problem.price(scale(0.0)))


def hypervolume(points: Iterable[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Return the area between the frontier of (latency, accuracy) points and ``reference``."""
    slowest, floor = reference
    area = 0.0
    for latency, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if latency < slowest and accuracy > floor:
            area += (slowest - latency) * (accuracy - floor)
            floor = accuracy
    return area


def _judged(assignment: Assignment, accuracy: float) -> float:
    if not math.isfinite(accuracy):
        raise ValueError(f"slim: the accuracy of {assignment} must be finite, got {accuracy}")
    return accuracy


def _ratio(cost: float, bound: float) -> float:
    if bound <= 0 or cost <= 0:
        return math.copysign(math.inf, cost - bound) if cost != bound else 0.0
    return math.log(cost / bound)
