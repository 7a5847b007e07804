"""Whether a table still holds: its reference and random networks, measured again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np

from nas.documents import Value
from nas.errors import UserError
from nas.latency.calibration import (
    NOISE_SHARE,
    PROMISED_ERROR,
    Machine,
    RowSums,
    fit_factor,
)
from nas.latency.estimator import STATES, State
from nas.latency.graphs import LayerGraphs
from nas.latency.measure import Found, Patience, Session
from nas.latency.survey import network_name, pick_networks
from nas.latency.table import Anchor, LatencyTable, build_command, space_hash
from nas.latency.target import detect_again
from nas.latency.unit import WORTH_TELLING
from nas.progress import SILENT, Progress
from nas.space import SearchSpace
from nas.statistics import kendall, spearman, with_interval

LEAST_NETWORKS = 4

MENDABLE = 0.30
"""A machine that is slower or faster by more than this is another one."""

MOST_BIAS = 0.05
"""Networks that differ from predictions by more than this, beside the reference, are not mended."""

LEAST_SPEARMAN = 0.98
"""A lower correlation asks for a new table, unless the noise of this check explains the errors, or
they are no larger than a table is meant to have."""

CHECK = Patience(least=8, most=24, tolerance=0.02, seconds=45.0)

Action = Literal["none", "re-anchor", "rebuild"]


class StateDrift(Value):
    """One state, as shares. ``shift``: of the reference, how much slower the machine is now.

    ``bias`` and ``mape``: of predictions, against measurements in the table's unit.
    """

    shift: float
    bias: float
    mape: float
    noise: float
    spearman: float
    kendall: float


class Drift(Value):
    """What networks tell of a table, and what to do about it; ``machine``: what it is like now."""

    networks: int
    machine: Machine
    warm: StateDrift
    cold: StateDrift
    action: Action

    def of(self, state: State) -> StateDrift:
        return self.warm if state == "warm" else self.cold


def measure_drift(
    table: LatencyTable, *, networks: int, seed: int, progress: Progress = SILENT
) -> Drift:
    """Measure random networks of the table's space, spread over their sizes, on this machine."""
    table.require_target(detect_again(table.target))
    rng = np.random.default_rng(seed)
    chosen = pick_networks(space_of(table), rng, networks)
    if (count := len(chosen)) < LEAST_NETWORKS:
        raise UserError(f"{table.path}: its space has {count} networks, too few to check it by")
    graphs = LayerGraphs()
    models = {network_name(network): partial(graphs.network, network) for network in chosen}
    sums = [table.sums(network) for network in chosen]
    of_models = dict(zip(models, sums, strict=True))
    session = Session(
        table.target, models, rng, table.unit, CHECK, progress, sums=of_models, graphs=graphs
    )
    found = session.measure()
    latencies = found.latencies.values()
    noise = {
        state: float(np.mean([latency.of(state).half_width for latency in latencies])) / 2
        for state in STATES
    }
    measured = {state: [it.of(state).ms for it in latencies] for state in STATES}
    return judge_drift(table, sums, measured, found, noise)


def judge_drift(
    table: LatencyTable,
    sums: Sequence[RowSums],
    measured: Mapping[State, Sequence[float]],
    found: Found,
    noise: Mapping[State, float],
) -> Drift:
    """Compare a table's predictions for sums of its rows with new measurements in its unit.

    ``found`` tells what the machine is like now.
    """
    states, shift = dict[State, StateDrift](), found.shift
    action: Action = "none"
    for state in STATES:
        predicted = np.array([table.calibration.latency(size, state) for size in sums])
        truth = np.asarray(measured[state])
        bias = 1 / fit_factor(predicted, truth) - 1
        mape = float(np.abs(predicted / truth - 1).mean())
        pairs = predicted.tolist(), truth.tolist()
        rho, tau = (with_interval(correlation, *pairs)[0] for correlation in (spearman, kendall))
        states[state] = StateDrift(
            shift=shift[state],
            bias=bias,
            mape=mape,
            noise=noise[state],
            spearman=rho,
            kendall=tau,
        )
        is_other = abs(shift[state]) > MENDABLE
        is_biased = abs(bias) > max(MOST_BIAS, noise[state])
        explained = max(PROMISED_ERROR, NOISE_SHARE * noise[state])
        has_lost_order = rho < LEAST_SPEARMAN and mape > explained
        if is_other or is_biased or has_lost_order:
            action = "rebuild"
        elif abs(shift[state]) > WORTH_TELLING and action == "none":
            action = "re-anchor"
    return Drift(
        networks=len(sums),
        machine=found.machine,
        warm=states["warm"],
        cold=states["cold"],
        action=action,
    )


def reanchored(table: LatencyTable, drift: Drift, date: str) -> LatencyTable:
    """The table in the unit of today; its calibration so far joins ``earlier_anchors``."""
    old, unit = table.provenance, table.unit.on(drift.machine)
    anchor = Anchor(
        calibration=old.calibration,
        reference=old.reference,
        companions=old.companions,
        date=old.anchored or old.date,
    )
    reference, *companions = unit.references
    update = {
        "calibration": unit.calibration,
        "reference": reference,
        "companions": tuple(companions),
        "anchored": date,
        "earlier_anchors": (*old.earlier_anchors, anchor),
    }
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
            f"it up to date: {build_command(table.path, table.provenance, '--resume')}"
        )
    return space
