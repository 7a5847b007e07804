"""What path choice costs the networks, and what it learns, on CIFAR-10.

    .venv/bin/python benchmarks/paths.py      # half an hour on two x86 cores, --seeds 6 an hour

Trains the same supernet with and without the mixture pass, several seeds each, and compares the
accuracies that the largest, eight random and the smallest subnet inherit; then one of them again,
whose path probabilities must be the very same. 5,000 training images; 2,500 more judge. Runs that
are in --out are used again, or continued.
"""

from __future__ import annotations

import os

from nas.machine import OPENMP

os.environ.update(OPENMP | os.environ)  # as the command line does

import argparse
from pathlib import Path

import numpy as np
import torch
from prepared import run_at

from nas.data import Dataset
from nas.report.terminal import print_table
from nas.space import SearchSpace
from nas.training.evaluation import inherited_accuracy
from nas.training.run import Run
from nas.training.settings import DataSettings, SupernetSettings
from nas.training.supernets import Probabilities, path_probabilities

SUBNETS = 8


def main() -> None:
    """Train what is missing, compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="parquet:../shared/data")
    parser.add_argument("--space", default="cifar10_32px")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_paths"))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3, help="at least 2")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error(f"--seeds: must be at least 2, to tell their spread, got {arguments.seeds}")
    if not Path(arguments.data.partition(":")[2]).exists():
        print(f"skipped: {arguments.data} is not here")
        return
    torch.set_num_threads(1)
    found: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for seed in range(arguments.seeds):
        for path_choice in (True, False):
            found[path_choice].append(accuracies(*trained(arguments, seed, path_choice)))
    with_it, without = np.array(found[True]), np.array(found[False])
    lead = with_it - without
    rows = {
        "with": with_it.mean(0),
        "without": without.mean(0),
        "spread between seeds": without.std(0, ddof=1),
        "with less without": lead.mean(0),
        "standard error": lead.std(0, ddof=1) / len(lead) ** 0.5,
    }
    print_table(
        ("mixture pass", "largest", f"{SUBNETS} random", "smallest"),
        [(name, *(f"{100 * it:.1f} %" for it in row)) for name, row in rows.items()],
        title=f"{arguments.space}: {arguments.seeds} seeds",
    )
    first, again = (
        path_probabilities(trained(arguments, 0, True, suffix)[0].load_supernet())
        for suffix in ("", "_again")
    )
    least, most = extremes(first)
    print(f"probabilities of layers other than identity: {least:.2f} to {most:.2f}; 0.50 at first")
    print(f"the same again from the same seed: {'yes' if first == again else 'NO'}")


def trained(
    arguments: argparse.Namespace, seed: int, path_choice: bool, suffix: str = ""
) -> tuple[Run, Dataset]:
    """A run, and its images."""
    settings = SupernetSettings(
        epochs=arguments.epochs, batch_size=100, seed=seed, path_choice=path_choice
    )
    return run_at(
        arguments.out / f"seed{seed}_{'paths' if path_choice else 'plain'}{suffix}",
        SearchSpace.load(arguments.space),
        DataSettings(spec=arguments.data, limit=7_500, search_share=1 / 3),
        settings,
    )


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
