"""The closed loop: choose, export, measure, and again until the measurement meets the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nas.errors import UserError
from nas.slim.network import Delivered
from nas.slim.workshop import Workshop
from nas.space import Assignment

CORRECTIONS = 12
"""Rounds of measuring and choosing again, at most."""
LEAST_CORRECTION = 0.995
"""A bound is lowered to this share at most, so that every round changes something."""


def deliver_within(
    workshop: Workshop,
    name: str,
    target: Mapping[str, float],
    choose: Callable[[Mapping[str, float]], Assignment],
) -> Delivered:
    """The network that ``choose`` finds within ``target`` and whose measured latencies meet it.

    Where one is above its bound, the bound on predictions is lowered by the same factor.

    Raises:
        InfeasibleTarget: nothing meets the lowered bounds.
        UserError: no network met the target when measured.
    """
    bounds = dict(target)
    missed = ""
    for _ in range(CORRECTIONS):
        delivered = workshop.deliver(name, target, choose(bounds))
        if not delivered.missed:
            return delivered
        for missed in delivered.missed:
            found = delivered.measured[missed]
            workshop.progress.say(f"{name}: measured {found.ms:.3f} ms, above the target; going on")
            allowed = target[missed] * delivered.costs[missed] / found.ms_high
            bounds[missed] = min(allowed, bounds[missed] * LEAST_CORRECTION)
    raise UserError(
        f"{name}: {target[missed]:g} ms not met when measured, after {CORRECTIONS} corrections; "
        f"the machine is too busy, or the table out of date: "
        f"nas check-lut {workshop.measured[missed].path}"
    )
