"""Measurements on a device: ``nas build-lut``, ``check-lut``, ``bench``, ``profile``."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from nas.architecture import Architecture
from nas.cli.options import (
    Batch,
    Device,
    Force,
    Json,
    Resume,
    RuntimeName,
    Seed,
    Space,
    Threads,
    default_table,
    print_json,
    print_paths,
)
from nas.deploy.quantize import Precision
from nas.documents import require_file, require_new
from nas.errors import UserError
from nas.space import DEFAULT_SPACE, SearchSpace


def build_lut(
    space: Space = DEFAULT_SPACE,
    device: Device = "cpu",
    runtime: RuntimeName = "onnxruntime",
    threads: Threads = 1,
    batch: Batch = 1,
    precision: Annotated[Precision, Option(help="Numbers to compute with.")] = "float32",
    quick: Annotated[
        bool, Option("--quick", help="Measure a part of the layers, model the others.")
    ] = False,
    out: Annotated[Path | None, Option(help="The CSV to write.")] = None,
    resume: Resume = False,
    force: Force = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    loaded = SearchSpace.load(space)

    from nas.latency.target import detect_target

    target = detect_target(
        device, runtime=runtime, threads=threads, batch=batch, precision=precision
    )
    path = out or default_table(loaded, target)

    from nas import pipeline
    from nas.latency.build import BuildSettings
    from nas.report.terminal import ProgressBar, print_validation

    try:
        with ProgressBar("measuring", quiet=as_json) as bar:
            table = pipeline.build_table(
                loaded,
                path,
                target=target,
                settings=BuildSettings(space_argument=space, seed=seed, quick=quick),
                resume=resume,
                force=force,
                progress=bar,
            )
    except KeyboardInterrupt:
        raise UserError(
            f"stopped; what was measured is kept, to continue: nas build-lut --space {space} "
            f"--device {device} --runtime {runtime} --threads {threads} --batch {batch} "
            f"--precision {precision} {'--quick ' if quick else ''}--out {path} --resume"
        ) from None
    paths = {"table": str(path), "sidecar": str(path.with_suffix(".json"))}
    if table.validation:
        paths["picture"] = str(path.with_suffix(".png"))
    if as_json:
        validation = table.validation.model_dump(mode="json") if table.validation else None
        print_json({**paths, "rows": len(table.rows), "validation": validation})
        return
    print_validation(table)
    print_paths(paths)


def check_lut(
    table: Annotated[Path, Argument(metavar="TABLE", help="A latency table.")],
    networks: Annotated[int, Option(min=4, help="Whole networks to measure.")] = 28,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """A shifted table is corrected; the exit code is 1 if the table has to be built again."""
    from nas.latency.table import LatencyTable, build_command

    loaded = LatencyTable.load(table)

    from nas.latency.networks import measure_drift, reanchored
    from nas.report.terminal import ProgressBar, print_drift

    with ProgressBar("checking", quiet=as_json) as bar:
        drift = measure_drift(loaded, networks=networks, seed=seed, progress=bar)
    rebuild = f"{build_command(table, loaded.provenance)} --force"
    if drift.action == "re-anchor":
        date = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        reanchored(loaded, drift, date).save()
    if as_json:
        command = rebuild if drift.action == "rebuild" else None
        print_json({"table": str(table), **drift.model_dump(mode="json"), "command": command})
    else:
        print_drift(drift, table)
        verdicts = {
            "none": "the table holds",
            "re-anchor": f"shifted: all latencies by {100 * drift.shift:+.1f} %; {table.stem}.json "
            "keeps the earlier calibration",
            "rebuild": f"the table does not hold any more; build it again: {rebuild}",
        }
        print(verdicts[drift.action])
    if drift.action == "rebuild":
        raise Exit(1)


def bench(
    files: Annotated[list[Path], Argument(metavar="FILE...", help="ONNX models.")],
    device: Device = "cpu",
    runtime: RuntimeName = "onnxruntime",
    threads: Threads = 1,
    batch: Batch = 1,
    as_json: Json = False,
) -> None:
    for file in files:
        require_file(file)

    import numpy as np

    from nas.deploy.quantize import precision_of
    from nas.deploy.weights import read_onnx
    from nas.latency.measure import PATIENT, measure
    from nas.latency.target import detect_target
    from nas.report.terminal import print_table

    target = detect_target(device, runtime=runtime, threads=threads, batch=batch)
    models = [read_onnx(file) for file in files]
    found = measure(models, target, rng=np.random.default_rng(0), plan=PATIENT)
    rows = [
        {
            "file": str(file),
            "precision": precision_of(model),
            "ms": estimate.ms,
            "ms_low": estimate.ms_low,
            "ms_high": estimate.ms_high,
        }
        for file, model, estimate in zip(files, models, found, strict=True)
    ]
    if as_json:
        print_json({"target": target.model_dump(mode="json"), "models": rows})
        return
    print_table(
        ("file", "precision", "ms", "95 % interval"),
        [
            (
                *(str(row["file"]), str(row["precision"]), f"{row['ms']:.3f}"),
                f"{row['ms_low']:.3f} to {row['ms_high']:.3f}",
            )
            for row in rows
        ],
        title=f"{target.hardware}, {runtime} {target.runtime_version}, {threads} thread(s), "
        f"batch {batch}",
    )


def profile(
    architectures: Annotated[
        list[str], Argument(metavar="ARCHITECTURE...", help="Names or JSON files.")
    ],
    device: Device = "cpu",
    runtime: RuntimeName = "onnxruntime",
    threads: Threads = 1,
    batch: Batch = 1,
    out: Annotated[Path | None, Option(help="A picture (PNG) to write.")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    networks = {name: Architecture.load(name) for name in architectures}
    if out:
        require_new(out, force=force)

    import numpy as np

    from nas.latency.networks import Runner
    from nas.latency.profile import profile_networks
    from nas.latency.target import detect_target
    from nas.report.pictures import draw_profiles
    from nas.report.show import describe_profiles
    from nas.report.terminal import ProgressBar, print_profiles

    target = detect_target(device, runtime=runtime, threads=threads, batch=batch)
    with ProgressBar("measuring", quiet=as_json) as bar:
        runner = Runner(target, np.random.default_rng(0), progress=bar)
        found = profile_networks(networks, runner)
    if out:
        draw_profiles(out, found, target)
    if as_json:
        print_json(describe_profiles(found, target))
        return
    print_profiles(found, target)
    if out:
        print_paths({"picture": str(out)})
