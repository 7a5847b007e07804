"""Mixers of five families in one space against those of each family alone, on CIFAR-10.

    .venv/bin/python benchmarks/across.py                    # more than an hour on two x86 cores
    .venv/bin/python benchmarks/across.py --spaces across pvt_v2 --epochs 4

Each space has the same stem, stages, widths and FFNs; only the list of mixers differs. Each is
trained alike on 10,000 images, and slimmed to the same latency with as many evaluations, by one
quick table, which holds the layers of all. Prints test accuracy with inherited weights, predicted
and measured latency of the slimmed and the uniformly scaled network of each. What is finished in
--out is used again.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does; see nas/cli.py

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.delivery.plan import Plan
from nas.delivery.slimming import slim_run
from nas.errors import UserError
from nas.latency.build import build_table
from nas.latency.runtime import detect_target
from nas.latency.table import LatencyTable
from nas.report.progress import Bar
from nas.report.tables import print_networks
from nas.report.training import TrainingBar
from nas.space import SearchSpace
from nas.training.loop import train_supernet
from nas.training.run import SEARCH_RESULT, Run
from nas.training.settings import DataSettings, Settings

ACROSS = "across"
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "efficientformer_v1": ("pooling",),
    "efficientformer_v2": ("attention4d",),
    "efficientvit": ("cascaded_attention",),
    "pvt_v2": ("reduced_attention",),
    "mobilevit": ("separable_attention", "mobilevit_v3_separable_block"),
}
"""The mixers of each family."""


def main() -> None:
    """Train and slim what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="parquet:../shared/data")
    parser.add_argument("--space", default="across_32px")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_across"))
    parser.add_argument("--spaces", nargs="+", choices=[ACROSS, *FAMILIES])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--evaluations", type=int, default=150)
    parser.add_argument("--share", type=float, default=0.5, help="of the largest network's latency")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not Path(arguments.data.partition(":")[2]).exists():
        print(f"skipped: {arguments.data} is not here")
        return

    space = SearchSpace.load(arguments.space)
    table = table_of(space, arguments.out / "table.csv")
    target_ms = round(arguments.share * table.predict(space.largest()), 3)
    rows: list[dict[str, Any]] = []
    for name in arguments.spaces or (ACROSS, *FAMILIES):
        run = trained(space if name == ACROSS else with_mixers(space, name), name, arguments)
        found = slimmed(run, table, target_ms, arguments)
        rows += [
            {**row, "name": f"{name}, {row['name']}"} for row in found if row["name"] != "largest"
        ]
        (arguments.out / "figures.json").write_text(json.dumps(rows, indent=2))
    title = f"{space.name} to {target_ms} ms, {arguments.limit} images, {arguments.epochs} epochs"
    print_networks(rows, title=title)


def with_mixers(space: SearchSpace, family: str) -> SearchSpace:
    """The space with the mixers of one family alone; all else is the same."""
    data = space.model_dump(exclude_defaults=True)
    for stage in data["stages"]:
        for block in stage["blocks"]:
            if "mixer" in block:
                block["mixer"] = _of_kinds(block["mixer"], ("identity", *FAMILIES[family]))
    return SearchSpace.model_validate({**data, "name": f"{space.name}_{family}"})


def _of_kinds(candidates: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> tuple[Any, ...]:
    return tuple(candidate for candidate in candidates if candidate["kind"] in kinds)


def table_of(space: SearchSpace, path: Path) -> LatencyTable:
    """The quick table at ``path``, built if it is not there."""
    if path.exists():
        return LatencyTable.load(path)
    with Bar("measuring") as bar:
        return build_table(
            space,
            detect_target(),
            path,
            space_argument=space.name,
            resume=True,
            force=False,
            progress=bar.update,
            quick=True,
        )


def trained(space: SearchSpace, name: str, arguments: argparse.Namespace) -> Run:
    """The run of a space, trained if it is not yet."""
    data = DataSettings(spec=arguments.data, limit=arguments.limit, seed=arguments.seed)
    dataset = data.load(space.largest_size)
    path = arguments.out / name
    try:
        run = Run.open(path)
    except UserError:
        settings = Settings(epochs=arguments.epochs, batch_size=100, seed=arguments.seed)
        run = Run.create(path, space=space, data=data, settings=settings, dataset=dataset)
    with TrainingBar() as bar:
        train_supernet(run, dataset, resume=True, report=bar.report, tell=bar.say)
    return run


def slimmed(
    run: Run, table: LatencyTable, target_ms: float, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """The networks that slimming a run to the target gives, from its results if they are there."""
    out = run.path / f"slim_{target_ms:g}_{arguments.evaluations}"
    if (out / SEARCH_RESULT).exists():
        networks: list[dict[str, Any]] = json.loads((out / SEARCH_RESULT).read_text())["networks"]
        return networks
    with Bar(f"slimming {run.space.name} to {target_ms} ms") as bar:
        result = slim_run(
            run,
            {"cpu": table},
            Plan(
                targets=({"latency_ms": target_ms},),
                evaluations=arguments.evaluations,
                baselines=False,
                seed=arguments.seed,
            ),
            out=out,
            bar=bar,
            force=True,
            accept_tables=True,
        )
    found: list[dict[str, Any]] = result["networks"]
    return found


if __name__ == "__main__":
    main()
