"""Searching over integers and callables; nothing here knows of networks or loads torch.

problem     choices, prices, bounds; the Mobile Efficiency Score, uniform scaling
walk        slimming step by step: the walk, and the strategy of EfficientFormer V2
importance  the strategy of EfficientFormer V1
refinement  what follows a walk: evaluate what a model of all evaluations expects the most of
model       that model, a Gaussian process
racing      candidates compared on growing parts of the same images
study       random search and evolution, the baselines; searches that workers share
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from nas.search.importance import PathChoice, PathChoices, slim_by_importance
from nas.search.problem import (
    Assignment,
    Costs,
    InfeasibleTarget,
    Problem,
    Race,
    Rank,
    as_it_is,
    hypervolume,
    mobile_efficiency_score,
    scale_uniformly,
)
from nas.search.racing import run_race
from nas.search.study import evolve, search_randomly
from nas.search.walk import Action, Solution, Step, slim_by_frontier, slim_greedily

STRATEGIES: Mapping[str, Callable[..., Solution]] = {
    "frontier": slim_by_frontier,
    "importance": slim_by_importance,
}
"""How slimming goes down, by the names of ``nas slim --strategy``. Each takes problems that differ
in their bounds, and ``evaluations``, ``rng``, ``start``, ``known`` and ``paths``, as
``slim_by_frontier`` describes them."""


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

    Args:
        sizes: number of options of each choice, cheapest first.
        cost: returns an assignment's costs, ``{"latency_ms": ..., "params": ...}``; called some
            thousand times, once for each assignment.
        accuracy: called at most ``evaluations`` times, never twice for one assignment.
        target: an upper bound for each cost that matters.
        evaluations: for walk and refinement together.
        rng: draws what the model believes, breaks ties, orders actions of which nothing is known.
        score: efficiency of costs, higher is better.
        canonical: returns the one assignment that stands for all that make the same network; by
            default each makes its own. Only canonical ones are evaluated and returned.

    Returns:
        ``best``, ``trace`` and ``evaluated``, the accuracies in the order of their evaluation.

    Raises:
        InfeasibleTarget: nothing meets every bound; found before anything is evaluated.
        ValueError: no evaluation is allowed, or a bound names no cost.
    """
    problem = Problem(tuple(sizes), cost, accuracy, target, canonical, score=score)
    return slim_by_frontier([problem], evaluations=evaluations, rng=rng)


__all__ = [
    "STRATEGIES",
    "Action",
    "InfeasibleTarget",
    "PathChoice",
    "PathChoices",
    "Problem",
    "Race",
    "Rank",
    "Solution",
    "Step",
    "evolve",
    "hypervolume",
    "mobile_efficiency_score",
    "run_race",
    "scale_uniformly",
    "search_randomly",
    "slim",
    "slim_by_frontier",
    "slim_by_importance",
    "slim_greedily",
]
