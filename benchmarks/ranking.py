"""Whether a supernet ranks networks as they turn out when each is trained alone, on CIFAR-10.

    .venv/bin/python benchmarks/ranking.py     # about an hour on two x86 cores
    .venv/bin/python benchmarks/ranking.py --variants default "shared norms" "labels only"

10,000 training images; the test images judge or, with --judges search, 2,500 held out of the
training set. Twelve networks that span the space are trained alone, twice each, by a recipe with
its own rate; then the inherited accuracies of each supernet, trained from several seeds, are
compared with theirs, and trained on from inherited weights for a quarter of the epochs. Everything
is resumable: what is finished in --out is used again.
"""

from __future__ import annotations

import os

from nas.machine import OPENMP

os.environ.update(OPENMP | os.environ)  # as the command line does

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from prepared import run_at

from nas.data import Dataset
from nas.report.pictures import draw_check
from nas.report.terminal import ProgressBar, print_check, print_table
from nas.space import SearchSpace
from nas.statistics import Interval
from nas.training.alone import train_alone
from nas.training.check import JOURNAL, Check, check_supernet
from nas.training.evaluation import accuracy, inherited_network
from nas.training.run import Run
from nas.training.settings import DataSettings, Recipe, SupernetSettings, like_the_supernet

BATCHES_OF_100 = {
    "staggered": False,
    "batch_size": 100,
    "path_interval": 1,
    "path_learning_rate": 0.02,
}
"""With a mixture every step: what was the default before."""
VARIANTS: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "shared norms": ({"norms": "shared"}, {}),
    "same images for all": ({}, {"staggered": False}),
    "labels only": ({}, {"distillation": 0.0}),
    "no path choice": ({}, {"path_choice": False}),
    "a mixture every step": ({}, {"path_interval": 1}),
    "three random subnets": ({}, {"random_subnets": 3}),
    "batches of 100": ({}, BATCHES_OF_100),
    "batches of 100, labels only": ({}, BATCHES_OF_100 | {"distillation": 0.0}),
    "batches of 100, shared norms": ({"norms": "shared"}, BATCHES_OF_100),
    "a rate of 3e-3": ({}, {"learning_rate": 3e-3}),
    "a rate of 6e-3": ({}, {"learning_rate": 6e-3}),
    "a rate of 8e-3": ({}, {"learning_rate": 8e-3}),
    "batches of 32": ({}, {"batch_size": 32}),
    "one random subnet": ({}, {"random_subnets": 1, "path_interval": 8}),
}
"""What differs from the space's file, and from the default settings."""

KEPT = Path(__file__).with_name("ranking_alone.jsonl")
"""Accuracies on the test images of networks that were trained alone before, in an hour and more;
without the file they are trained again."""

BATCH, ALONE_BATCH = 50, 100
"""Of supernets, whose gradients are means over several networks, and of networks alone, which learn
as well from smaller batches, in more time."""


