"""``build_table`` measures every layer of a space, then whole networks that validate the sums."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from pydantic import TypeAdapter

from nas.documents import Value
from nas.errors import UserError
from nas.families import Layer, Shape
from nas.latency import staircase
from nas.latency.graphs import LayerGraphs
from nas.latency.measure import LAYER_VISITS, Measurement, VisitPlan
from nas.latency.networks import BATCH_LAYERS, NetworkSample, Runner, calibrate
from nas.latency.table import Key, LatencyTable, Provenance, Row, sidecar_path, space_hash
from nas.latency.target import Target
from nas.network import layer_size
from nas.progress import SILENT, Progress
from nas.space import SearchSpace
from nas.store.folder import hold_lock
from nas.store.journal import Journal, Words

FLOOR_MS = 1e-4
"""The least latency of a layer, where the slope drowns in noise."""


class MeasuringPlan(NamedTuple):
    """How networks, layers, the channel step are timed; a kill loses at most ``batch`` layers."""

    networks: NetworkSample
    layers: VisitPlan = LAYER_VISITS
    sweep: VisitPlan = staircase.SWEEP_VISITS
    batch: int = BATCH_LAYERS


THOROUGH = MeasuringPlan(NetworkSample(fitted=16, held_out=24, passes=3))
QUICK_VISITS = VisitPlan(runs=3, span_ms=4.0, least_visits=6, most_visits=12, tolerance=0.015)
QUICK = MeasuringPlan(NetworkSample(fitted=8, held_out=12, passes=1, visits=QUICK_VISITS))


@dataclass(frozen=True)
class BuildSettings:
    """How a table is built; ``quick`` measures a part of the layers, and models the others.

    ``space_argument`` names the space in the commands of error messages; by default its name.
    """

    space_argument: str | None = None
    seed: int = 0
    quick: bool = False
    plan: MeasuringPlan | None = None


class Purpose(Value):
    """The first line of the journal of an unfinished build: its space and its target."""

    space: str
    space_sha256: Annotated[str, Words("another version of the space")]
    target: Target


class MeasuredRow(Value):
    """A line of that journal: a row of the table that it will become."""

    key: Key
    row: Row


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

    ``resume`` keeps the rows of a build, except modelled ones if ``quick`` is off. Raises UserError
    if a build is there without ``resume`` or ``force``, or for another target or space.
    """
    if path.suffix != ".csv":
        raise UserError(f"{path}: a latency table is a .csv file; name it {path}.csv")
    purpose = Purpose(space=space.name, space_sha256=space_hash(space), target=target)
    unfinished = unfinished_path(path)
    held = f"{unfinished}: another build is writing it; wait for it or name another --out"
    with hold_lock(path.with_suffix(".partial.lock"), held=held):
        finished = _finished_table(path, target, resume=resume, force=force)
        if finished is not None and _is_complete(finished, space, quick=settings.quick):
            finished.save()  # in case its file was damaged, but no row was lost
            return finished
        goes_on = resume and not force and _has_begun(unfinished)
        with open_journal(path, purpose, resume=goes_on) as journal:
            if finished is not None:
                journal.append(*_lines(_measured(finished.rows)))
            rng = np.random.default_rng(settings.seed)
            runner = Runner(target, rng, graphs or LayerGraphs(), progress)
            table = LatencyTable(*_measure(space, settings, runner, journal), path)
            table.save()
        unfinished.unlink()
    return table


def unfinished_path(path: Path) -> Path:
    """The journal beside the table ``path``, there until the build is finished."""
    return path.with_suffix(".partial.jsonl")


def open_journal(path: Path, purpose: Purpose, *, resume: bool) -> Journal[MeasuredRow]:
    """Begin the journal of a build of the table ``path``, or go on with the one that is there."""
    return Journal(
        unfinished_path(path),
        TypeAdapter(MeasuredRow),
        noun="an unfinished build",
        remedy="--force starts afresh",
        header=purpose,
        resume=resume,
    )


