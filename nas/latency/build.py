"""``build_table`` measures every layer of a space, and whole networks that validate the sums."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import TypeAdapter

from nas.architecture import Architecture
from nas.documents import Value
from nas.errors import UserError
from nas.families import Layer, Shape
from nas.latency import staircase
from nas.latency.calibration import (
    Calibration,
    MeasuredNetwork,
    StateLatency,
    Validation,
    validate,
)
from nas.latency.estimator import Latency, State, Status, Visit
from nas.latency.fit import fit_calibration
from nas.latency.graphs import LayerGraphs
from nas.latency.parity import require_same_result
from nas.latency.runner import GROUP, TIMED
from nas.latency.survey import (
    Survey,
    pick_candidates,
    pick_companions,
    pick_networks,
    pick_reference,
)
from nas.latency.table import (
    Conditions,
    Key,
    LatencyTable,
    Provenance,
    Row,
    sidecar_path,
    space_hash,
    sum_rows,
    visits_path,
)
from nas.latency.target import Target
from nas.latency.visits import Turns
from nas.machine import nas_version
from nas.network import layer_size
from nas.progress import SILENT, Progress
from nas.space import SearchSpace
from nas.store.journal import Journal, first_line
from nas.store.lock import hold_lock, remove_partial

FLOOR_MS = 1e-4
"""The least latency of a layer, where the slope drowns in noise."""

LEAST_HELD_OUT = 4
NOUN, REMEDY = "a build", "--force starts afresh"

PASS_SECONDS, FURTHER = 12.0, 0.97
"""Time of a pass, after which it is decided anew where the next visits go; and what it aims at, as
a share of the error that is wanted, as its visits may show more noise."""


class MeasuringPlan(NamedTuple):
    """How many networks calibrate and validate a table, and how well all is to be known.

    Each graph gets ``least_visits``; then visits go where they lower the error most, until it is
    ``error``, a share, or the build has taken ``seconds``, which are those of ``USUAL_LAYERS``.
    """

    fitted: int
    held_out: int
    least_visits: int
    error: float
    seconds: float


THOROUGH = MeasuringPlan(fitted=20, held_out=20, least_visits=4, error=0.016, seconds=130)
QUICK = MeasuringPlan(fitted=8, held_out=12, least_visits=4, error=0.025, seconds=40)

PILOT = 3
"""Visits to each candidate for the reference, as a multiple of the least visits to a graph."""

USUAL_LAYERS = 170
"""Layers of the default space, for which a plan's seconds are meant; of few layers it is half."""


@dataclass(frozen=True)
class BuildSettings:
    """How a table is built; ``quick`` measures a part of the layers, and models the others.

    ``minutes`` limits the whole build; by default a large space takes what it needs.
    ``space_argument`` names the space in the commands of error messages; by default its name.
    """

    space_argument: str | None = None
    seed: int = 0
    quick: bool = False
    minutes: float | None = None
    plan: MeasuringPlan | None = None


class Purpose(Value):
    """The first line of the journal of a build: what its visits are of.

    ``group``: layers in a turn; ``timed``: runs whose median a visit tells. Journals of earlier
    versions have none of these.
    """

    space: str
    target: Target
    reference: Architecture
    companions: tuple[Architecture, ...] = ()
    group: int = 1
    timed: int = 3

    @classmethod
    def begun(
        cls,
        space: SearchSpace,
        target: Target,
        reference: Architecture,
        companions: Iterable[Architecture],
    ) -> Purpose:
        """The purpose of visits that are made as this version makes them."""
        return cls(
            space=space.name,
            target=target,
            reference=reference,
            companions=tuple(companions),
            group=GROUP,
            timed=TIMED,
        )

    @property
    def is_of_this_version(self) -> bool:
        """Whether visits of now may join those of the journal."""
        return (self.group, self.timed) == (GROUP, TIMED)


