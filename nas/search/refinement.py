"""Refinement: evaluate what a model of all evaluations expects the most of, and learn from it.

A walk never takes a removal back, and meets the bounds at one network only. So a part of the
evaluations goes to where the optimum is: on the bounds. Thompson sampling: each next network is the
best one according to a draw from the model's posterior. It is searched for in a ``Pool`` of
assignments that meet the bounds: all of a small space, a growing part of a large one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nas.search.model import Encoder, Posterior
from nas.search.problem import Assignment, Floats, Problem

Values = Callable[[Floats, Floats], Floats]
"""Of N assignments, given as indicators (N, D) and logarithms of costs (N, K); (N,)."""

RANDOM_SHARE = 0.1
"""Part of the evaluations that goes to random networks near the bounds, before the model has a say;
at least one for each problem, as a model that saw cheap networks only may expect nothing of
expensive ones."""
EXPLORATION = 0.5
"""How far draws stray from the mean. 1 is Thompson sampling, which explores for too long where
evaluations are hardly more than options: see benchmarks/README.md."""
GROWTH = 1.1
"""The model's deviations are fitted again when evaluations have grown by this factor."""
MISSES = 100
"""Random networks in a row that were evaluated before, after which no more are tried."""
DRAWS = 100
"""For each so many evaluations one draw more is taken from a posterior, as it takes longer."""
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


