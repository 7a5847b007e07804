"""The whole pipeline on embedded data, on a space small enough for a coffee break."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas.pipeline import build_table, slim, train
from nas.report import describe_search
from nas.report.terminal import ProgressBar
from nas.slim.plan import Plan
from nas.slim.result import SearchResult
from nas.space import SearchSpace
from nas.training.settings import DataSettings, SupernetSettings

SPACE = "demo_64px"
TARGET_SHARE = 0.6
"""Of the largest network's latency: a target that has to be earned, on any machine."""
EPOCHS = 3
EVALUATIONS = 30
"""Of slimming, of random search and of evolution each, which keeps the demo to a coffee break."""
SEARCH_SHARE = 0.25
"""More than the usual tenth: of 1,437 training images a tenth would tell accuracies in steps of
0.7 points."""


def run_demo(out: Path, *, quiet: bool) -> tuple[SearchResult, dict[str, Any]]:
    """Build a table, train a supernet on digits, slim it to a target, export and measure.

    Returns the result, and its description with the target and the paths of all files.
    Everything is written below ``out``; the results of an earlier demo are replaced.
    """
    space = SearchSpace.load(SPACE)
    table_path = out / f"{SPACE}_cpu.csv"
    with ProgressBar("1 of 3, measuring layers", quiet=quiet) as bar:
        bar.say(f"1 of 3: measuring each layer that {SPACE} can contain on this machine")
        table = build_table(space, table_path, force=True, progress=bar)
        bar.say(f"  {len(table.rows)} layers, in {table_path}")
    with ProgressBar("training", quiet=quiet) as bar:
        bar.say("2 of 3: training one supernet that holds every network of the space")
        run = train(
            space,
            out / "run",
            data=DataSettings(search_share=SEARCH_SHARE),
            settings=SupernetSettings(epochs=EPOCHS),
            force=True,
            progress=bar,
        )
    target_ms = round(TARGET_SHARE * table.predict(space.largest()), 3)
    with ProgressBar("3 of 3, slimming", quiet=quiet) as bar:
        bar.say(f"3 of 3: slimming it to {target_ms:g} ms")
        result = slim(
            run,
            table,
            Plan(targets=({"latency_ms": target_ms},), evaluations=EVALUATIONS),
            out / "slim",
            accept_tables=True,  # a busy machine must not end the demo; a line says so
            force=True,
            progress=bar,
        )
    described = describe_search(out / "slim", result)
    paths = {"table": str(table_path), "run": str(run.path), **described["paths"]}
    return result, {**described, "target_ms": target_ms, "paths": paths}