def main() -> None:
    """Train what is missing, compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="parquet:../shared/data")
    parser.add_argument("--space", default="cifar10_32px")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_ranking"))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["default"])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--architectures", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=2, help="of each network alone")
    parser.add_argument("--supernet-seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--alone-rate", type=float, default=4e-3)
    parser.add_argument("--judges", choices=("test", "search"), default="test")
    arguments = parser.parse_args()
    if not Path(arguments.data.partition(":")[2]).exists():
        print(f"skipped: {arguments.data} is not here")
        return
    rows: list[tuple[str, ...]] = []
    for name in arguments.variants:
        of_seeds = []
        for seed in arguments.supernet_seeds:
            run, dataset = trained(name, seed, arguments)
            if arguments.judges == "test":
                dataset = replace(dataset, search=dataset.test)
            check = checked(run, dataset, arguments)
            on = trained_on(run, dataset, check, arguments.judges)
            of_seeds.append(Figures.of(check, on))
            rows.append((f"{name}, seed {seed}", *of_seeds[-1].columns()))
        rows.append((f"{name}, mean", *mean(of_seeds).columns()))
        (arguments.out / "figures.json").write_text(json.dumps(rows, indent=2))
    print_table(
        (
            "supernet",
            "tau",
            "interval",
            "between seeds",
            "gap",
            "trained on",
            "inherited",
            "largest",
        ),
        rows,
        title=f"{arguments.space}, {arguments.epochs} epochs, {check.images} images judge",
    )


def trained(name: str, seed: int, arguments: argparse.Namespace) -> tuple[Run, Dataset]:
    """The run of a variant and a seed, trained if it is not yet."""
    in_space, in_settings = VARIANTS[name]
    space = SearchSpace.load(arguments.space)
    space = SearchSpace.model_validate({**space.model_dump(exclude_defaults=True), **in_space})
    data = DataSettings(spec=arguments.data, limit=12_500, search_share=0.2)
    settings = SupernetSettings.model_validate(
        {"epochs": arguments.epochs, "batch_size": BATCH, "seed": seed, **in_settings}
    )
    path = arguments.out / f"{name} seed{seed}".replace(", ", "_").replace(" ", "_")
    return run_at(path, space, data, settings)


def checked(run: Run, dataset: Dataset, arguments: argparse.Namespace) -> Check:
    """The comparison with networks trained alone, which all variants share."""
    shared = arguments.out / f"{arguments.judges}_{JOURNAL}"
    (run.path / JOURNAL).unlink(missing_ok=True)  # it may be of other judges
    if not shared.exists() and arguments.judges == "test" and KEPT.exists():
        shutil.copy(KEPT, shared)
    if shared.exists():
        shutil.copy(shared, run.path / JOURNAL)
    with ProgressBar("checking") as bar:
        check = check_supernet(
            run,
            dataset,
            recipe_of(run, arguments.alone_rate),
            architectures=arguments.architectures,
            seeds=arguments.seeds,
            progress=bar,
        )
    shutil.copy(run.path / JOURNAL, shared)
    print_check(check)
    draw_check(run.path / "check.png", check, title=run.path.name)
    return check


def recipe_of(run: Run, rate: float) -> Recipe:
    """The recipe of the networks alone: one for all variants."""
    settings = SupernetSettings(epochs=run.settings.epochs, batch_size=ALONE_BATCH)
    return like_the_supernet(settings).model_copy(update={"learning_rate": rate})


def trained_on(run: Run, dataset: Dataset, check: Check, judges: str) -> float:
    """Mean accuracy after a quarter of the epochs from inherited weights, minus that of alone."""
    path = run.path / f"trained_on_{judges}.json"
    found: list[float] = json.loads(path.read_text()) if path.exists() else []
    supernet = run.load_supernet()
    for compared in check.compared[len(found) :]:
        recipe = check.recipe.model_copy(
            update={
                "epochs": max(1, check.recipe.epochs // 4),
                "learning_rate": check.recipe.learning_rate / 2,
            }
        )
        architecture = compared.architecture
        network = inherited_network(supernet, architecture, dataset.train)
        trained = train_alone(architecture, dataset, recipe, network=network)
        found.append(accuracy(trained, dataset.search.at(architecture.input_size)))
        path.write_text(json.dumps(found))
    return float(np.mean(found) - np.mean([one.mean_alone for one in check.compared]))


@dataclass(frozen=True)
class Figures:
    """Of one supernet, or means over several; accuracies and differences of them as shares."""

    tau: float
    tau_interval: Interval | None
    between_seeds: float | None
    gap: float
    trained_on: float
    inherited: float
    largest: float

    @classmethod
    def of(cls, check: Check, trained_on: float) -> Figures:
        """Those of a check; ``trained_on``: the gap after training on."""
        return cls(
            check.tau,
            check.tau_interval,
            check.tau_between_seeds,
            check.gap,
            trained_on,
            float(np.mean([it.inherited for it in check.compared])),
            check.compared[-1].inherited,
        )

    def columns(self) -> tuple[str, ...]:
        """Gaps in points."""
        interval, between = self.tau_interval, self.between_seeds
        return (
            f"{self.tau:.2f}",
            "" if interval is None else "{:.2f} to {:.2f}".format(*interval),
            "" if between is None else f"{between:.2f}",
            f"{100 * self.gap:+.1f}",
            f"{100 * self.trained_on:+.1f}",
            f"{100 * self.inherited:.1f} %",
            f"{100 * self.largest:.1f} %",
        )


def mean(figures: Sequence[Figures]) -> Figures:
    """Over supernets; a mean of intervals would be none."""
    tau, gap, trained_on, inherited, largest = np.mean(
        [(it.tau, it.gap, it.trained_on, it.inherited, it.largest) for it in figures], axis=0
    )
    return Figures(tau, None, figures[0].between_seeds, gap, trained_on, inherited, largest)


if __name__ == "__main__":
    main()