class Chunk(Value):
    """A line of that journal: visits in the order in which they were made."""

    visits: tuple[Visit, ...]


def build_table(
    space: SearchSpace,
    target: Target,
    path: Path,
    *,
    settings: BuildSettings = BuildSettings(),
    resume: bool = False,
    force: bool = False,
    graphs: LayerGraphs | None = None,
    progress: Progress = SILENT,
) -> LatencyTable:
    """Measure the layers of ``space`` on ``target`` and write ``path`` and its sidecar.

    ``resume`` goes on with the visits of a build that was stopped or that is finished, and adds
    what is missing. Raises UserError if a build is there without ``resume`` or ``force``, or if it
    is for another target or space.
    """
    begun = time.monotonic()
    with hold_table(path, resume=resume, force=force) as goes_on:
        if goes_on and settings.minutes is None and (kept := _finished(path, space, settings)):
            return kept
        rng, graphs = np.random.default_rng(settings.seed), graphs or LayerGraphs()
        plan = settings.plan or (QUICK if settings.quick else THOROUGH)
        graphs.prepare((layer, shape) for (_, shape), layer in space.layers().items())
        candidates = pick_candidates(space, rng)  # drawn when it goes on too: networks come after
        if goes_on:
            purpose = purpose_of(path).model_copy(update={"space": space.name, "target": target})
            if not purpose.is_of_this_version:
                raise UserError(
                    f"{visits_path(path)}: is of an earlier version of nas, which visited layers "
                    f"otherwise; {REMEDY}"
                )
        else:
            pilot, visits = rng.spawn(1)[0], PILOT * plan.least_visits
            reference = pick_reference(candidates, target, graphs, pilot, visits)
            companions = pick_companions(space, pilot, reference)
            purpose = Purpose.begun(space, target, reference, companions)
        require_same_result(graphs.network(purpose.reference), target)
        with open_journal(path, purpose, resume=goes_on) as journal:
            if journal.remark:
                progress.say(journal.remark)
            building = Building(
                space, settings, plan, purpose, journal, begun, graphs, rng, progress,
                is_enough=goes_on and settings.minutes is None and path.exists(),
            )  # fmt: skip
            table = LatencyTable(*building.measure(), path)
            table.save()
    return table


@contextmanager
def hold_table(path: Path, *, resume: bool, force: bool) -> Iterator[bool]:
    """Keep others from a table that is being written; tells whether a build of it goes on.

    Raises UserError if a build is there without ``resume`` or ``force``.
    """
    if path.suffix != ".csv":
        raise UserError(f"{path}: a latency table is a .csv file; name it {path}.csv")
    held = f"{path}: another build is writing it; wait for it or name another --out"
    with hold_lock(path.with_suffix(".lock"), held=held):
        remove_partial(path.parent, f"{path.stem}.")
        yield _require_free(path, resume=resume, force=force)


def usual_seconds(layers: int, plan: MeasuringPlan) -> float:
    """After which a build of so many layers does not improve what it knows any further."""
    return plan.seconds * max(0.5, layers / USUAL_LAYERS)


def purpose_of(path: Path) -> Purpose:
    """The first line of the journal of the table ``path``; raises UserError if it is damaged."""
    return first_line(visits_path(path), Purpose, noun=NOUN, remedy=REMEDY)


def open_journal(path: Path, purpose: Purpose, *, resume: bool) -> Journal[Chunk]:
    """Begin the journal of a build of the table ``path``, or go on with the one that is there."""
    return Journal(
        visits_path(path),
        TypeAdapter(Chunk),
        noun=NOUN,
        remedy=REMEDY,
        header=purpose,
        resume=resume,
    )


