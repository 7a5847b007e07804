"""How alike the gradients are that one batch gives several networks, and two batches one network.

    .venv/bin/python benchmarks/ranking.py --variants "same images for all" --supernet-seeds 0
    .venv/bin/python benchmarks/gradients.py --run runs/benchmark_ranking/same_images_for_all_seed0

Cosines over the weights that both networks have, means over batches of 50 training images: of the
largest, the smallest and random networks on the same batch, and of the largest on its two halves.
It is why the networks of a step learn from different batches, see ``nas/training/batches.py``.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nas.architecture import Architecture
from nas.report.terminal import print_table
from nas.supernet import Supernet
from nas.training.run import Run
from nas.training.supernets import draw_subnets

BATCH = 50


def main() -> None:
    """Compare the gradients on a few batches, and print a line for each pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--batches", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = Run.open(arguments.run)
    images = run.data.load(run.image_size).train
    supernet, space = run.load_supernet().train(), run.space
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {}
    for inputs, labels in islice(images.batches(BATCH, rng=rng, drop_last=True), arguments.batches):
        smallest, one, another = draw_subnets(space, rng, 2)
        largest = space.largest()
        drawn = (largest, smallest, one, another)
        of_largest, of_smallest, of_one, of_another = (
            gradient(supernet, it, inputs, labels) for it in drawn
        )
        halves = [
            gradient(supernet, largest, *half)
            for half in zip(inputs.chunk(2), labels.chunk(2), strict=True)
        ]
        for name, pair in (
            ("largest and smallest, same images", (of_largest, of_smallest)),
            ("largest and random, same images", (of_largest, of_one)),
            ("smallest and random, same images", (of_smallest, of_one)),
            ("two random, same images", (of_one, of_another)),
            ("largest, different images", halves),
        ):
            found.setdefault(name, []).append(cosine(*pair))
    print_table(
        ("networks", "cosine", "from", "to"),
        [(name, *(f"{it:.2f}" for it in (np.mean(all_), min(all_), max(all_))))
         for name, all_ in found.items()],
    )  # fmt: skip


def gradient(
    supernet: Supernet, subnet: Architecture, images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Of the cross-entropy, by the names of the supernet's tensors."""
    supernet.zero_grad(set_to_none=True)
    functional.cross_entropy(supernet(images, subnet), labels).backward()
    return {name: it.grad for name, it in supernet.named_parameters() if it.grad is not None}


def cosine(one: dict[str, Tensor], another: dict[str, Tensor]) -> float:
    """Over the entries that both reach; others are 0 or not there."""
    names = one.keys() & another.keys()
    first, second = (
        torch.cat([it[name].flatten() for name in sorted(names)]) for it in (one, another)
    )
    both = (first != 0) & (second != 0)
    return float(functional.cosine_similarity(first[both], second[both], dim=0))


if __name__ == "__main__":
    main()
