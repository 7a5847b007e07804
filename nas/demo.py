"""The whole pipeline on embedded data, on a space small enough for a coffee break."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas.latency.build import build_table
from nas.latency.target import detect_target
from nas.report import write_search
from nas.report.terminal import ProgressBar
from nas.slim.plan import Plan
from nas.slim.result import SearchResult
from nas.slim.slimming import slim_run
from nas.space import SearchSpace
from nas.training.run import Run
from nas.training.settings import DataSettings, SupernetSettings
from nas.training.supernets import train_supernet

SPACE = "demo_64px"
TARGET_SHARE = 0.6
"""Of the largest network's latency: a target that has to be earned, on any machine."""
EPOCHS = 8
EVALUATIONS = 60
"""Of slimming, of random search and of evolution each, which keeps the demo to a coffee break."""
SEARCH_SHARE = 0.25
"""More than the usual tenth: of 1,437 training images a tenth would tell accuracies in steps of
0.7 points."""


def run_demo(out: Path, *, quiet: bool) -> tuple[SearchResult, dict[str, Any]]:
    """Build a table, train a supernet on digits, slim it to a target, export and measure.

    Returns the result, and its summary with the target and the paths of all files.
    Everything is written below ``out``; what an earlier demo left there is replaced.
    """
    space = SearchSpace.load(SPACE)
    table_path = out / f"{SPACE}_cpu.csv"
    with ProgressBar("1 of 3, measuring layers", quiet=quiet) as bar:
        bar.say(f"1 of 3: measuring each layer that {SPACE} can contain on this machine")
        table = build_table(
            space,
            detect_target(),
            table_path,
            force=True,
            progress=bar,
        )
        bar.say(f"  {len(table.rows)} layers, in {table_path}")
    data = DataSettings(spec="digits", search_share=SEARCH_SHARE)
    dataset = data.load(space.largest_size)
    run = Run.create(
        out / "run",
        space=space,
        data=data,
        settings=SupernetSettings(epochs=EPOCHS),
        dataset=dataset,
        force=True,
    )
    with ProgressBar("training", quiet=quiet) as bar:
        bar.say("2 of 3: training one supernet that holds every network of the space")
        train_supernet(run, dataset, progress=bar)
    target_ms = round(TARGET_SHARE * table.predict(space.largest()), 3)
    with ProgressBar("3 of 3, slimming", quiet=quiet) as bar:
        bar.say(f"3 of 3: slimming it to {target_ms:g} ms")
        result = slim_run(
            run,
            {"cpu": table},
            Plan(targets=({"latency_ms": target_ms},), evaluations=EVALUATIONS),
            out=out / "slim",
            progress=bar,
            force=True,
            accept_tables=True,  # a busy machine must not end the demo; a line says so
        )
    written = write_search(out / "slim", result)
    return result, {
        **written,
        "target_ms": target_ms,
        "paths": {"table": str(table_path), "run": str(run.path), **written["paths"]},
    }
