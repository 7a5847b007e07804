"""Refinement: evaluate what a model of all evaluations expects the most of, and learn from it.

A walk never takes a removal back, and meets the bounds at one network only. So a part of the
evaluations goes to where the optimum is: on the bounds. Thompson sampling: each next network is the
best one according to a draw from the model's posterior.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from nas.search.model import Encoder, Floats, Posterior
from nas.search.pool import Pool
from nas.search.problem import Assignment, Problem

RANDOM_SHARE = 0.1
"""Of the evaluations; random networks near the bounds, before the model has a say. At least one of
each problem's own: a model that saw cheap networks only may expect nothing of dear ones."""
BOLDNESS = 0.5
"""How far draws stray from the mean. 1 is Thompson sampling, which looks around for too long where
evaluations are hardly more than options: benchmarks/search.py."""
GROWTH = 1.1
"""The model's deviations are fitted again when evaluations have grown by this factor."""
MISSES = 100
"""Random networks in a row that were evaluated before, after which no more are tried."""
DRAWS = 100
"""For each so many evaluations one draw more is taken from a posterior, as it takes longer."""


def refine(
    problems: Sequence[Problem],
    accuracy: Callable[[Assignment], float],
    *,
    evaluations: int,
    rng: np.random.Generator,
    known: Mapping[Assignment, float],
) -> tuple[list[Assignment], dict[Assignment, float]]:
    """For each problem the best assignment that meets its bounds; all evaluated, ``known`` first.

    The problems differ in their bounds only. They propose in turn, and learn from all evaluations.

    Args:
        problems: what to choose from.
        accuracy: of an assignment in its canonical form; never asked twice for one.
        evaluations: how often ``accuracy`` may be called.
        rng: draws the first networks, and what the model believes.
        known: accuracies of canonical assignments, which need not meet the bounds.

    Raises:
        InfeasibleTarget: nothing meets the bounds.
        ValueError: nothing that meets them is known, and nothing may be evaluated.
    """
    pools = [Pool(problem, rng) for problem in problems]
    evaluated = dict(known)
    for pool in pools:
        feasible = [one for one in evaluated if pool.problem.fits(one)]
        pool.members.update(dict.fromkeys(feasible))
        if evaluations < 1 and not feasible:
            raise ValueError(f"refine: evaluations must be at least 1, got {evaluations}")
    share = -(-evaluations // len(pools))
    proposals = _in_turn(
        [_proposals(it, _tighter(it.problem, problems), evaluated, share, rng) for it in pools]
    )
    for one in itertools.islice(proposals, evaluations):
        evaluated[one] = accuracy(one)
    return [_best(pool, evaluated) for pool in pools], evaluated


def _in_turn(proposals: Sequence[Iterator[Assignment]]) -> Iterator[Assignment]:
    """One of each iterator after the other, while there are some."""
    left = list(proposals)
    while left:
        for iterator in tuple(left):
            one = next(iterator, None)
            if one is None:
                left.remove(iterator)
            else:
                yield one


def _tighter(problem: Problem, problems: Sequence[Problem]) -> list[Problem]:
    """Those whose bounds the largest network misses by more."""
    excess = problem.excess(problem.largest)
    return [one for one in problems if one.excess(one.largest) > excess]


def _proposals(
    pool: Pool,
    tighter: Sequence[Problem],
    evaluated: Mapping[Assignment, float],
    share: int,
    rng: np.random.Generator,
) -> Iterator[Assignment]:
    """What to evaluate for a pool that has ``share`` evaluations; ``evaluated`` grows meanwhile."""
    if pool.is_complete and len(pool.unseen(evaluated)) <= share:
        yield from (member for member in pool.unseen(evaluated) if member not in evaluated)
        return
    own = sum(
        pool.problem.fits(one) and not any(other.fits(one) for other in tighter)
        for one in evaluated
    )
    first = round(RANDOM_SHARE * (share + own)) - own
    yield from itertools.islice(_samples(pool, evaluated, rng), max(first, not own))
    yield from _promising(pool, evaluated, rng)


def _samples(
    pool: Pool, evaluated: Mapping[Assignment, float], rng: np.random.Generator
) -> Iterator[Assignment]:
    """Random assignments near the bounds that are not in ``evaluated``, while there are some."""
    misses = 0
    while misses < MISSES:
        one = pool.problem.sample(rng)
        if one in evaluated:
            misses += 1
        else:
            pool.members[one] = None
            yield one


def _promising(
    pool: Pool, evaluated: Mapping[Assignment, float], rng: np.random.Generator
) -> Iterator[Assignment]:
    """Of one draw after the other the best that is not in ``evaluated``, which may grow."""
    encode = Encoder(pool.problem.sizes, *pool.table())
    posterior, fitted = None, 0.0
    while True:
        if posterior is None or len(evaluated) > GROWTH * fitted:
            posterior, fitted = _posterior(pool, encode, evaluated, None), len(evaluated)
        else:
            posterior = _posterior(pool, encode, evaluated, posterior.deviations)
        for _ in range(1 + len(evaluated) // DRAWS):
            draw = posterior.draw(rng, BOLDNESS)
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
    """The best by the mean of observation and expectation; by observation where all is known.

    The expectation shrinks observations that are high by luck, and the observation makes up for
    what the model cannot express.
    """
    feasible = [one for one in evaluated if pool.problem.fits(one)]
    merits = {one: evaluated[one] for one in feasible}
    if not (pool.is_complete and all(member in evaluated for member in pool.members)):
        encode = Encoder(pool.problem.sizes, *pool.table())
        posterior = _posterior(pool, encode, evaluated, None)
        expected = posterior.mean(encode(*pool.features(feasible)))
        merits = {
            one: (merit + float(mean)) / 2
            for (one, merit), mean in zip(merits.items(), expected, strict=True)
        }
    # of equally good ones the dearest: few images tie often, and more capacity seldom hurts
    return max(merits, key=lambda one: (merits[one], pool.problem.excess(one)))
