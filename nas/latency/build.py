"""``build_table`` measures every layer of a space, then whole networks to vouch for the sums."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from nas.errors import UserError
from nas.families import Layer
from nas.latency.measure import Measurement, Probe, measure_probes
from nas.latency.modelled import keys_misfit, keys_to_measure, model_rows
from nas.latency.networks import BATCH_BYTES, QUICK, THOROUGH, Progress, Sample, calibrate
from nas.latency.partial import PartialTable, Purpose
from nas.latency.probes import layer_probe
from nas.latency.rows import Key, Row
from nas.latency.runtime import Target
from nas.latency.staircase import measure_step
from nas.latency.table import LatencyTable, Provenance, sidecar_path
from nas.latency.templates import LayerGraphs
from nas.network import layer_size
from nas.space import SearchSpace

BATCH_PROBES = 24
"""Probes that take turns: their visits spread over seconds, and a kill loses no more than these."""

FLOOR_MS = 1e-4
"""What a layer costs at least, where the slope drowns in noise."""


def build_table(
    space: SearchSpace,
    target: Target,
    path: Path,
    *,
    space_argument: str,
    resume: bool,
    force: bool,
    seed: int = 0,
    progress: Progress | None = None,
    quick: bool = False,
    sample: Sample | None = None,
    graphs: LayerGraphs | None = None,
) -> LatencyTable:
    """Measure the layers of ``space`` on ``target`` and write ``path`` and its sidecar.

    ``space_argument`` is how the user named the space, for the commands in error messages. A kill
    loses at most one batch of rows; ``resume`` keeps the others, of an unfinished build and of a
    finished table alike. ``quick`` measures a part of the layers and fewer networks, and models
    the other layers; without it a later ``resume`` measures those. ``graphs`` may bring templates
    from elsewhere.

    Raises:
        UserError: the table or an unfinished build is there and neither ``resume`` nor ``force``
            says what to do; or what is there was for another target or space.
    """
    if path.suffix != ".csv":
        raise UserError(f"{path}: a latency table is a .csv file; name it {path}.csv")
    tell = progress if progress is not None else _say_nothing
    purpose = Purpose(space=space.name, space_sha256=space_hash(space), target=target)
    with PartialTable(path) as partial:
        finished = _finished_table(path, partial, target, resume=resume, force=force)
        if resume and not force and partial.is_started():
            rows = partial.read(purpose)
        elif finished is not None and _is_complete(finished, space, quick=quick):
            finished.save()  # in case its file was damaged, but no row was lost
            return finished
        else:
            rows = _measured(finished.rows) if finished is not None else {}
            partial.start(purpose, rows)
        rng = np.random.default_rng(seed)
        graphs = graphs if graphs is not None else LayerGraphs()
        layers = space.layers()
        step = measure_step(target, rng)

        def measure_rows(keys: Sequence[Key]) -> None:
            missing = {key: layers[key] for key in keys if key not in rows}
            for batch in _measure_rows(missing, target, graphs, rng, tell):
                partial.append(batch)
                rows.update(batch)

        measure_rows(keys_to_measure(layers, step) if quick else list(layers))
        measure_rows(keys_misfit(layers, rows, step))
        sizes = {key: layer_size(layer, key[1]) for key, layer in layers.items() if key not in rows}
        extra, modelled = model_rows(layers, rows, sizes, step)
        complete = {**rows, **extra}
        ordered = {**{key: complete[key] for key in layers}, **complete}
        sample = sample or (QUICK if quick else THOROUGH)
        calibration, validation = calibrate(
            space, ordered, target, graphs, rng, sample=sample, tell=tell
        )
        provenance = Provenance(
            space=space.name,
            space_argument=space_argument,
            space_sha256=purpose.space_sha256,
            target=target,
            calibration=calibration,
            validation=validation,
            channel_step=step,
            date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            nas_version=_version(),
            exporter=f"torch {torch.__version__}",
            load_average=os.getloadavg() if hasattr(os, "getloadavg") else None,
            seed=seed,
            modelled=modelled,
        )
        table = LatencyTable(ordered, provenance, path)
        table.save()
        partial.remove()
    return table


def space_hash(space: SearchSpace) -> str:
    """What tells two versions of a space of one name apart."""
    return hashlib.sha256(space.to_json().encode()).hexdigest()


def _finished_table(
    path: Path, partial: PartialTable, target: Target, *, resume: bool, force: bool
) -> LatencyTable | None:
    """The table whose rows are to be kept, if there is one."""
    finished = path.exists() or sidecar_path(path).exists()
    if force or not (finished or partial.is_started()):
        return None
    if not resume:
        place = path if finished else partial.csv_path
        what = "exists" if finished else "is an unfinished build"
        raise UserError(f"{place}: {what}; --resume measures what is missing, --force all anew")
    if partial.is_started():  # it holds the rows of the finished table, unless --force began it
        return None
    table = LatencyTable.salvage(path)
    table.require_target(target)
    return table


def _is_complete(table: LatencyTable, space: SearchSpace, *, quick: bool) -> bool:
    """Whether the table was validated for this very space and has all its rows."""
    rows = table.rows if quick else _measured(table.rows)
    return table.provenance.space_sha256 == space_hash(space) and all(
        key in rows for key in space.layers()
    )


def _measured(rows: Mapping[Key, Row]) -> dict[Key, Row]:
    return {key: row for key, row in rows.items() if row.status != "modelled"}


def _measure_rows(
    layers: Mapping[Key, Layer],
    target: Target,
    graphs: LayerGraphs,
    rng: np.random.Generator,
    tell: Progress,
) -> Iterator[dict[Key, Row]]:
    """The rows of the layers in random order, batch by batch."""
    keys = list(layers)
    order = [keys[index] for index in rng.permutation(len(keys))]
    done = 0
    tell("layers", done, len(keys))
    while order:
        batch: dict[Key, Probe] = {}
        size = 0
        while order and len(batch) < BATCH_PROBES and size <= BATCH_BYTES:
            key = order.pop()
            batch[key] = layer_probe(graphs, layers[key], key[1])
            size += _bytes(batch[key])
        measured = measure_probes(list(batch.values()), target, rng=rng)
        yield {key: _row(layers[key], key, it) for key, it in zip(batch, measured, strict=True)}
        done += len(batch)
        tell("layers", done, len(keys))


def _row(layer: Layer, key: Key, found: Measurement) -> Row:
    size = layer_size(layer, key[1])
    ms = max(found.ms, FLOOR_MS)
    return Row(
        ms=ms,
        ms_low=max(found.ms_low, 0.0),
        ms_high=max(found.ms_high, ms),
        params=size.params,
        macs=size.macs,
        status=found.status,
    )


def _bytes(probe: Probe) -> int:
    graphs = (probe.long, probe.short)
    return sum(int(graph.ByteSize()) for graph in graphs if graph is not None)


def _version() -> str:
    try:
        return version("nas")
    except PackageNotFoundError:
        return "not installed"


def _say_nothing(what: str, done: int, total: int) -> None:
    del what, done, total