@dataclass
class Building:
    """A build under way; what was measured ``is_enough`` if only a damaged table is missing."""

    space: SearchSpace
    settings: BuildSettings
    plan: MeasuringPlan
    purpose: Purpose
    journal: Journal[Chunk]
    begun: float
    graphs: LayerGraphs
    rng: np.random.Generator
    progress: Progress
    is_enough: bool

    def __post_init__(self) -> None:
        self.visits = [visit for chunk in self.journal.lines for visit in chunk.visits]
        self.layers = self.space.layers()
        networks = pick_networks(self.space, self.rng, self.plan.fitted + self.plan.held_out)
        references = self.purpose.reference, *self.purpose.companions
        self.survey = Survey(networks, references, self.graphs)
        self.turns = Turns(
            self.target, self.survey.makers, self.rng, self.survey.regular, self.progress,
            inner=self.survey.inner,
        )  # fmt: skip

    @property
    def target(self) -> Target:
        return self.purpose.target

    def measure(self) -> tuple[dict[Key, Row], Provenance]:
        """Visit what is to be known; all visits join the journal. Returns ``write_up``'s."""
        layers, step = self.layers, staircase.measure_step(self.target, self.rng)
        keys = staircase.keys_to_measure(layers, step) if self.settings.quick else list(layers)
        self._visit_each(keys)
        self._visit_each(staircase.keys_misfit(layers, self._rows(), step))
        while (left := self._seconds_left()) > 1 and not self._is_known():
            counts = self.survey.next_counts(
                self.visits,
                min(left, PASS_SECONDS),
                opening=self.turns.opening,
                noise=FURTHER * self.plan.error,
            )
            if not any(counts.values()):
                break
            self._visit(counts)
        return self.write_up(step)

    def write_up(self, step: int) -> tuple[dict[Key, Row], Provenance]:
        """All rows by the visits so far, and their provenance."""
        layers, rows = self.layers, self._rows()
        modelled_rows, modelled = staircase.model_rows(layers, rows, step)
        complete = {**rows, **modelled_rows}
        ordered = {key: complete[key] for key in layers}
        calibration, validation = self._calibrate(ordered)
        (reference, *companions), _ = self.survey.of_references(self.visits)
        told, waited = self.turns.told, self.turns.waited
        conditions = Conditions(**told, waited=waited) if told else None
        return ordered, Provenance(
            space=self.space.name,
            space_argument=self.settings.space_argument or self.space.name,
            space_sha256=space_hash(self.space),
            target=self.target,
            reference=reference,
            companions=tuple(companions),
            calibration=calibration,
            validation=validation,
            spread=self.survey.spread(self.visits),
            channel_step=step,
            date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            nas_version=nas_version(),
            exporter=f"torch {torch.__version__}",
            load_average=conditions.load if conditions else None,
            conditions=conditions,
            seed=self.settings.seed,
            modelled=modelled,
        )

    def _visit_each(self, keys: Sequence[Key]) -> None:
        """Visit the layers and the networks as often as the plan asks for at least."""
        self.survey.add({key: self.layers[key] for key in keys})
        counts = self.survey.first_counts(self.visits, self.plan.least_visits)
        self.is_enough = self.is_enough and not any(counts.values())
        self._visit(counts, is_needed=True)

    def _visit(self, counts: Mapping[str, int], *, is_needed: bool = False) -> None:
        done, total = 0, sum(counts.values())
        for chunk in self.turns.visit(counts):
            self.journal.append(Chunk(visits=tuple(chunk)))
            self.visits += chunk
            done += sum(visit.graph not in self.survey.regular for visit in chunk)
            if is_needed and done < total and self._seconds_left() <= 0 and self.settings.minutes:
                raise UserError(
                    f"--minutes {self.settings.minutes:g}: too short for the least validation, "
                    f"after {done} of {total} visits; what was measured is kept: --resume goes on"
                )

    def _seconds_left(self) -> float:
        limit = usual_seconds(len(self.survey.probes), self.plan)
        if self.settings.minutes:
            limit = 60 * self.settings.minutes
        return self.begun + limit - time.monotonic()

    def _is_known(self) -> bool:
        return self.is_enough or self.survey.noise(self.visits) <= self.plan.error

    def _rows(self) -> dict[Key, Row]:
        layers, _ = self.survey.latencies(self.visits)
        return {key: _row(self.layers[key], key[1], found) for key, found in layers.items()}

    def _calibrate(self, rows: Mapping[Key, Row]) -> tuple[Calibration, Validation | None]:
        """Calibrate on some of the networks, evenly spread, and validate on the others."""
        networks, (_, measured) = self.survey.networks, self.survey.latencies(self.visits)
        sums = [
            sum_rows(rows[it.signature, shape] for it, shape in network.placed())
            for network in networks
        ]
        places = np.linspace(0, len(sums) - 1, 2 * min(self.plan.fitted, len(sums)) + 1)[1::2]
        fitted = places.round().astype(int).tolist()
        calibration = fit_calibration(
            [sums[index] for index in fitted],
            [measured[index]["warm"].ms for index in fitted],
            [measured[index]["cold"].ms for index in fitted],
        )
        if len(sums) - len(fitted) < LEAST_HELD_OUT:
            return calibration, None

        def compared(index: int, state: State) -> StateLatency:
            found = measured[index][state]
            return StateLatency(
                sum_ms=sums[index].warm if state == "warm" else sums[index].cold,
                predicted_ms=calibration.latency(sums[index], state),
                measured_ms=found.ms,
                noise=found.error / found.ms,
            )

        points = [
            MeasuredNetwork(
                params=size.params,
                macs=size.macs,
                held_out=index not in fitted,
                warm=compared(index, "warm"),
                cold=compared(index, "cold"),
            )
            for index, size in enumerate(sums)
        ]
        _, deviation = self.survey.of_references(self.visits)
        return calibration, validate(points, deviation)


