"""Uniform scaling, the baseline that every search has to beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nas.search.problem import Assignment, Costs, InfeasibleTarget, meets

STEPS = 400
"""Shares tried between 0 and 1; more than the options of any one choice."""


def scale_uniformly(
    scale: Callable[[float], Assignment],
    cost: Callable[[Assignment], Costs],
    target: Mapping[str, float],
) -> Assignment:
    """The assignment with the largest share, ``scale(share)`` in [0, 1], that meets every bound.

    Raises:
        InfeasibleTarget: even the share 0 misses a bound.
    """
    for step in range(STEPS, -1, -1):
        assignment = scale(step / STEPS)
        if meets(cost(assignment), target):
            return assignment
    raise InfeasibleTarget(target, cost(scale(0.0)))
