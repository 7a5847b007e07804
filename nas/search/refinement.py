"""Refinement: evaluate the networks that a model of all evaluations expects the most of.

Thompson sampling: each next network is the best on the bounds according to a draw from the model's
posterior, among a ``Pool`` of assignments: all of a small space, a growing part of a large one.
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
"""From indicators (N, D) and logarithms of costs (N, K) of N assignments to their values (N,)."""

RANDOM_SHARE = 0.1
"""Part of the evaluations for random networks near the bounds first, at least one a problem."""
EXPLORATION = 0.5
"""How far draws stray from the mean; 1 is Thompson sampling: see benchmarks/README.md."""
GROWTH = 1.1
"""The model's deviations are fitted again when evaluations have grown by this factor."""
MISSES = 100
"""Random networks that were evaluated before, after which no more are tried."""
DRAWS = 100
"""For each so many evaluations one draw more is taken from a posterior, as it takes longer."""
ENUMERABLE = 10_000
"""Assignments of a space that is priced as a whole, within seconds, at most."""
RANDOM = 300
"""Random members that the pool of a larger space starts with."""
STARTS, MOVES, PAIRS, LOOKS = 2, 25, 400, 6
"""Climbs of a search; moves of a climb; pairs of changes and neighbours that a move looks at."""
TOLERANCE = 0.005
"""Of estimated costs, in logarithms; a neighbour is priced before it counts."""
SMALLEST = 1e-4
"""Least part of the largest network's costs that is told from zero, which has no logarithm."""


