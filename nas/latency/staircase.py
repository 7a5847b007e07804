"""Channels form a staircase: which widths cost as much as a wider one, and how wide a step is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nas.architecture import Architecture
from nas.latency.graphs import chain, pointwise
from nas.latency.measure import Plan, Probe, measure_probes
from nas.latency.rows import Key
from nas.latency.runtime import Target
from nas.latency.table import LatencyTable
from nas.space import SearchSpace

STEPS = (1, 2, 4, 8, 16, 32)
"""Channels that a kernel may compute at once, in float32: one up to a tile of an accelerator."""

WIDTHS = tuple(range(20, 97, 4))
"""Multiples of 4: others are off the staircase, as onnxruntime's blocked layout needs 4."""

SWEEP_MAP = 14
SWEEP_PLAN = Plan(span_ms=0.5, least_visits=5, most_visits=10)

GAIN = 0.7
"""A wider step must lower the error of the finer one to this share to be believed."""


class Plateau(NamedTuple):
    """An option that is as slow as a dearer one; ms are sums of rows in the largest network."""

    choice: str
    option: str
    ms: float
    dearer_option: str
    dearer_ms: float


def plateaus(space: SearchSpace, table: LatencyTable) -> list[Plateau]:
    """Options whose rows are not cheaper than those of a dearer option, within the rows' noise.

    Each choice is looked at in the largest network, by the rows of the layers that it changes. Of
    several dearer options the dearest that costs no more is named.
    """
    largest = [len(options) - 1 for options in space.choices.values()]
    table.require_layers(space)
    found = []
    for place, (choice, options) in enumerate(space.choices.items()):
        networks = []
        for option in range(len(options)):
            assignment = tuple(largest[:place] + [option] + largest[place + 1 :])
            networks.append(_keys(space.decode(assignment)))
        for option in range(len(options) - 1):
            for dearer in range(len(options) - 1, option, -1):
                plateau = _compare(networks[option], networks[dearer], table)
                if plateau is not None:
                    names = str(options[option]), str(options[dearer])
                    found.append(Plateau(choice, names[0], plateau[0], names[1], plateau[1]))
                    break
    return found


def _keys(network: Architecture) -> Counter[Key]:
    return Counter((layer.signature, shape) for layer, shape in network.placed())


def _compare(
    cheaper: Counter[Key], dearer: Counter[Key], table: LatencyTable
) -> tuple[float, float] | None:
    """The ms of both, of the rows in which they differ, unless the cheaper is clearly faster."""
    sums, variance = [], 0.0
    for counts in (cheaper - dearer, dearer - cheaper):
        rows = [(table.rows[key], count) for key, count in counts.items()]
        sums.append(sum(count * row.ms for row, count in rows))
        variance += sum((count * (row.ms_high - row.ms_low) / 2) ** 2 for row, count in rows)
    if not cheaper - dearer:  # layers are left out: that saves whatever they cost
        return None
    return (sums[0], sums[1]) if sums[1] - sums[0] <= variance**0.5 else None


def measure_step(target: Target, rng: np.random.Generator) -> int:
    """The number of channels that the target computes at once, from a sweep of 1x1 convolutions."""
    probes = []
    for width in WIDTHS:
        graph = pointwise((width, SWEEP_MAP, SWEEP_MAP))
        probes.append(Probe(chain([graph] * 4), chain([graph] * 2), copies=2))
    measured = measure_probes(probes, target, rng=rng, plan=SWEEP_PLAN)
    return fit_step(WIDTHS, [it.ms for it in measured])


def fit_step(widths: Sequence[int], ms: Sequence[float]) -> int:
    """The step P for which ms = b0 + b1 P(c) + b2 P(c)^2 errs least, P(c) rounding c up to it.

    The finest step is kept unless a wider one explains clearly more.
    """
    errors: Mapping[int, float] = {step: _error(widths, ms, step) for step in STEPS}
    best = STEPS[0]
    for step in STEPS[1:]:
        if errors[step] < GAIN * errors[best]:
            best = step
    return best


def _error(widths: Sequence[int], ms: Sequence[float], step: int) -> float:
    """Root of the mean squared relative residual of the least squares fit."""
    truth = np.asarray(ms)
    padded = np.ceil(np.asarray(widths) / step) * step
    columns = np.stack([np.ones_like(padded), padded, padded**2], axis=1) / truth[:, None]
    weights, *_ = np.linalg.lstsq(columns, np.ones_like(truth), rcond=None)
    return float(np.sqrt(((columns @ weights - 1) ** 2).mean()))
