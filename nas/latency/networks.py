"""Layers and whole networks, timed; networks calibrate the sums of rows and check them later.

From one hour to the next everything on a machine can shift by 2 to 5 %: whole networks show it, and
one factor mends it, or two where large networks have shifted by more than small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from nas.architecture import Architecture
from nas.documents import Value
from nas.errors import UserError
from nas.families import Layer
from nas.latency.calibration import (
    Calibration,
    MeasuredNetwork,
    RowSums,
    Validation,
    fit_calibration,
    fit_factor,
    judge,
    reanchor,
    validate,
)
from nas.latency.graphs import LayerGraphs, Probe
from nas.latency.measure import (
    CLOCKS,
    LAYER_VISITS,
    Measurement,
    VisitPlan,
    combine,
    estimate,
    measure_probes,
)
from nas.latency.table import Anchor, Key, LatencyTable, Row, build_command, space_hash, sum_rows
from nas.latency.target import Target, detect_again
from nas.progress import SILENT, Progress
from nas.space import SearchSpace
from nas.statistics import kendall, spearman, spread_over, with_interval

T = TypeVar("T")

LEAST_HELD_OUT = 4
MOST_ROUNDS = 3

CANDIDATES = 600
"""Random networks among which those to measure are picked by their latency."""

BATCH_LAYERS = 24
"""Layers that take turns: their visits spread over seconds."""

BATCH_BYTES = 150_000_000
"""All sessions of a batch are open at once, and the runtime packs a second copy of weights."""

NETWORK_VISITS = VisitPlan(runs=5, span_ms=4.0, least_visits=5, most_visits=8, tolerance=0.015)
"""Of one pass."""

FINE, MENDABLE = 0.03, 0.10
"""Shifts up to these are within the difference from hour to hour, and mended by one factor."""

LEAST_SPEARMAN = 0.98

CHECK_PASSES = 2
"""One less than a build takes: the check is to answer within seconds."""

Action = Literal["none", "re-anchor", "rebuild"]


class NetworkSample(NamedTuple):
    """The networks that the calibration is fitted on, those held out, and how they are timed."""

    fitted: int
    held_out: int
    passes: int
    visits: VisitPlan = NETWORK_VISITS


class Drift(Value):
    """Measurements against predictions, as shares; ``mape_after``: with the new ``calibration``."""

    networks: int
    shift: float
    mape_before: float
    mape_after: float
    spearman: float
    kendall: float
    action: Action
    calibration: Calibration


@dataclass(frozen=True, eq=False)
class Runner:
    """Times layers and whole networks on a target; ``graphs`` may bring templates along."""

    target: Target
    rng: np.random.Generator
    graphs: LayerGraphs = field(default_factory=LayerGraphs)
    progress: Progress = SILENT

    def measure_layers(
        self,
        layers: Mapping[Key, Layer],
        *,
        plan: VisitPlan = LAYER_VISITS,
        batch: int = BATCH_LAYERS,
    ) -> Iterator[dict[Key, Measurement]]:
        """The latency of each layer inside a network, in random order, batch by batch."""
        keys = list(layers)
        order = [keys[index] for index in self.rng.permutation(len(keys))]
        self.progress.update("layers", 0, len(keys))
        for probes in _batches(order, lambda key: self.graphs.probe(layers[key], key[1]), batch):
            yield self._measure(probes, plan)
            self.progress.update("layers", len(keys) - len(order), len(keys))

    def measure_networks(
        self, networks: Sequence[Architecture], *, passes: int, plan: VisitPlan = NETWORK_VISITS
    ) -> list[Measurement]:
        """Whole networks in random order, in each pass in other batches: disturbances hit all."""
        found: list[list[Measurement]] = [[] for _ in networks]
        total = passes * len(networks)
        self.progress.update("networks", 0, total)
        for _ in range(passes):
            order = self.rng.permutation(len(networks)).tolist()
            for probes in _batches(order, lambda at: Probe(self.graphs.network(networks[at]))):
                for index, measurement in self._measure(probes, plan).items():
                    found[index].append(measurement)
                self.progress.update("networks", sum(map(len, found)), total)
        return [combine(measurements, self.target) for measurements in found]

    def _measure(self, probes: Mapping[T, Probe], plan: VisitPlan) -> dict[T, Measurement]:
        found = measure_probes(list(probes.values()), self.target, rng=self.rng, plan=plan)
        return dict(zip(probes, found, strict=True))


def calibrate(
    space: SearchSpace, rows: Mapping[Key, Row], runner: Runner, sample: NetworkSample
) -> tuple[Calibration, Validation | None]:
    """Measure random networks between the smallest and the largest of ``space``.

    Some of them, evenly spread, fit the calibration, the others validate it, if there are enough. A
    validation that fails is measured on, up to ``MOST_ROUNDS`` times: noise may be to blame.
    """
    networks = pick_networks(space, rows, runner.rng, sample.fitted + sample.held_out)
    sums = [network_sums(rows, network) for network in networks]
    rounds: list[list[Measurement]] = []
    while True:
        rounds.append(runner.measure_networks(networks, passes=sample.passes, plan=sample.visits))
        measured = [combine(visited, runner.target) for visited in zip(*rounds, strict=True)]
        calibration, validation = _fit(sums, measured, runner.target, sample.fitted)
        if validation is None or not judge(validation).failures or len(rounds) == MOST_ROUNDS:
            return calibration, validation


def pick_networks(
    space: SearchSpace, rows: Mapping[Key, Row], rng: np.random.Generator, count: int
) -> list[Architecture]:
    """Different random networks, and the smallest and largest, from the fastest to the slowest."""
    found = [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(CANDIDATES))]
    networks = list(dict.fromkeys(found))
    sums = [network_sums(rows, network).ms for network in networks]
    return [networks[index] for index in spread_over(sums, min(count, len(networks)))]


def network_sums(rows: Mapping[Key, Row], network: Architecture) -> RowSums:
    """The sums of a network's rows."""
    return sum_rows(rows[(layer.signature, shape)] for layer, shape in network.placed())