def refine(
    problems: Sequence[Problem],
    *,
    evaluations: int,
    rng: np.random.Generator,
    known: Mapping[Assignment, float],
) -> tuple[list[Assignment], dict[Assignment, float]]:
    """Return for each problem the best assignment that meets its bounds, and all accuracies.

    The problems, the same one ``within`` different bounds, propose in turn. ``known`` accuracies of
    canonical assignments come back first. Raises InfeasibleTarget if nothing meets the bounds,
    ValueError if nothing that does is known and nothing may be evaluated.
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
        evaluated[assignment] = problems[0].judge(assignment)
    return [_best(pool, evaluated) for pool in pools], evaluated


class Pool:
    """Assignments that meet every bound, and a search for the one of the highest value."""

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
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

        Moves from the best of an incomplete pool join it.
        """
        found = values(*self.table())
        members = list(self.members)
        order = np.argsort(-found, kind="stable")
        ranked = [(float(found[index]), members[index]) for index in order]
        best = next((member for member in ranked if member[1] not in seen), None)
        for start in () if self.is_complete else ranked[:STARTS]:
            value, current = start
            for _ in range(MOVES):
                step = self._better(value, current, values)
                if step is None:
                    break
                value, current = step
                self.members[current] = None
                if current not in seen and (best is None or value > best[0]):
                    best = step
        return best[1] if best else None

    def features(self, assignments: Sequence[Assignment]) -> tuple[Floats, Floats]:
        """Return indicators of (choice >= option), (N, D), and logarithms of costs, (N, K)."""
        prices = [self.problem.price(assignment).values() for assignment in assignments]
        priced = [zip(price, self._floors, strict=True) for price in prices]
        costs = [[math.log(max(pair)) for pair in pairs] for pairs in priced]
        return self._indicators(np.array(assignments, int)), np.array(costs, float)

    def table(self) -> tuple[Floats, Floats]:
        indicators, costs = self._table
        new = list(self.members)[len(indicators) :]
        if new:
            more = self.features(new)
            self._table = np.concatenate([indicators, more[0]]), np.concatenate([costs, more[1]])
        return self._table

    def _indicators(self, assignments: NDArray[np.int_]) -> Floats:
        return (assignments[:, self._choices] >= self._options).astype(float)

    def _better(
        self, value: float, current: Assignment, values: Values
    ) -> tuple[float, Assignment] | None:
        """Return the most promising neighbour that fits and has a higher value.

        Pricing is slow, so neighbours are priced only where their estimated costs fit.
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
        options = ((choice, o) for choice, n in enumerate(self.problem.sizes) for o in range(n))
        singles = np.array([it for it in options if it[1] != current[it[0]]])
        pairs = self._rng.integers(len(singles), size=(PAIRS, 2))
        pairs = pairs[singles[pairs[:, 0], 0] != singles[pairs[:, 1], 0]]
        changed = np.repeat(np.array([current], int), len(singles) + len(pairs), axis=0)
        changed[np.arange(len(singles)), singles[:, 0]] = singles[:, 1]
        rows = len(singles) + np.arange(len(pairs))
        for side in pairs.T:
            changed[rows, singles[side, 0]] = singles[side, 1]
        return changed

    def _cost_slopes(self) -> Floats:
        """Return by how much each indicator changes the logarithms of costs, (D, K)."""
        priced = self.problem.priced()
        if self._slopes is None or len(priced) > 1.5 * self._slopes[0]:
            indicators, costs = self.features(priced)
            design = np.column_stack([np.ones(len(priced)), indicators])
            gram = design.T @ design + 1e-3 * np.eye(design.shape[1])
            slopes = np.asarray(np.linalg.solve(gram, design.T @ costs)[1:], float)
            self._slopes = len(priced), slopes
        return self._slopes[1]


def _in_turn(proposals: Sequence[Iterator[Assignment]]) -> Iterator[Assignment]:
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
    """Yield ``share`` assignments of a pool to evaluate; ``evaluated`` may grow meanwhile."""
    unseen = [member for member in pool.members if member not in evaluated]
    if pool.is_complete and len(unseen) <= share:
        yield from (member for member in unseen if member not in evaluated)
        return
    excess = pool.problem.excess(pool.problem.largest)
    tighter = [other for other in problems if other.excess(other.largest) > excess]
    own = sum(
        pool.problem.fits(it) and not any(other.fits(it) for other in tighter) for it in evaluated
    )
    random = max(round(RANDOM_SHARE * (share + own)) - own, not own)
    misses = 0
    while random > 0 and misses < MISSES:
        sampled = pool.problem.sample(rng)
        if sampled in evaluated:
            misses += 1
        else:
            pool.members[sampled] = None
            random -= 1
            yield sampled
    encode = Encoder(pool.problem.sizes, *pool.table())
    deviations, fitted = None, 0
    while True:
        if len(evaluated) > GROWTH * fitted:
            deviations, fitted = None, len(evaluated)
        inputs = encode(*pool.features(list(evaluated)))
        posterior = Posterior(inputs, list(evaluated.values()), deviations)
        deviations = posterior.deviations
        for _ in range(1 + len(evaluated) // DRAWS):
            draw = posterior.draw(rng, EXPLORATION)
            found = pool.search(lambda *features, draw=draw: draw(encode(*features)), evaluated)
            if found is None:
                return
            yield found


def _best(pool: Pool, evaluated: Mapping[Assignment, float]) -> Assignment:
    """Return the best by the mean of observation and expectation; by observation if all is known.

    The expectation shrinks observations that are high by luck.
    """
    merits = {it: accuracy for it, accuracy in evaluated.items() if pool.problem.fits(it)}
    if not (pool.is_complete and all(member in evaluated for member in pool.members)):
        encode = Encoder(pool.problem.sizes, *pool.table())
        posterior = Posterior(encode(*pool.features(list(evaluated))), list(evaluated.values()))
        expected = posterior.mean(encode(*pool.features(list(merits))))
        for assignment, mean in zip(merits, expected, strict=True):
            merits[assignment] = (merits[assignment] + float(mean)) / 2
    # of equally good ones the most expensive: a few images often tie, and capacity seldom hurts
    return max(merits, key=lambda it: (merits[it], pool.problem.excess(it)))
