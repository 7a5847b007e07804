"""Mixers of five families in one space against those of each family alone, on CIFAR-10.

    .venv/bin/python benchmarks/across.py                    # more than an hour on two x86 cores
    .venv/bin/python benchmarks/across.py --spaces across pvt_v2 --epochs 4

Each space has the same stem, stages, widths and FFNs; only the list of mixers differs: ``across``
has those of five families, ``with_mobilenet`` inverted residuals besides. Each is trained alike on
10,000 images, and slimmed to the same latency with as many evaluations, by one quick table, which
holds the layers of all. Prints test accuracy with inherited weights, predicted and measured latency
of the slimmed and the uniformly scaled network of each, and what the slimmed ones reach when they
are trained alone. What is finished in --out is used again.
"""

from __future__ import annotations

import os

from nas.machine import OPENMP

os.environ.update(OPENMP | os.environ)  # as the command line does

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from prepared import run_at, table_at

from nas import pipeline
from nas.architecture import Architecture
from nas.data import Dataset
from nas.latency.table import LatencyTable
from nas.report.terminal import ProgressBar, print_networks, print_table
from nas.slim.plan import Plan
from nas.slim.result import FILES, FinalNetwork, SearchResult
from nas.space import SearchSpace
from nas.training.alone import train_alone
from nas.training.evaluation import accuracy
from nas.training.run import Run
from nas.training.settings import DataSettings, SupernetSettings, like_the_supernet

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "efficientformer_v1": ("pooling",),
    "efficientformer_v2": ("attention4d",),
    "efficientvit": ("cascaded_attention",),
    "pvt_v2": ("reduced_attention",),
    "mobilevit": ("separable_attention", "mobilevit_v3_separable_block"),
    "mobilenet": ("mobile_residual",),
}
"""The mixers of each family."""
INVERTED_RESIDUAL = {"kind": "mobile_residual", "expansion": [2, 3, 4], "activation": "gelu"}
OF_FIVE = tuple(kind for name in FAMILIES if name != "mobilenet" for kind in FAMILIES[name])
SPACES: Mapping[str, tuple[str, ...]] = {
    "across": OF_FIVE,
    "with_mobilenet": (*OF_FIVE, "mobile_residual"),
    **FAMILIES,
}
"""The mixers of each space."""
Mixers = Sequence[Mapping[str, Any]]
BATCH, ALONE_BATCH = 50, 100
"""As in ranking.py."""


def main() -> None:
    """Train and slim what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="parquet:../shared/data")
    parser.add_argument("--space", default="across_32px")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_across"))
    parser.add_argument("--spaces", nargs="+", choices=SPACES, default=list(SPACES))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--share", type=float, default=0.5, help="of the largest network's latency")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=2, help="of the networks trained alone")
    arguments = parser.parse_args()
    if not Path(arguments.data.partition(":")[2]).exists():
        print(f"skipped: {arguments.data} is not here")
        return

    space = with_inverted_residuals(SearchSpace.load(arguments.space))
    table = table_at(arguments.out / "table.csv", space, quick=True)
    target_ms = round(arguments.share * table.predict(space.largest()), 3)
    # all are trained before anything is measured
    runs = {name: trained(space, name, arguments) for name in arguments.spaces}
    rows: list[FinalNetwork] = []
    found = {}
    for name, (run, dataset) in runs.items():
        out = slimmed(run, table, target_ms, arguments)
        rows += [
            network.model_copy(update={"name": f"{name}, {network.name}"})
            for network in SearchResult.load(out / FILES["report"]).networks
            if network.target
        ]
        found[name] = trained_alone(out, run, dataset, arguments.seeds)
        figures = [[network.summary() for network in rows], found]
        (arguments.out / "figures.json").write_text(json.dumps(figures, indent=2))
    title = f"{space.name} to {target_ms} ms, {arguments.limit} images, {arguments.epochs} epochs"
    print_networks(rows, title=title)
    print_table(
        ("slimmed in", *(f"seed {seed}" for seed in range(arguments.seeds)), "mean"),
        [
            (name, *(f"{100 * one:.1f} %" for one in (*alone, np.mean(alone))))
            for name, alone in found.items()
        ],
        title="test accuracy of the slimmed networks, each trained alone for as many epochs",
    )


def with_inverted_residuals(space: SearchSpace) -> SearchSpace:
    """The space with MobileNet's inverted residual as a further mixer of each slot of mixers."""
    return _with_mixers(space, space.name, lambda mixers: (*mixers, INVERTED_RESIDUAL))


def with_mixers(space: SearchSpace, name: str) -> SearchSpace:
    """The space with the mixers of one of ``SPACES`` alone; all else is the same."""
    kinds = ("identity", *SPACES[name])
    suffix = "" if name == "across" else f"_{name}"
    return _with_mixers(
        space,
        f"{space.name}{suffix}",
        lambda mixers: tuple(mixer for mixer in mixers if mixer["kind"] in kinds),
    )


def _with_mixers(space: SearchSpace, name: str, change: Callable[[Mixers], Mixers]) -> SearchSpace:
    data = space.model_dump(exclude_defaults=True)
    for stage in data["stages"]:
        for block in stage["blocks"]:
            if "mixer" in block:
                block["mixer"] = change(block["mixer"])
    return SearchSpace.model_validate({**data, "name": name})


def trained(space: SearchSpace, name: str, arguments: argparse.Namespace) -> tuple[Run, Dataset]:
    """The run of a space of ``SPACES``, a part of the whole, and its images."""
    return run_at(
        arguments.out / name,
        with_mixers(space, name),
        DataSettings(spec=arguments.data, limit=arguments.limit, seed=arguments.seed),
        SupernetSettings(epochs=arguments.epochs, batch_size=BATCH, seed=arguments.seed),
    )


def trained_alone(out: Path, run: Run, dataset: Dataset, seeds: int) -> list[float]:
    """Test accuracies of the network in ``out`` after as many epochs as its supernet had."""
    path, architecture = out / "alone.json", Architecture.load(out / "architecture.json")
    found: list[float] = json.loads(path.read_text()) if path.exists() else []
    for seed in range(len(found), seeds):
        settings = SupernetSettings(epochs=run.settings.epochs, batch_size=ALONE_BATCH, seed=seed)
        network = train_alone(architecture, dataset, like_the_supernet(settings))
        found.append(accuracy(network, dataset.test.at(architecture.input_size)))
        path.write_text(json.dumps(found))
    return found[:seeds]


def slimmed(run: Run, table: LatencyTable, target_ms: float, arguments: argparse.Namespace) -> Path:
    """The folder of what slimming a run to the target gives, which may be there already."""
    out = run.path / f"slim_{target_ms:g}_{arguments.evaluations}"
    if (out / FILES["result"]).exists():
        return out
    with ProgressBar(f"slimming {run.space.name} to {target_ms} ms") as bar:
        pipeline.slim(
            run,
            table,
            Plan(
                targets=({"latency_ms": target_ms},),
                evaluations=arguments.evaluations,
                baselines=False,
                seed=arguments.seed,
            ),
            out,
            progress=bar,
            force=True,
            accept_tables=True,
        )
    return out


if __name__ == "__main__":
    main()
