"""Searching over integers and callables; nothing here knows of networks or loads torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from nas.search.importance import Importance, PathChoice, PathChoices
from nas.search.problem import (
    Assignment,
    Costs,
    InfeasibleTarget,
    Problem,
    Rank,
    as_it_is,
    hypervolume,
    mobile_efficiency_score,
    scale_uniformly,
)
from nas.search.racing import run_race
from nas.search.study import evolve, search_randomly
from nas.search.walk import Action, Frontier, Solution, Step, Strategy, slim_greedily, slim_problems

STRATEGIES: Mapping[str, Callable[[PathChoices], Strategy]] = {
    "frontier": lambda _: Frontier(),
    "importance": Importance,
}
"""How ``slim_problems`` goes down, by the names of ``nas slim --strategy``."""


def slim(
    sizes: Sequence[int],
    cost: Callable[[Assignment], Costs],
    accuracy: Callable[[Assignment], float],
    target: Mapping[str, float],
    *,
    evaluations: int,
    rng: np.random.Generator,
    score: Callable[[Costs], float] = mobile_efficiency_score,
    canonical: Callable[[Assignment], Assignment] = as_it_is,
) -> Solution:
    """Walk from the largest network to the bounds of ``target``, then refine on the bounds.

    For arguments see ``Problem``, for errors ``slim_problems``. ``cost`` is called some thousand
    times, ``accuracy`` at most ``evaluations`` times; ``evaluated`` of the result is in that order.
    """
    problem = Problem(tuple(sizes), cost, accuracy, target, canonical, score=score)
    return slim_problems([problem], Frontier(), evaluations=evaluations, rng=rng)


__all__ = [
    "STRATEGIES",
    "Action",
    "Frontier",
    "Importance",
    "InfeasibleTarget",
    "PathChoice",
    "PathChoices",
    "Problem",
    "Rank",
    "Solution",
    "Step",
    "Strategy",
    "evolve",
    "hypervolume",
    "mobile_efficiency_score",
    "run_race",
    "scale_uniformly",
    "search_randomly",
    "slim",
    "slim_greedily",
    "slim_problems",
]
