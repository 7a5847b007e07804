"""Whole networks, timed: they calibrate the sums of rows and show how far to trust them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nas.architecture import Architecture
from nas.latency.calibration import Calibration, fit_calibration
from nas.latency.measure import CLOCKS, Measurement, Plan, combine, measure
from nas.latency.probes import network_graph
from nas.latency.rows import Key, Row
from nas.latency.runtime import Target
from nas.latency.templates import LayerGraphs
from nas.latency.validation import Point, Validation, judge, noise_floor, spread_over, validate
from nas.space import SearchSpace

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

LEAST_HELD_OUT = 4
MOST_ROUNDS = 3

CANDIDATES = 600
"""Random networks among which those to measure are picked by their latency."""


NETWORK_PLAN = Plan(runs=5, span_ms=4.0, least_visits=5, most_visits=8, tolerance=0.015)
HASTY_PLAN = Plan(runs=3, span_ms=4.0, least_visits=6, most_visits=12, tolerance=0.015)


class Sample(NamedTuple):
    """How many networks the calibration is fitted on, how many are held out, and the passes.

    ``plan`` is that of one pass.
    """

    fitted: int
    held_out: int
    passes: int
    plan: Plan = NETWORK_PLAN


THOROUGH = Sample(fitted=16, held_out=24, passes=3)
"""8 networks would do for the calibration's factor alone."""
QUICK = Sample(fitted=8, held_out=12, passes=1, plan=HASTY_PLAN)

BATCH_BYTES = 150_000_000
"""All sessions of a batch are open at once; weights count here, the runtime packs a second copy."""


class Sizes(NamedTuple):
    """The sums of a network's rows."""

    ms: float
    params: int
    macs: int


def calibrate(
    space: SearchSpace,
    rows: Mapping[Key, Row],
    target: Target,
    graphs: LayerGraphs,
    rng: np.random.Generator,
    *,
    sample: Sample,
    tell: Progress,
) -> tuple[Calibration, Validation | None]:
    """Measure random networks between the smallest and the largest of ``space``.

    Some of them, evenly spread, fit the calibration, the others validate it; in a space with too
    few networks to hold any out there is no validation. A validation that fails is measured on,
    up to ``MOST_ROUNDS`` times as long: on a busy machine the networks' noise may be to blame.
    """
    networks = pick_networks(space, rows, rng, sample.fitted + sample.held_out)
    sizes = [network_sizes(rows, network) for network in networks]
    measured = measure_networks(networks, target, graphs, rng, tell, sample.passes, sample.plan)
    fitted = _fit(sizes, measured, target, sample)
    for _ in range(MOST_ROUNDS - 1):
        if fitted[1] is None or not judge(fitted[1]).failures:
            break
        more = measure_networks(networks, target, graphs, rng, tell, sample.passes, sample.plan)
        measured = [combine(pair, target) for pair in zip(measured, more, strict=True)]
        fitted = _fit(sizes, measured, target, sample)
    return fitted


def _fit(
    sizes: Sequence[Sizes], measured: Sequence[Measurement], target: Target, sample: Sample
) -> tuple[Calibration, Validation | None]:
    """The calibration on some of the networks, and its figures on the others."""
    fitted, held = _split(len(sizes), sample.fitted)
    calibration = fit_calibration(
        [sizes[it].ms for it in fitted],
        [sizes[it].params for it in fitted],
        [measured[it].ms for it in fitted],
    )
    if len(held) < LEAST_HELD_OUT:
        return calibration, None
    points = [
        Point(
            sum_ms=size.ms,
            params=size.params,
            macs=size.macs,
            predicted_ms=calibration.latency(size.ms, size.params),
            measured_ms=found.ms,
            held_out=index in held,
        )
        for index, (size, found) in enumerate(zip(sizes, measured, strict=True))
    ]
    quantile = CLOCKS[target.statistic].quantile
    floor = noise_floor([measured[it].visits for it in held], quantile)
    return calibration, validate(points, floor)


def pick_networks(
    space: SearchSpace, rows: Mapping[Key, Row], rng: np.random.Generator, count: int
) -> list[Architecture]:
    """Different random networks, and the smallest and largest, from the fastest to the slowest."""
    found = [space.smallest(), space.largest()]
    found += [space.sample(rng) for _ in range(CANDIDATES)]
    networks = list(dict.fromkeys(found))
    sums = [network_sizes(rows, network).ms for network in networks]
    return [networks[index] for index in spread_over(sums, min(count, len(networks)))]


def measure_networks(
    networks: Sequence[Architecture],
    target: Target,
    graphs: LayerGraphs,
    rng: np.random.Generator,
    tell: Progress,
    passes: int,
    plan: Plan = NETWORK_PLAN,
) -> list[Measurement]:
    """Whole networks in random order, in batches that fit into memory.

    Several passes with other batches: a spell of other work on the machine then hits all alike.
    """
    found: list[list[Measurement]] = [[] for _ in networks]
    total = passes * len(networks)
    tell("networks", 0, total)
    for _ in range(passes):
        order = rng.permutation(len(networks)).tolist()
        while order:
            batch, size = {}, 0
            while order and size <= BATCH_BYTES:
                index = order.pop()
                batch[index] = network_graph(graphs, networks[index])
                size += batch[index].ByteSize()
            measured = measure(list(batch.values()), target, rng=rng, plan=plan)
            for index, measurement in zip(batch, measured, strict=True):
                found[index].append(measurement)
            tell("networks", sum(map(len, found)), total)
    return [combine(measurements, target) for measurements in found]


def network_sizes(rows: Mapping[Key, Row], network: Architecture) -> Sizes:
    """The sums of a network's rows."""
    found = [rows[(layer.signature, shape)] for layer, shape in network.placed()]
    return Sizes(
        sum(row.ms for row in found),
        sum(row.params for row in found),
        sum(row.macs for row in found),
    )


def _split(count: int, wanted: int) -> tuple[list[int], list[int]]:
    """Indices to fit on, evenly spread, and all others."""
    fitted = min(wanted, count)
    places = np.linspace(0, count - 1, 2 * fitted + 1)[1::2].round().astype(int).tolist()
    return places, [index for index in range(count) if index not in places]
