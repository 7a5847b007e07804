"""What path choice costs the networks, and what it learns, on CIFAR-10.

    .venv/bin/python benchmarks/paths.py      # about 8 minutes on two x86 cores

Trains the same supernet with and without the mixture pass, three seeds each, and compares the
accuracies that the largest, eight random and the smallest subnet inherit; then one of them again,
whose path probabilities must be the very same. 5,000 training images; 2,500 more judge.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does; see nas/cli.py

import argparse
import shutil
from pathlib import Path

import numpy as np

from nas.data import Dataset
from nas.report.tables import print_table
from nas.report.training import TrainingBar
from nas.space import SearchSpace
from nas.training.evaluate import inherited_accuracy
from nas.training.loop import train_supernet
from nas.training.paths import Probabilities, path_probabilities
from nas.training.run import Run
from nas.training.settings import DataSettings, Settings

SEEDS = (0, 1, 2)
SUBNETS = 8


def main() -> None:
    """Train, compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="parquet:../shared/data")
    parser.add_argument("--space", default="cifar10_32px")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_paths"))
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args()
    if not Path(arguments.data.partition(":")[2]).exists():
        print(f"skipped: {arguments.data} is not here")
        return
    space = SearchSpace.load(arguments.space)
    data = DataSettings(spec=arguments.data, limit=7_500, search_share=1 / 3)
    dataset = data.load(space.largest_size)
    found: dict[bool, list[np.ndarray]] = {True: [], False: []}
    learnt: list[Probabilities] = []
    for seed, path_choice in [(seed, it) for seed in SEEDS for it in (True, False)] + [(0, True)]:
        settings = Settings(
            epochs=arguments.epochs, batch_size=100, seed=seed, path_choice=path_choice
        )
        run = trained(arguments.out, space, data, settings, dataset)
        if path_choice:
            learnt.append(path_probabilities(run.load_supernet()))
        if len(found[path_choice]) < len(SEEDS):
            found[path_choice].append(accuracies(run, dataset))
    means = {name: np.mean(found[it], axis=0) for name, it in (("with", True), ("without", False))}
    spread = np.std(np.array(found[False]), axis=0, ddof=1)
    rows = [(name, *(f"{100 * it:.1f} %" for it in mean)) for name, mean in means.items()]
    rows.append(("spread between seeds", *(f"{100 * it:.1f} %" for it in spread)))
    print_table(
        ("mixture pass", "largest", f"{SUBNETS} random", "smallest"), rows, title=space.name
    )
    least, most = extremes(learnt[0])
    print(f"probabilities of layers other than identity: {least:.2f} to {most:.2f}; 0.50 at first")
    print(f"the same again from the same seed: {'yes' if learnt[0] == learnt[-1] else 'NO'}")


def trained(
    out: Path, space: SearchSpace, data: DataSettings, settings: Settings, dataset: Dataset
) -> Run:
    """A fresh run."""
    path = out / f"seed{settings.seed}_{'paths' if settings.path_choice else 'plain'}"
    shutil.rmtree(path, ignore_errors=True)
    run = Run.create(path, space=space, data=data, settings=settings, dataset=dataset)
    with TrainingBar() as bar:
        train_supernet(run, dataset, report=bar.report, tell=bar.say)
    return run


def accuracies(run: Run, dataset: Dataset) -> np.ndarray:
    """Inherited accuracy of the largest, the mean of random ones, and of the smallest."""
    supernet, rng = run.load_supernet(), np.random.default_rng(5)
    random = [run.space.sample(rng) for _ in range(SUBNETS)]
    largest, *middle, smallest = (
        inherited_accuracy(supernet, it, dataset)
        for it in (run.space.largest(), *random, run.space.smallest())
    )
    return np.array([largest, np.mean(middle), smallest])


def extremes(learnt: Probabilities) -> tuple[float, float]:
    """The least and the greatest probability of anything but leaving a slot out."""
    found = [1 - chances["identity"] for chances in learnt.values() if "identity" in chances]
    return min(found), max(found)


if __name__ == "__main__":
    main()