def _require_free(path: Path, *, resume: bool, force: bool) -> bool:
    """Whether a build goes on with visits that are there; UserError if it would replace some."""
    old, has_begun = path.with_suffix(".partial.csv"), _has_begun(visits_path(path))
    if force:
        for file in (old.with_suffix(".json"), old):
            file.unlink(missing_ok=True)
        return False
    if old.exists():
        raise UserError(f"{old}: is an unfinished build of nas 0.1; --force starts afresh")
    is_there = path.exists() or sidecar_path(path).exists()
    if not is_there and not has_begun:
        return False
    if not resume:
        problem = f"{path}: exists" if is_there else f"{visits_path(path)}: is an unfinished build"
        raise UserError(f"{problem}; --resume measures what is missing, --force all anew")
    if not has_begun:
        raise UserError(
            f"{visits_path(path)}: is gone, and with it what was measured; --force measures anew"
        )
    return True


def _has_begun(journal: Path) -> bool:
    """Whether the first line of a build's journal is whole."""
    return journal.exists() and b"\n" in journal.read_bytes()


def _finished(path: Path, space: SearchSpace, settings: BuildSettings) -> LatencyTable | None:
    """The table, if it is whole, has all rows of this very space, and was validated for it."""
    try:
        table = LatencyTable.load(path)
    except UserError:
        return None
    has_all = space.layers().keys() <= table.rows.keys()
    is_measured = settings.quick or not table.provenance.modelled
    is_same = table.provenance.space_sha256 == space_hash(space)
    return table if has_all and is_measured and is_same else None


def _row(layer: Layer, input_shape: Shape, found: Latency) -> Row:
    (ms, low, high), (cold_ms, cold_low, cold_high) = (
        (max(it.ms, FLOOR_MS), it.ms_low, max(it.ms_high, it.ms, FLOOR_MS)) for it in found
    )
    status: Status = "noisy" if "noisy" in (found.warm.status, found.cold.status) else "ok"
    size = layer_size(layer, input_shape)
    return Row(ms, low, high, cold_ms, cold_low, cold_high, *size, status)
