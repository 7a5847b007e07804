"""Whether a table still holds: whole networks, measured again, against what it predicts.

From one hour to the next everything on a machine can shift by 2 to 5 %, alike for all layers.
Single layers do not show it, whole networks do, and one factor mends it, or two where large
networks have shifted by more than small ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from nas.documents import Value
from nas.errors import UserError
from nas.latency.build import space_hash
from nas.latency.calibration import Calibration, fit_factor, reanchor
from nas.latency.networks import (
    LEAST_HELD_OUT,
    Progress,
    measure_networks,
    network_sizes,
    pick_networks,
)
from nas.latency.runtime import detect_again
from nas.latency.table import Anchor, LatencyTable, build_command
from nas.latency.templates import LayerGraphs
from nas.space import SearchSpace
from nas.statistics import kendall, spearman, with_interval

FINE, MENDABLE = 0.03, 0.10
"""Shifts up to these are within what differs from hour to hour, and mended by one factor."""
LEAST_SPEARMAN = 0.98
PASSES = 2
"""One less than a build takes: the check is to answer within seconds."""

Action = Literal["none", "re-anchor", "rebuild"]


class Drift(Value):
    """How far measurements moved from predictions, as shares (0.01 is 1 %), and what to do.

    ``shift``: what all latencies would have to be raised by; ``calibration`` brings the table up to
    date, and ``mape_after`` is with that.
    """

    networks: int
    shift: float
    mape_before: float
    mape_after: float
    spearman: float
    kendall: float
    action: Action
    calibration: Calibration


def judge_drift(
    calibration: Calibration,
    sums: Sequence[float],
    params: Sequence[float],
    measured: Sequence[float],
) -> Drift:
    """Compare what a table predicts for sums of its rows with what is measured now, all in ms."""
    predicted = [calibration.latency(*pair) for pair in zip(sums, params, strict=True)]
    expected, truth = np.asarray(predicted), np.asarray(measured)
    updated = reanchor(calibration, sums, params, measured)
    after = np.array([updated.latency(*pair) for pair in zip(sums, params, strict=True)])
    factor = fit_factor(expected, truth)
    rho, tau = (with_interval(it, predicted, measured)[0] for it in (spearman, kendall))
    action: Action = "re-anchor"
    if abs(factor - 1) > MENDABLE or rho < LEAST_SPEARMAN:
        action = "rebuild"
    elif abs(factor - 1) <= FINE:
        action = "none"
    return Drift(
        networks=len(truth),
        shift=factor - 1,
        mape_before=float(np.abs(expected / truth - 1).mean()),
        mape_after=float(np.abs(after / truth - 1).mean()),
        spearman=rho,
        kendall=tau,
        action=action,
        calibration=updated,
    )


def measure_drift(
    table: LatencyTable, *, networks: int, seed: int, tell: Progress, graphs: LayerGraphs
) -> Drift:
    """Measure random networks of the table's space, spread over its latencies, on this machine.

    Raises:
        UserError: the table is for another target, its space is gone or has changed, or has too
            few networks.
    """
    target = table.target
    table.require_target(detect_again(target))
    rng = np.random.default_rng(seed)
    chosen = pick_networks(space_of(table), table.rows, rng, networks)
    if len(chosen) < LEAST_HELD_OUT:
        raise UserError(
            f"{table.path}: its space has {len(chosen)} networks, too few to check it by"
        )
    found = measure_networks(chosen, target, graphs, rng, tell, passes=PASSES)
    sizes = [network_sizes(table.rows, it) for it in chosen]
    return judge_drift(
        table.calibration,
        [it.ms for it in sizes],
        [it.params for it in sizes],
        [it.ms for it in found],
    )


def space_of(table: LatencyTable) -> SearchSpace:
    """The space that a table was built for, from where it was found then.

    Raises:
        UserError: it is gone, or it is another one now.
    """
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


def reanchored(table: LatencyTable, drift: Drift, date: str) -> LatencyTable:
    """The table with its latencies shifted; its calibration so far joins ``earlier_anchors``."""
    provenance = table.provenance
    earlier = Anchor(calibration=table.calibration, date=provenance.anchored or provenance.date)
    changed = provenance.model_copy(
        update={
            "calibration": drift.calibration,
            "anchored": date,
            "earlier_anchors": (*provenance.earlier_anchors, earlier),
        }
    )
    return replace(table, provenance=changed)
