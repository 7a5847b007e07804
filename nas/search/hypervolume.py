"""How much a set of networks covers: the area that a frontier dominates."""

from __future__ import annotations

from collections.abc import Iterable


def hypervolume(points: Iterable[tuple[float, float]], reference: tuple[float, float]) -> float:
    """The area between the frontier of (latency, accuracy) points and the reference point.

    Latency is better lower, accuracy higher; points that are not better than ``reference`` in both
    cover nothing.
    """
    slowest, floor = reference
    area = 0.0
    for latency, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if latency < slowest and accuracy > floor:
            area += (slowest - latency) * (accuracy - floor)
            floor = accuracy
    return area
