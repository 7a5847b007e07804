"""Measuring on a device that nothing here can reach: ``nas bundle``, ``import-lut``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from nas.cli import options
from nas.cli.table import PrecisionName, print_built
from nas.printing import print_line
from nas.report.following import Following, after_table, default_table
from nas.space import DEFAULT_SPACE, SearchSpace

if TYPE_CHECKING:
    from nas.latency.target import Target


def bundle(
    out: Annotated[Path, Option(help="The folder to write.")],
    space: options.Space = DEFAULT_SPACE,
    device: Annotated[str, Option(help="Device of that machine, such as cpu or cuda.")] = "cpu",
    runtime: options.RuntimeName = "onnxruntime",
    threads: options.Threads = 1,
    batch: options.Batch = 1,
    precision: PrecisionName = "float32",
    minutes: Annotated[
        float | None, Option(min=0.1, help="Minutes to measure there; by default 2.")
    ] = None,
    seed: options.Seed = 0,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Needed there: Python 3.8 or later, numpy and the runtime."""
    loaded = SearchSpace.load(space)

    from nas.latency.build import BuildSettings
    from nas.latency.bundle import write_bundle
    from nas.latency.by_hand import target_to_be
    from nas.report.terminal import ProgressBar

    settings = BuildSettings(space_argument=space, seed=seed, minutes=minutes)
    target = target_to_be(device, runtime, threads=threads, batch=batch, precision=precision)
    with ProgressBar("writing", quiet=as_json) as bar:
        write_bundle(loaded, out, target, settings, force=force, progress=bar)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())

    def show() -> None:
        print_line(f"copy {out} to the device ({size / 1e6:.0f} MB), and in it run: python3 run.py")
        print_line("then copy it back, or its samples.jsonl alone")

    options.print_result(
        {"bundle": str(out), "bytes": size},
        as_json=as_json,
        show=show,
        following=Following("when it is back", ("nas", "import-lut", out)),
    )


def import_lut(
    folder: Annotated[Path, Argument(metavar="BUNDLE", help="A folder of nas bundle.")],
    name: Annotated[
        str | None, Option(help="Name of the device; by default what its machine is called.")
    ] = None,
    out: Annotated[Path | None, Option(help="The CSV to write.")] = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    from nas.latency.bundle import import_bundle
    from nas.report.pictures import draw_calibration
    from nas.report.terminal import ProgressBar

    def path(space: SearchSpace, target: Target) -> Path:
        return out or default_table(space, target)

    with ProgressBar("reading", quiet=as_json) as bar:
        table = import_bundle(folder, path, name=name, force=force, progress=bar)
    if table.validation:
        draw_calibration(table.path.with_suffix(".png"), table)
    space = table.provenance.space_argument
    following = after_table(SearchSpace.load(space), space, table)
    print_built(table, following, as_json=as_json)
