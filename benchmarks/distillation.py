"""What subnets gain from the largest network's outputs, in a short training and in a long one.

    .venv/bin/python benchmarks/distillation.py        # hours on two x86 cores

Trains supernets on CIFAR-10 that differ in how much of the labels the largest network's outputs
may replace, and prints the mean inherited accuracy of networks that span the space, on the test
images; seeds differ by a point. Long: 40 epochs of 4,000 images, until the largest network knows
nearly all of them by heart. Runs that are in --out are used again, or continued.
"""

from __future__ import annotations

import os

from nas.machine import OPENMP

os.environ.update(OPENMP | os.environ)  # as the command line does

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from prepared import run_at

from nas.report.terminal import print_table
from nas.space import SearchSpace
from nas.training.check import spanning_architectures
from nas.training.evaluation import inherited_accuracy
from nas.training.settings import DataSettings, SupernetSettings

ARCHITECTURES = 12


class Length(NamedTuple):
    """Of a training: images in all, the share of them that judges, epochs."""

    images: int
    search_share: float
    epochs: int


LENGTHS = {"short": Length(12_500, 0.2, 12), "long": Length(6_500, 5 / 13, 40)}
SHARES = (0.0, 0.5, 1.0)
"""Of the labels, at most; what counts is that times what the largest network knows."""


def main() -> None:
    """Train what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="parquet:../shared/data")
    parser.add_argument("--space", default="cifar10_32px")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_distillation"))
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, default=list(LENGTHS))
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    arguments = parser.parse_args()
    if not Path(arguments.data.partition(":")[2]).exists():
        print(f"skipped: {arguments.data} is not here")
        return
    torch.set_num_threads(1)
    space = SearchSpace.load(arguments.space)
    rows = []
    for name in arguments.lengths:
        for share in arguments.shares:
            found = np.array(
                [inherited(space, name, share, seed, arguments) for seed in arguments.seeds]
            )
            mean, smallest, largest = 100 * found.mean(axis=0)
            rows.append(
                (name, f"{share:g}", f"{mean:.1f} %", f"{smallest:.1f} %", f"{largest:.1f} %")
            )
    print_table(
        ("training", "distillation", f"mean of {ARCHITECTURES}", "smallest", "largest"),
        rows,
        title=f"{space.name}: inherited accuracy, {len(arguments.seeds)} seed(s)",
    )


def inherited(
    space: SearchSpace, name: str, share: float, seed: int, arguments: argparse.Namespace
) -> tuple[float, float, float]:
    """Mean accuracy of networks that span the space, and that of the smallest and largest."""
    length = LENGTHS[name]
    data = DataSettings(spec=arguments.data, limit=length.images, search_share=length.search_share)
    settings = SupernetSettings(epochs=length.epochs, batch_size=50, distillation=share, seed=seed)
    path = arguments.out / f"{name}_{share:g}_seed{seed}"
    run, dataset = run_at(path, space, data, settings)
    supernet = run.load_supernet()
    picked = spanning_architectures(space, ARCHITECTURES)
    found = [inherited_accuracy(supernet, it, dataset, dataset.test) for it in picked]
    return float(np.mean(found)), found[0], found[-1]


if __name__ == "__main__":
    main()
