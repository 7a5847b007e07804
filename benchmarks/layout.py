"""Training and evaluation by the layout of images in memory: channels first, and last.

    .venv/bin/python benchmarks/layout.py                      # three minutes on two x86 cores

Images a second of published networks, without an optimiser, and of supernets whose largest, middle
and smallest network learn; the best of four batches each.
"""

from __future__ import annotations

import os

from nas.machine import OPENMP

os.environ.update(OPENMP | os.environ)  # as the command line does

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nas.architecture import Architecture
from nas.network import build
from nas.report.terminal import print_table
from nas.space import SearchSpace
from nas.supernet import Supernet

NETWORKS = {
    "efficientnet_lite_0": (128, 32),
    "mobilevit_v2_050": (128, 32),
    "mobilevit_v1_xxs": (128, 32),
    "efficientformer_v1_l1": (224, 8),
    "efficientformer_v2_s0": (128, 32),
    "efficientvit_m0": (224, 16),
    "pvt_v2_b0": (128, 16),
    "levit_128s": (224, 16),
}
"""The side of images in pixels, and images of a batch."""
SPACES = ("mobile_64px", "cifar10_32px", "mobilenet_64px", "efficientvit_64px")
BATCH, BATCHES = 64, 4


def main() -> None:
    """Measure and print."""
    lines = []
    for name, (side, batch) in NETWORKS.items():
        network = build(Architecture.load(name).with_input_size(side)).train()
        lines.append((name, *compared(learning(network), side, batch)))
        network.eval()
        with torch.no_grad():
            lines.append((f"{name}, evaluation", *compared(network, side, batch)))
    for name in SPACES:
        space = SearchSpace.load(name)
        lines.append((name, *compared(supernet_learning(space), space.largest_size, BATCH)))
    print_table(("network or supernet", "channels first", "last, images a second", ""), lines)


def learning(network: nn.Module) -> Callable[[Tensor], object]:
    """A step of the network alone."""

    def step(images: Tensor) -> None:
        network.zero_grad(set_to_none=True)
        cross_entropy(network(images), torch.zeros(len(images), dtype=torch.long)).backward()

    return step


def supernet_learning(space: SearchSpace) -> Callable[[Tensor], object]:
    """A step of three networks of a space."""
    supernet = Supernet(space).train()
    networks = space.largest(), space.decode(space.uniform(0.5)), space.smallest()

    def step(images: Tensor) -> None:
        supernet.zero_grad(set_to_none=True)
        for network in networks:
            labels = torch.zeros(len(images), dtype=torch.long)
            cross_entropy(supernet(images, network), labels).backward()

    return step


def compared(run: Callable[[Tensor], object], side: int, batch: int) -> tuple[str, str, str]:
    """Images a second in both layouts, and their ratio."""
    images = torch.randn(batch, 3, side, side)
    first = speed(run, images)
    last = speed(run, images.contiguous(memory_format=torch.channels_last))
    return f"{first:.1f}", f"{last:.1f}", f"{last / first:.2f}"


def speed(run: Callable[[Tensor], object], images: Tensor) -> float:
    """Images a second of the best batch, after one to get warm."""
    run(images)
    seconds = []
    for _ in range(BATCHES):
        start = time.perf_counter()
        run(images)
        seconds.append(time.perf_counter() - start)
    return len(images) / min(seconds)


if __name__ == "__main__":
    main()
