"""What is searched: choices, their prices, and the bounds that prices must meet."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nas.errors import UserError

Assignment = tuple[int, ...]
Costs = Mapping[str, float]


class InfeasibleTarget(UserError):  # noqa: N818 - the name that other programs catch
    """A bound that even the smallest network misses; ``least`` holds what it reaches."""

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
    """Whether every bound holds."""
    return all(costs[name] <= bound for name, bound in target.items())


def as_it_is(assignment: Assignment) -> Assignment:
    """The canonical form where each assignment is a network of its own."""
    return assignment


@dataclass(frozen=True, eq=False)
class Problem:
    """Choices, prices and bounds.

    sizes: number of options of each choice, cheapest first.
    cost: of an assignment; asked once for each.
    target: an upper bound for each cost that matters.
    canonical: the one assignment that stands for all that make the same network; of equal cost.

    Raises:
        ValueError: a bound names no cost.
    """

    sizes: tuple[int, ...]
    cost: Callable[[Assignment], Costs]
    target: Mapping[str, float]
    canonical: Callable[[Assignment], Assignment] = as_it_is
    _prices: dict[Assignment, Costs] = field(default_factory=dict, repr=False, init=False)

    def __post_init__(self) -> None:
        names = self.price(self.smallest)
        for name in self.target:
            if name not in names:
                raise ValueError(f"slim: no cost is named '{name}'; there are {', '.join(names)}")

    @property
    def smallest(self) -> Assignment:
        """The cheapest option everywhere."""
        return self.canonical((0,) * len(self.sizes))

    @property
    def largest(self) -> Assignment:
        """The dearest option everywhere."""
        return self.canonical(tuple(size - 1 for size in self.sizes))

    def price(self, assignment: Assignment) -> Costs:
        """The costs, from memory where they were asked before."""
        if assignment not in self._prices:
            self._prices[assignment] = self.cost(assignment)
        return self._prices[assignment]

    def priced(self) -> list[Assignment]:
        """Every assignment whose costs were asked so far."""
        return list(self._prices)

    def fits(self, assignment: Assignment) -> bool:
        """Whether every bound holds."""
        return meets(self.price(assignment), self.target)

    def excess(self, assignment: Assignment) -> float:
        """By how much, in logarithms, the bound is missed that is missed most."""
        costs = self.price(assignment)
        return max(
            (_ratio(costs[name], bound) for name, bound in self.target.items()), default=-math.inf
        )

    def changed(self, assignment: Assignment, choice: int, option: int) -> Assignment:
        """The assignment with another option of one choice, in its canonical form."""
        return self.canonical((*assignment[:choice], option, *assignment[choice + 1 :]))

    def feasible(self) -> Assignment:
        """An assignment that meets every bound: the smallest, or one that changes lead to.

        Where costs grow with every option the smallest decides. Where they do not, single changes
        that lower the worst excess are followed from there.

        Raises:
            InfeasibleTarget: none was found; holds the least that was reached.
        """
        current = self.smallest
        while not self.fits(current):
            neighbours = [
                self.changed(current, choice, option)
                for choice, size in enumerate(self.sizes)
                for option in range(size)
            ]
            best = min(neighbours, key=self.excess, default=current)
            if self.excess(best) >= self.excess(current):
                raise InfeasibleTarget(self.target, self.price(current))
            current = best
        return current

    def sample(self, rng: np.random.Generator) -> Assignment:
        """A random assignment near the bounds: on a random path upwards, the last that fits.

        Each choice climbs at a pace of its own, so that the paths differ in shape.

        Raises:
            InfeasibleTarget: nothing meets every bound.
        """
        start = self.feasible()
        climbs = [
            (time, choice)
            for choice, (here, size) in enumerate(zip(start, self.sizes, strict=True))
            for time in rng.random(size - 1 - here) ** math.exp(rng.normal())
        ]
        order = [choice for _, choice in sorted(climbs)]
        low, high = 0, len(order)
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.fits(self._climbed(start, order[:middle]))
            low, high = (middle, high) if fits else (low, middle - 1)
        return self._climbed(start, order[:low])

    def _climbed(self, start: Assignment, order: Sequence[int]) -> Assignment:
        """Where raising these choices by one option each leads."""
        raised = list(start)
        for choice in order:
            raised[choice] += 1
        return self.canonical(tuple(raised))


def solvable(
    sizes: Sequence[int],
    cost: Callable[[Assignment], Costs],
    target: Mapping[str, float],
    canonical: Callable[[Assignment], Assignment],
    evaluations: int,
) -> Problem:
    """A problem that a search can solve.

    Raises:
        InfeasibleTarget: nothing meets every bound.
        ValueError: no evaluation is allowed, or a bound names no cost.
    """
    if evaluations < 1:
        raise ValueError(f"slim: evaluations must be at least 1, got {evaluations}")
    problem = Problem(tuple(sizes), cost, target, canonical)
    problem.feasible()
    return problem


def _ratio(cost: float, bound: float) -> float:
    if bound <= 0 or cost <= 0:
        return math.copysign(math.inf, cost - bound) if cost != bound else 0.0
    return math.log(cost / bound)
