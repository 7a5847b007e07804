"""Measurements on a device: ``nas build-lut``, ``check-lut``, ``bench``, ``profile``."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, BadParameter, Exit, Option

from nas.architecture import Architecture
from nas.cli import options
from nas.deploy.quantize import Precision
from nas.documents import require_file, require_new
from nas.errors import StoppedError, UserError
from nas.latency.device import Device
from nas.printing import command, print_line
from nas.report.following import (
    Following,
    after_architecture,
    after_drift,
    after_model,
    after_table,
    default_table,
)
from nas.space import DEFAULT_SPACE, SearchSpace

if TYPE_CHECKING:
    from nas.latency.table import LatencyTable

PrecisionName = Annotated[Precision, Option(help="Numbers to compute with.")]


def _positive(value: float | None) -> float | None:
    if value is not None and not value > 0:
        raise BadParameter(f"must be above 0, got {value:g}.")
    return value


@options.options_of(place=Device, without=("name",))
def build_lut(
    *,
    space: options.Space = DEFAULT_SPACE,
    device: options.Device = "cpu",
    place: options.Given,
    runtime: options.RuntimeName = "onnxruntime",
    threads: options.Threads = 1,
    batch: options.Batch = 1,
    precision: PrecisionName = "float32",
    quick: Annotated[
        bool, Option("--quick", help="Measure a part of the layers, model the others.")
    ] = False,
    minutes: Annotated[
        float | None,
        Option(callback=_positive, help="Most minutes; by default what the space needs."),
    ] = None,
    out: Annotated[Path | None, Option(help="The CSV to write.")] = None,
    resume: options.Resume = False,
    force: options.Force = False,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    loaded = SearchSpace.load(space)

    from nas.latency.target import detect_target

    target = detect_target(
        Device(name=device, **place),
        runtime=runtime,
        threads=threads,
        batch=batch,
        precision=precision,
    )
    path = out or default_table(loaded, target)

    from nas import pipeline
    from nas.latency.build import BuildSettings
    from nas.report.terminal import ProgressBar

    settings = BuildSettings(space_argument=space, seed=seed, quick=quick, minutes=minutes)
    words = ["nas", "build-lut", "--space", space, "--device", device]
    words += [word for name, value in place.items() for word in (f"--{name}", value)]
    words += ["--runtime", runtime]
    words += ["--threads", str(threads), "--batch", str(batch), "--precision", precision]
    words += ["--quick"] if quick else []
    words += ["--minutes", f"{minutes:g}"] if minutes else []
    words += ["--out", str(path)]
    try:
        with ProgressBar("measuring", quiet=as_json) as bar:
            table = pipeline.build_table(
                loaded,
                path,
                target=target,
                settings=settings,
                resume=resume,
                force=force,
                progress=bar,
            )
    except KeyboardInterrupt:
        raise StoppedError(
            f"stopped; what was measured is kept, to continue: {command(*words, '--resume')}"
        ) from None
    print_built(table, after_table(loaded, space, table), as_json=as_json)


def print_built(table: LatencyTable, following: Following, *, as_json: bool) -> None:
    """Where a new table lies, how well it predicts, and whether ``nas slim`` will take it."""
    from nas.latency.estimator import STATES
    from nas.report.measurements import print_validation

    paths = {"table": str(table.path), "sidecar": str(table.path.with_suffix(".json"))}
    if table.validation:
        paths["picture"] = str(table.path.with_suffix(".png"))
    validation = table.validation.model_dump(mode="json") if table.validation else None
    refusal = table.refusal(*STATES)
    result = {**paths, "rows": len(table.rows), "validation": validation, "refusal": refusal}

    def show() -> None:
        print_validation(table)
        if table.refusal("warm"):
            print_line(f"nas slim will refuse this table: {refusal}")
        elif refusal:
            print_line(f"nas slim --state cold will refuse this table: {refusal}")

    options.print_result(result, paths, as_json=as_json, show=show, following=following)


def check_lut(
    table: Annotated[Path, Argument(metavar="TABLE", help="A latency table.")],
    networks: Annotated[int, Option(min=4, help="Whole networks to measure.")] = 28,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """A shifted table is corrected; the exit code is 1 if the table has to be built again."""
    from nas.latency.table import LatencyTable, build_command

    loaded = LatencyTable.load(table)

    from nas.latency.drift import measure_drift, reanchored
    from nas.report.measurements import print_drift
    from nas.report.terminal import ProgressBar

    with ProgressBar("checking", quiet=as_json) as bar:
        drift = measure_drift(loaded, networks=networks, seed=seed, progress=bar)
    rebuild = build_command(table, loaded.provenance, "--force")
    if drift.action == "re-anchor":
        date = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        reanchored(loaded, drift, date).save()
    command = rebuild if drift.action == "rebuild" else None
    result = {"table": str(table), **drift.model_dump(mode="json"), "command": command}
    options.print_result(
        result,
        as_json=as_json,
        show=lambda: print_drift(drift, table, rebuild=rebuild),
        following=None if command else after_drift(loaded),
    )
    if drift.action == "rebuild":
        raise Exit(1)


@options.options_of(place=Device, without=("name",))
def bench(
    *,
    files: Annotated[list[Path], Argument(metavar="FILE...", help="ONNX models.")],
    table: Annotated[Path | None, Option(help="Tell ms in this table's unit.")] = None,
    device: Annotated[
        str | None, Option(help="Device to measure on; by default the table's, or cpu.")
    ] = None,
    place: options.Given,
    runtime: options.RuntimeName = "onnxruntime",
    threads: options.Threads = 1,
    batch: options.Batch = 1,
    as_json: options.Json = False,
) -> None:
    """With a table its reference networks are measured too, which tell what the machine is like."""
    for file in files:
        require_file(file)

    from nas.latency.table import LatencyTable

    prices = LatencyTable.load(table) if table else None
    precision: Precision = prices.target.precision if prices else "float32"

    import numpy as np

    from nas.deploy.quantize import precision_of, weighted_operators
    from nas.deploy.weights import read_onnx
    from nas.latency.measure import Session
    from nas.latency.target import detect_target
    from nas.report.measurements import compare_precisions, print_found
    from nas.report.show import describe_latency
    from nas.report.terminal import ProgressBar

    asked = Device(name=device or "cpu", **place)
    if prices and not device and not place:
        asked = prices.target.place
    target = detect_target(
        asked, runtime=runtime, threads=threads, batch=batch, precision=precision
    )
    if prices:
        prices.require_target(target)
    models = {str(file): read_onnx(file) for file in files}
    precisions = {name: precision_of(model) for name, model in models.items()}
    for name, own in precisions.items():
        if precision == "int8" != own:
            raise UserError(f"{name}: is a {own} model, and {table} tells ms of int8 networks")
    graphs = {name: (lambda model=model: model) for name, model in models.items()}
    unit = prices.unit if prices else None
    with ProgressBar("measuring", quiet=as_json) as bar:
        rng = np.random.default_rng(0)
        found = Session(target, graphs, rng, unit, progress=bar).measure()
    networks = {name: weighted_operators(model) for name, model in models.items()}
    notes = compare_precisions(found, precisions, networks)
    result = {
        "target": target.model_dump(mode="json"),
        "table": str(table) if table else None,
        "shift": dict(found.shift),
        "machine": found.machine._asdict(),
        "spread": found.spread,
        "models": [
            {"file": name, "precision": own, **describe_latency(found.latencies[name])}
            for name, own in precisions.items()
        ],
        "notes": notes,
    }
    hardware = f"{target.hardware}, {runtime} {target.runtime_version}"

    def show() -> None:
        print_found(found, precisions, title=f"{hardware}, {threads} thread(s), batch {batch}")
        for note in notes:
            print_line(note)
        if unit and (line := unit.describe_shift(found.shift, str(table))):
            print_line(line)

    following = after_model(files[0], models[str(files[0])])
    options.print_result(result, as_json=as_json, show=show, following=following)


@options.options_of(place=Device, without=("name",))
def profile(
    *,
    architectures: Annotated[
        list[str], Argument(metavar="ARCHITECTURE...", help="Names or JSON files.")
    ],
    device: options.Device = "cpu",
    place: options.Given,
    runtime: options.RuntimeName = "onnxruntime",
    threads: options.Threads = 1,
    batch: options.Batch = 1,
    out: Annotated[Path | None, Option(help="A picture (PNG) to write.")] = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    networks = {name: Architecture.load(name) for name in architectures}
    if out:
        require_new(out, force=force)

    import numpy as np

    from nas.latency.profile import profile_networks
    from nas.latency.target import detect_target
    from nas.report.measurements import print_profiles
    from nas.report.pictures import draw_profiles
    from nas.report.show import describe_profiles
    from nas.report.terminal import ProgressBar

    asked = Device(name=device, **place)
    target = detect_target(asked, runtime=runtime, threads=threads, batch=batch)
    with ProgressBar("measuring", quiet=as_json) as bar:
        rng = np.random.default_rng(0)
        found = profile_networks(networks, target, rng=rng, progress=bar)
    if out:
        draw_profiles(out, found, target)
    options.print_result(
        describe_profiles(found, target),
        {"picture": out} if out else {},
        as_json=as_json,
        show=lambda: print_profiles(found, target),
        following=after_architecture(architectures[0]),
    )