def refine(
    problems: Sequence[Problem],
    *,
    evaluations: int,
    rng: np.random.Generator,
    known: Mapping[Assignment, float],
) -> tuple[list[Assignment], dict[Assignment, float]]:
    """Return for each problem the best assignment that meets its bounds, and all accuracies.

    The problems propose in turn, and learn from all evaluations.

    Args:
        problems: the same problem ``within`` different bounds, or one alone.
        evaluations: how often ``accuracy`` may be called; it is never called twice for one.
        rng: draws the first networks, and what the model believes.
        known: accuracies of canonical assignments, which need not meet the bounds; they come back
            first.

    Raises:
        InfeasibleTarget: nothing meets the bounds.
        ValueError: nothing that meets them is known, and nothing may be evaluated.
    """
    pools = [Pool(problem, rng) for problem in problems]
    evaluated = dict(known)
    for pool in pools:
        feasible = [it for it in evaluated if pool.problem.fits(it)]
        pool.members.update(dict.fromkeys(feasible))
        if evaluations < 1 and not feasible:
            raise ValueError(f"refine: evaluations must be at least 1, got {evaluations}")
    share = -(-evaluations // len(pools))
    proposals = _in_turn([_proposals(pool, problems, evaluated, share, rng) for pool in pools])
    for assignment in itertools.islice(proposals, evaluations):
        evaluated[assignment] = problems[0].accuracy(assignment)
    return [_best(pool, evaluated) for pool in pools], evaluated


class Pool:
    """Assignments that meet every bound, and a search for the one of the highest value."""

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        """Raises InfeasibleTarget where nothing meets the bounds."""
        self.problem = problem
        self.members: dict[Assignment, None] = {}
        self._rng = rng
        self._choices = np.array([j for j, n in enumerate(problem.sizes) for _ in range(1, n)], int)
        self._options = np.array([v for n in problem.sizes for v in range(1, n)], int)
        largest = problem.price(problem.largest)
        self._floors = [max(SMALLEST * cost, SMALLEST) for cost in largest.values()]
        self._table = np.empty((0, len(self._options))), np.empty((0, len(largest)))
        self._slopes: tuple[int, Floats] | None = None
        self.is_complete = math.prod(problem.sizes) <= ENUMERABLE
        if self.is_complete:
            everything = map(problem.canonical, itertools.product(*map(range, problem.sizes)))
            self.members = dict.fromkeys(it for it in everything if problem.fits(it))
        else:
            self.members = dict.fromkeys(problem.sample(rng) for _ in range(RANDOM))

    def search(self, values: Values, seen: Container[Assignment]) -> Assignment | None:
        """Return the member of the highest value that is not in ``seen``; None if all are.

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
        """Return indicators of (choice >= option), (N, D), and logarithms of costs, (N, K)."""
        prices = [self.problem.price(assignment) for assignment in assignments]
        costs = [
            [math.log(max(pair)) for pair in zip(price.values(), self._floors, strict=True)]
            for price in prices
        ]
        return self._indicators(np.array(assignments, int)), np.array(costs, float)

    def table(self) -> tuple[Floats, Floats]:
        """Return the features of all members."""
        new = list(self.members)[len(self._table[0]) :]
        if new:
            indicators, costs = self.features(new)
            self._table = (
                np.concatenate([self._table[0], indicators]),
                np.concatenate([self._table[1], costs]),
            )
        return self._table

    def _indicators(self, assignments: NDArray[np.int_]) -> Floats:
        return (assignments[:, self._choices] >= self._options).astype(float)

    def _climb(
        self, start: Assignment, value: float, values: Values
    ) -> list[tuple[float, Assignment]]:
        """Return where a local search from ``start`` leads, move by move."""
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
        """Return a neighbour of higher value that fits, the most promising first.

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
        """Return all assignments that differ in one choice, and some that differ in two."""
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
        """Return how each indicator changes the logarithms of costs, (D, K), by all prices."""
        priced = self.problem.priced()
        if self._slopes is None or len(priced) > 1.5 * self._slopes[0]:
            indicators, costs = self.features(priced)
            design = np.column_stack([np.ones(len(priced)), indicators])
            gram = design.T @ design + 1e-3 * np.eye(design.shape[1])
            slopes = np.asarray(np.linalg.solve(gram, design.T @ costs)[1:], float)
            self._slopes = len(priced), slopes
        return self._slopes[1]


def _in_turn(proposals: Sequence[Iterator[Assignment]]) -> Iterator[Assignment]:
    """Yield one of each iterator after the other, while there are some."""
    left = list(proposals)
    while left:
        for iterator in tuple(left):
            proposed = next(iterator, None)
            if proposed is None:
                left.remove(iterator)
            else:
                yield proposed


def _proposals(
    pool: Pool,
    problems: Sequence[Problem],
    evaluated: Mapping[Assignment, float],
    share: int,
    rng: np.random.Generator,
) -> Iterator[Assignment]:
    """Yield what to evaluate for a pool that has ``share`` evaluations; ``evaluated`` may grow."""
    unseen = [member for member in pool.members if member not in evaluated]
    if pool.is_complete and len(unseen) <= share:
        yield from (member for member in unseen if member not in evaluated)
        return
    excess = pool.problem.excess(pool.problem.largest)
    tighter = [other for other in problems if other.excess(other.largest) > excess]
    own = sum(
        pool.problem.fits(it) and not any(other.fits(it) for other in tighter) for it in evaluated
    )
    first = round(RANDOM_SHARE * (share + own)) - own
    yield from itertools.islice(_samples(pool, evaluated, rng), max(first, not own))
    yield from _promising(pool, evaluated, rng)


def _samples(
    pool: Pool, evaluated: Mapping[Assignment, float], rng: np.random.Generator
) -> Iterator[Assignment]:
    """Yield random assignments near the bounds that are not in ``evaluated``."""
    misses = 0
    while misses < MISSES:
        sampled = pool.problem.sample(rng)
        if sampled in evaluated:
            misses += 1
        else:
            pool.members[sampled] = None
            yield sampled


def _promising(
    pool: Pool, evaluated: Mapping[Assignment, float], rng: np.random.Generator
) -> Iterator[Assignment]:
    """Yield the best of one draw after the other that is not in ``evaluated``, which may grow."""
    encode = Encoder(pool.problem.sizes, *pool.table())
    posterior, fitted = None, 0.0
    while True:
        if posterior is None or len(evaluated) > GROWTH * fitted:
            posterior, fitted = _posterior(pool, encode, evaluated, None), len(evaluated)
        else:
            posterior = _posterior(pool, encode, evaluated, posterior.deviations)
        for _ in range(1 + len(evaluated) // DRAWS):
            draw = posterior.draw(rng, EXPLORATION)
            found = pool.search(lambda *features, draw=draw: draw(encode(*features)), evaluated)
            if found is None:
                return
            yield found


def _posterior(
    pool: Pool,
    encode: Encoder,
    evaluated: Mapping[Assignment, float],
    deviations: Floats | None,
) -> Posterior:
    inputs = encode(*pool.features(list(evaluated)))
    return Posterior(inputs, list(evaluated.values()), deviations)


def _best(pool: Pool, evaluated: Mapping[Assignment, float]) -> Assignment:
    """Return the best by the mean of observation and expectation; by observation if all is known.

    The expectation shrinks observations that are high by luck, and the observation makes up for
    what the model cannot express.
    """
    feasible = [it for it in evaluated if pool.problem.fits(it)]
    merits = {it: evaluated[it] for it in feasible}
    if not (pool.is_complete and all(member in evaluated for member in pool.members)):
        encode = Encoder(pool.problem.sizes, *pool.table())
        posterior = _posterior(pool, encode, evaluated, None)
        expected = posterior.mean(encode(*pool.features(feasible)))
        merits = {
            it: (merit + float(mean)) / 2
            for (it, merit), mean in zip(merits.items(), expected, strict=True)
        }
    # of equally good ones the most expensive: a few images often tie, and capacity seldom hurts
    return max(merits, key=lambda it: (merits[it], pool.problem.excess(it)))