def _measure(
    space: SearchSpace, settings: BuildSettings, runner: Runner, journal: Journal[MeasuredRow]
) -> tuple[dict[Key, Row], Provenance]:
    """All rows, those of ``space`` first, and their provenance; new rows join the journal."""
    rows = {line.key: line.row for line in journal.lines}
    plan, layers = settings.plan or (QUICK if settings.quick else THOROUGH), space.layers()
    step = staircase.measure_step(runner.target, runner.rng, plan.sweep)

    def measure_rows(keys: Sequence[Key]) -> None:
        missing = {key: layers[key] for key in keys if key not in rows}
        for batch in runner.measure_layers(missing, plan=plan.layers, batch=plan.batch):
            found = {key: _row(layers[key], key[1], latency) for key, latency in batch.items()}
            journal.append(*_lines(found))
            rows.update(found)

    measure_rows(staircase.keys_to_measure(layers, step) if settings.quick else list(layers))
    measure_rows(staircase.keys_misfit(layers, rows, step))
    extra, modelled = staircase.model_rows(layers, rows, step)
    complete = {**rows, **extra}
    ordered = {**{key: complete[key] for key in layers}, **complete}
    calibration, validation = calibrate(space, ordered, runner, plan.networks)
    return ordered, Provenance(
        space=space.name,
        space_argument=settings.space_argument or space.name,
        space_sha256=space_hash(space),
        target=runner.target,
        calibration=calibration,
        validation=validation,
        channel_step=step,
        date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        nas_version=_version(),
        exporter=f"torch {torch.__version__}",
        load_average=os.getloadavg() if hasattr(os, "getloadavg") else None,
        seed=settings.seed,
        modelled=modelled,
    )


def _lines(rows: Mapping[Key, Row]) -> list[MeasuredRow]:
    return [MeasuredRow(key=key, row=row) for key, row in rows.items()]


def _finished_table(
    path: Path, target: Target, *, resume: bool, force: bool
) -> LatencyTable | None:
    """The table whose rows are to be kept, if there is one."""
    old = path.with_suffix(".partial.csv")
    if force:
        for file in (old.with_suffix(".json"), old):
            file.unlink(missing_ok=True)
        return None
    if old.exists():
        raise UserError(f"{old}: is an unfinished build of nas 0.1; --force starts afresh")
    finished = path.exists() or sidecar_path(path).exists()
    has_begun = _has_begun(unfinished_path(path))
    if (finished or has_begun) and not resume:
        problem = (
            f"{path}: exists" if finished else f"{unfinished_path(path)}: is an unfinished build"
        )
        raise UserError(f"{problem}; --resume measures what is missing, --force all anew")
    if has_begun or not finished:  # a build that has begun holds the rows of the finished table
        return None
    table = LatencyTable.salvage(path)
    table.require_target(target)
    return table


def _has_begun(unfinished: Path) -> bool:
    """Whether the first line of a build's journal is whole."""
    return unfinished.exists() and b"\n" in unfinished.read_bytes()


def _is_complete(table: LatencyTable, space: SearchSpace, *, quick: bool) -> bool:
    """Whether the table was validated for this very space and has all its rows."""
    rows = table.rows if quick else _measured(table.rows)
    return table.provenance.space_sha256 == space_hash(space) and space.layers().keys() <= set(rows)


def _measured(rows: Mapping[Key, Row]) -> dict[Key, Row]:
    return {key: row for key, row in rows.items() if row.status != "modelled"}


def _row(layer: Layer, input_shape: Shape, found: Measurement) -> Row:
    ms = max(found.ms, FLOOR_MS)
    low, high = max(found.ms_low, 0.0), max(found.ms_high, ms)
    return Row(ms, low, high, *layer_size(layer, input_shape), found.status)


def _version() -> str:
    try:
        return version("nas")
    except PackageNotFoundError:
        return "not installed"