def noise_floor(visits: Sequence[Sequence[float]], quantile: float) -> float:
    """Mean relative difference between the estimates from odd and from even visits."""
    halves = [(estimate(each[0::2], quantile), estimate(each[1::2], quantile)) for each in visits]
    return float(np.mean([abs(odd.value / even.value - 1) for odd, even in halves]))


def measure_drift(
    table: LatencyTable, *, networks: int, seed: int, progress: Progress = SILENT
) -> Drift:
    """Measure random networks of the table's space, spread over its latencies, on this machine."""
    table.require_target(detect_again(table.target))
    runner = Runner(table.target, np.random.default_rng(seed), progress=progress)
    chosen = pick_networks(space_of(table), table.rows, runner.rng, networks)
    if (count := len(chosen)) < LEAST_HELD_OUT:
        raise UserError(f"{table.path}: its space has {count} networks, too few to check it by")
    found = runner.measure_networks(chosen, passes=CHECK_PASSES)
    sums = [network_sums(table.rows, network) for network in chosen]
    return judge_drift(table.calibration, sums, [measurement.ms for measurement in found])


def judge_drift(
    calibration: Calibration, sums: Sequence[RowSums], measured: Sequence[float]
) -> Drift:
    """Compare a table's predictions for sums of its rows with new measurements, all in ms."""
    updated = reanchor(calibration, sums, measured)
    before, after = (
        np.array([each.latency(size.ms, size.params) for size in sums])
        for each in (calibration, updated)
    )
    truth = np.asarray(measured)
    factor = fit_factor(before, truth)
    rho, tau = (with_interval(rank, before.tolist(), measured)[0] for rank in (spearman, kendall))
    action: Action = "re-anchor"
    if abs(factor - 1) > MENDABLE or rho < LEAST_SPEARMAN:
        action = "rebuild"
    elif abs(factor - 1) <= FINE:
        action = "none"
    return Drift(
        networks=len(truth),
        shift=factor - 1,
        mape_before=float(np.abs(before / truth - 1).mean()),
        mape_after=float(np.abs(after / truth - 1).mean()),
        spearman=rho,
        kendall=tau,
        action=action,
        calibration=updated,
    )


def reanchored(table: LatencyTable, drift: Drift, date: str) -> LatencyTable:
    """The table with its latencies shifted; its calibration so far joins ``earlier_anchors``."""
    old = table.provenance
    anchor = Anchor(calibration=old.calibration, date=old.anchored or old.date)
    anchors = (*old.earlier_anchors, anchor)
    update = {"calibration": drift.calibration, "anchored": date, "earlier_anchors": anchors}
    return replace(table, provenance=old.model_copy(update=update))


def space_of(table: LatencyTable) -> SearchSpace:
    """The space that a table was built for; raises UserError if it is gone or has changed."""
    argument = table.provenance.space_argument
    try:
        space = SearchSpace.load(argument)
    except UserError as error:
        raise UserError(f"{table.path}: its search space is needed: {error}") from None
    if space_hash(space) != table.provenance.space_sha256:
        raise UserError(
            f"{table.path}: its search space '{argument}' has changed since it was built; bring "
            f"it up to date: {build_command(table.path, table.provenance)} --resume"
        )
    return space


def _batches(
    order: list[T], make: Callable[[T], Probe], most: int | None = None
) -> Iterator[dict[T, Probe]]:
    """The probes of each batch, which fits into memory and holds at most so many."""
    while order:
        batch: dict[T, Probe] = {}
        size = 0
        while order and size <= BATCH_BYTES and len(batch) != most:
            key = order.pop()
            probe = batch[key] = make(key)
            size += sum(graph.ByteSize() for graph in probe.graphs)
        yield batch


def _fit(
    sums: Sequence[RowSums], measured: Sequence[Measurement], target: Target, most_fitted: int
) -> tuple[Calibration, Validation | None]:
    """The calibration on some of the networks, evenly spread, and its figures on the others."""
    count = len(sums)
    places = np.linspace(0, count - 1, 2 * min(most_fitted, count) + 1)[1::2]
    fitted = places.round().astype(int).tolist()
    held = [index for index in range(count) if index not in fitted]
    ms = [measured[index].ms for index in fitted]
    calibration = fit_calibration([sums[index] for index in fitted], ms)
    if len(held) < LEAST_HELD_OUT:
        return calibration, None
    points = [
        MeasuredNetwork(
            sum_ms=size.ms,
            params=size.params,
            macs=size.macs,
            predicted_ms=calibration.latency(size.ms, size.params),
            measured_ms=found.ms,
            held_out=index in held,
        )
        for index, (size, found) in enumerate(zip(sums, measured, strict=True))
    ]
    visits = [measured[index].visits for index in held]
    floor = noise_floor(visits, CLOCKS[target.statistic].quantile)
    return calibration, validate(points, floor)
