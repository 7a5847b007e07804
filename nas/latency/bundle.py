"""Bundles: folders that measure a space where they are carried, and come back as its table."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from nas.architecture import Architecture
from nas.documents import Value, read_document, require_new, write_json
from nas.errors import UserError
from nas.latency import runner, staircase
from nas.latency.build import (
    THOROUGH,
    Building,
    BuildSettings,
    Chunk,
    Purpose,
    hold_table,
    open_journal,
)
from nas.latency.by_hand import Measured, read_folder, target_of, write_folder
from nas.latency.graphs import LayerGraphs
from nas.latency.runtimes import RUNTIMES, RunnerRuntime
from nas.latency.survey import Survey, pick_candidates, pick_companions, pick_networks
from nas.latency.table import LatencyTable, space_hash
from nas.latency.target import Target, require_precision
from nas.progress import SILENT, Progress
from nas.space import SearchSpace

RECORD = "bundle.json"
MOST_VISITS = 24
"""To a graph: after so many a bundle is done."""


class Record(Value):
    """``bundle.json``: what a bundle is of."""

    space: str
    space_sha256: str
    seed: Annotated[int, Field(ge=0)]
    reference: Architecture
    companions: tuple[Architecture, ...]
    target: Target
    plan_sha256: str


def write_bundle(
    space: SearchSpace,
    out: Path,
    target: Target,
    settings: BuildSettings,
    *,
    force: bool = False,
    progress: Progress = SILENT,
) -> None:
    """Write a folder that measures every layer of a space; ``target`` is a ``target_to_be``.

    ``settings.minutes`` limits the measuring there. Raises UserError if something is there already,
    or if the runtime lacks the precision.
    """
    if not (target.runtime in RUNTIMES and issubclass(RUNTIMES[target.runtime], RunnerRuntime)):
        known = ", ".join(runner.ENGINES)
        raise UserError(f"runtime '{target.runtime}' runs in no bundle; there are {known}")
    require_precision(target.precision, target.runtime, target.place)
    if (out / runner.SAMPLES).exists():
        raise UserError(f"{out / runner.SAMPLES}: was measured; import it, or move it away")
    if out.exists() and not force and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists; --force replaces what is in it, or name another --out")
    rng, graphs = np.random.default_rng(settings.seed), LayerGraphs()
    survey = _survey(space, rng, graphs)
    sweep = staircase.sweep_graphs()
    plan_sha256 = write_folder(
        out,
        {**survey.makers, **sweep},
        survey.regular,
        target,
        inner=survey.inner | set(sweep),
        minutes=settings.minutes or THOROUGH.seconds / 60,
        most=MOST_VISITS,
        seed=settings.seed,
        progress=progress,
    )
    record = Record(
        space=settings.space_argument or space.name,
        space_sha256=space_hash(space),
        seed=settings.seed,
        reference=survey.references[0],
        companions=tuple(survey.references[1:]),
        target=target,
        plan_sha256=plan_sha256,
    )
    write_json(out / RECORD, record.model_dump(mode="json"))


def import_bundle(
    folder: Path,
    path: Callable[[SearchSpace, Target], Path],
    *,
    name: str | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> LatencyTable:
    """The table of what a bundle has measured, written to ``path`` of its space and target.

    The device is called ``hand:NAME``, by default as its machine is. Raises UserError if samples
    are damaged, too few, or of another plan.
    """
    record = read_document(folder / RECORD).validated(Record)
    space, measured = SearchSpace.load(record.space), read_folder(folder)
    if space_hash(space) != record.space_sha256:
        raise UserError(f"{folder}: its search space '{record.space}' has changed since then")
    if measured.header.plan != record.plan_sha256:
        raise UserError(f"{folder}: its samples are of another plan than {RECORD}")
    target = target_of(record.target, measured.header, name)
    csv = path(space, target)
    require_new(csv, force=force)
    with hold_table(csv, resume=False, force=force):
        table = _table(space, target, csv, record, measured, progress)
        table.save()
    return table


def _table(
    space: SearchSpace,
    target: Target,
    path: Path,
    record: Record,
    measured: Measured,
    progress: Progress,
) -> LatencyTable:
    """The table by a bundle's visits, which become those of a build."""
    purpose = Purpose.begun(space, target, record.reference, record.companions)
    settings = BuildSettings(space_argument=record.space, seed=record.seed)
    rng, graphs = np.random.default_rng(record.seed), LayerGraphs()
    pick_candidates(space, rng)  # as when it was written: the networks come after
    sweep = staircase.sweep_graphs()
    visits = tuple(visit for visit in measured.visits if visit.graph not in sweep)
    with open_journal(path, purpose, resume=False) as journal:
        journal.append(Chunk(visits=visits))
        building = Building(
            space, settings, THOROUGH, purpose, journal, time.monotonic(), graphs, rng, progress,
            is_enough=True,
        )  # fmt: skip
        building.survey.add(space.layers())
        measured.require_enough({*building.survey.makers, *sweep}, path)
        building.turns.told = measured.conditions.model_dump(exclude={"waited"})
        building.turns.waited = measured.conditions.waited
        rows, provenance = building.write_up(staircase.find_step(measured.visits))
    return LatencyTable(rows, provenance, path)


def _survey(space: SearchSpace, rng: np.random.Generator, graphs: LayerGraphs) -> Survey:
    """All layers, networks and references; the reference is the middle one of the candidates."""
    graphs.prepare((layer, shape) for (_, shape), layer in space.layers().items())
    candidates = pick_candidates(space, rng)
    reference = candidates[len(candidates) // 2]
    companions = pick_companions(space, rng.spawn(1)[0], reference)
    networks = pick_networks(space, rng, THOROUGH.fitted + THOROUGH.held_out)
    survey = Survey(networks, (reference, *companions), graphs)
    survey.add(space.layers())
    return survey
