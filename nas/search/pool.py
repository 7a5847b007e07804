"""Feasible assignments and their prices: all of a small space, a growing part of a large one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Container, Sequence

import numpy as np
from numpy.typing import NDArray

from nas.search.problem import Assignment, Problem

Floats = NDArray[np.float64]
Values = Callable[[Floats, Floats], Floats]
"""Of N assignments, given as indicators (N, D) and logarithms of costs (N, K); (N,)."""

ENUMERABLE = 10_000
"""Spaces of up to so many assignments are priced as a whole, within seconds."""
RANDOM = 300
"""Random members that the pool of a larger space starts with."""
STARTS, MOVES, PAIRS, LOOKS = 2, 25, 400, 6
"""Climbs of a search; moves of a climb; pairs of changes that a move considers beside all single
ones; how many of the promising are priced until one fits."""
TOLERANCE = 0.005
"""Of estimated costs, in logarithms; what passes is priced before it counts."""


SMALLEST = 1e-4
"""Of the largest network's costs; less is taken for so much, as zero has no logarithm."""


class Pool:
    """Assignments that meet every bound, searched for those of which a model expects the most."""

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        """Raises InfeasibleTarget where nothing meets the bounds."""
        self.problem = problem
        self.members: dict[Assignment, None] = {}
        self._rng = rng
        self._choices = np.array([j for j, n in enumerate(problem.sizes) for _ in range(1, n)], int)
        self._options = np.array([v for n in problem.sizes for v in range(1, n)], int)
        largest = problem.price(problem.largest)
        self._floors = [max(SMALLEST * cost, SMALLEST) for cost in largest.values()]
        self._table: tuple[Floats, Floats] | None = None
        self._slopes: tuple[int, Floats] | None = None
        self.is_complete = math.prod(problem.sizes) <= ENUMERABLE
        if self.is_complete:
            everything = map(problem.canonical, itertools.product(*map(range, problem.sizes)))
            self.members = dict.fromkeys(one for one in everything if problem.fits(one))
        else:
            self.members = dict.fromkeys(problem.sample(rng) for _ in range(RANDOM))

    def unseen(self, seen: Container[Assignment]) -> list[Assignment]:
        """The members that are not in ``seen``."""
        return [member for member in self.members if member not in seen]

    def search(self, values: Values, seen: Container[Assignment]) -> Assignment | None:
        """The member of the highest value that is not in ``seen``; None if all are.

        Where the pool is a part of the space, its best are improved by changes of one choice or
        two, and what is found on the way joins the pool.
        """
        found = values(*self.table())
        members = list(self.members)
        order = np.argsort(-found, kind="stable")
        ranked = ((float(found[index]), members[index]) for index in order)
        best = next(((value, one) for value, one in ranked if one not in seen), None)
        for index in () if self.is_complete else order[:STARTS]:
            for value, one in self._climb(members[index], float(found[index]), values):
                if one not in seen and (best is None or value > best[0]):
                    best = value, one
        return best[1] if best else None

    def features(self, assignments: Sequence[Assignment]) -> tuple[Floats, Floats]:
        """Indicators of (choice >= option), (N, D), and logarithms of costs, (N, K)."""
        prices = [self.problem.price(one) for one in assignments]
        costs = [
            [math.log(max(it)) for it in zip(price.values(), self._floors, strict=True)]
            for price in prices
        ]
        return self._indicators(np.array(assignments, int)), np.array(costs, float)

    def table(self) -> tuple[Floats, Floats]:
        """The features of all members."""
        known = 0 if self._table is None else len(self._table[0])
        if self._table is None:
            self._table = self.features(list(self.members))
        elif known < len(self.members):
            new = self.features(list(self.members)[known:])
            self._table = (
                np.concatenate([self._table[0], new[0]]),
                np.concatenate([self._table[1], new[1]]),
            )
        return self._table

    def _indicators(self, assignments: NDArray[np.int_]) -> Floats:
        return (assignments[:, self._choices] >= self._options).astype(float)

    def _climb(
        self, start: Assignment, value: float, values: Values
    ) -> list[tuple[float, Assignment]]:
        """Where a local search from ``start`` leads, move by move."""
        path: list[tuple[float, Assignment]] = []
        step: tuple[float, Assignment] | None = (value, start)
        while step and len(path) < MOVES:
            step = self._better(*step, values)
            if step:
                path.append(step)
                self.members[step[1]] = None
        return path

    def _better(
        self, value: float, current: Assignment, values: Values
    ) -> tuple[float, Assignment] | None:
        """A neighbour of higher value that fits, the most promising first.

        Pricing is the slow part, so neighbours are priced only where their estimated costs fit.
        """
        neighbours = self._neighbours(current)
        indicators = self._indicators(neighbours)
        here, costs = self.features([current])
        estimates = costs + (indicators - here) @ self._cost_slopes()
        names = list(self.problem.price(current))
        fits = np.ones(len(neighbours), bool)
        for name, bound in self.problem.target.items():
            fits &= estimates[:, names.index(name)] <= math.log(max(bound, 1e-300)) + TOLERANCE
        expected = np.where(fits, values(indicators, estimates), -np.inf)
        for index in np.argsort(-expected, kind="stable")[:LOOKS]:
            if expected[index] <= value:
                break
            neighbour = self.problem.canonical(tuple(int(n) for n in neighbours[index]))
            if self.problem.fits(neighbour):
                exact = float(values(*self.features([neighbour]))[0])
                if exact > value + 1e-9:
                    return exact, neighbour
        return None

    def _neighbours(self, current: Assignment) -> NDArray[np.int_]:
        """All assignments that differ in one choice, and some of those that differ in two."""
        singles = np.array(
            [
                (choice, option)
                for choice, size in enumerate(self.problem.sizes)
                for option in range(size)
                if option != current[choice]
            ]
        )
        pairs = self._rng.integers(len(singles), size=(PAIRS, 2))
        pairs = pairs[singles[pairs[:, 0], 0] != singles[pairs[:, 1], 0]]
        changed = np.repeat(np.array([current], int), len(singles) + len(pairs), axis=0)
        changed[np.arange(len(singles)), singles[:, 0]] = singles[:, 1]
        rows = len(singles) + np.arange(len(pairs))
        for side in pairs.T:
            changed[rows, singles[side, 0]] = singles[side, 1]
        return changed

    def _cost_slopes(self) -> Floats:
        """How each indicator changes the logarithms of costs, (D, K), fitted to all prices."""
        priced = self.problem.priced()
        if self._slopes is None or len(priced) > 1.5 * self._slopes[0]:
            indicators, costs = self.features(priced)
            design = np.column_stack([np.ones(len(priced)), indicators])
            gram = design.T @ design + 1e-3 * np.eye(design.shape[1])
            slopes = np.asarray(np.linalg.solve(gram, design.T @ costs)[1:], float)
            self._slopes = len(priced), slopes
        return self._slopes[1]
