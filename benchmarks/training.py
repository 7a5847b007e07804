"""What a sandwich step costs, how it grows, and that memory stays flat, in one run.

    .venv/bin/python benchmarks/training.py                # half an hour on two x86 cores
    .venv/bin/python benchmarks/training.py --parts step   # about 2 minutes

`step`: a step of the supernet, as in the middle of an epoch with all batches kept that it learns
from, against one step each of the same four architectures as stand-alone networks, in turn, same
batch; the mixture pass of path choice apart. `memory`: peaks of the whole process, each in a
process of its own. `growth`: time against depth and against batch, with a
straight line through each. `flat`: memory from step 100 to step 2,000 of a small supernet.
Times need an idle machine.
"""

from __future__ import annotations

import os

from nas.machine import OPENMP

os.environ.update(OPENMP | os.environ)  # as the command line does

import argparse
import gc
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from nas.architecture import Architecture
from nas.latency.target import detect_target
from nas.network import build
from nas.report.terminal import print_table
from nas.space import DEFAULT_SPACE, SearchSpace
from nas.supernet import Supernet
from nas.training.batches import SPACING, Batch, BatchHistory, TaughtBatch
from nas.training.distillation import Distillation
from nas.training.step import make_optimizer
from nas.training.supernets import add_gradients, add_path_gradients, draw_subnets, fresh_supernet

PARTS = ("step", "memory", "growth", "flat")
BATCH, PIXELS, CLASSES = 64, 64, 10
STUDENTS = 3
DRAWS, ROUNDS = 4, 5
DEPTHS, BATCHES = (2, 8, 14, 20, 26), (16, 32, 64, 96, 128)
FLAT_STEPS = (100, 2000)


class Line(NamedTuple):
    """One figure of the final table."""

    figure: str
    value: str
    bound: str = ""
    verdict: str = ""


def main() -> None:
    """Run the parts that were asked for and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--peak-of", choices=("supernet", "largest"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_of:
        print(peak_megabytes(arguments.peak_of))
        return
    if len(arguments.parts) > 1:
        for part in arguments.parts:  # each in a process of its own, which starts with no memory
            subprocess.run([sys.executable, __file__, "--parts", part], check=True)
        return
    (part,) = arguments.parts
    parts = {"step": of_step, "memory": of_memory, "growth": of_growth, "flat": of_flat}
    load = os.getloadavg()[0]
    print_table(
        ("figure", "value", "bound", ""),
        list(parts[part]()),
        title=f"{part}: {DEFAULT_SPACE}, batch {BATCH}, {torch.get_num_threads()} threads of "
        f"{detect_target().cpu_model}; load at the start {load:.1f}",
    )


def of_step() -> Iterator[Line]:
    """A sandwich step against plain steps of the same networks, taking turns."""
    space = SearchSpace.load(DEFAULT_SPACE)
    data, rng, supernet = batch(BATCH), np.random.default_rng(0), trained(space)
    optimizer, history = optimizer_of(supernet), full_history(BATCH)
    times: list[tuple[float, float]] = []
    for _ in range(DRAWS):
        subnets = draw_subnets(space, rng, 2)
        others = [alone(architecture) for architecture in (space.largest(), *subnets)]
        works = (
            lambda subnets=subnets: sandwich_step(supernet, optimizer, data, subnets, history),
            lambda others=others: [plain_step(*other, data) for other in others],
        )
        for index in range(ROUNDS + 1):
            order = (0, 1) if index % 2 else (1, 0)
            found = {which: seconds(works[which]) for which in order}
            if index:  # first steps allocate
                times.append((found[0], found[1]))
    joint, plain = (statistics.median(it) for it in zip(*times, strict=True))
    yield Line("sandwich step", f"{1000 * joint:.0f} ms")
    yield Line("its four networks, one by one", f"{1000 * plain:.0f} ms")
    ratio = statistics.median(one / other for one, other in times)
    yield bounded("ratio of the two, median", ratio, 1.10)
    mixture = statistics.median(
        [seconds(lambda: mixture_pass(supernet, data, rng)) for _ in range(ROUNDS + 1)][1:]
    )
    share = f"{1000 * mixture:.0f} ms, {mixture / joint:.2f} of the sandwich step"
    yield Line("mixture pass, in place of one random subnet every fourth step", share)


def of_memory() -> Iterator[Line]:
    """Peaks of processes that train the supernet, and the largest network alone."""
    peaks = {}
    for what in ("supernet", "largest"):
        command = [sys.executable, __file__, "--peak-of", what]
        found = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[what] = float(found.stdout)
        yield Line(f"peak memory of training, {what}", f"{peaks[what]:.0f} MB")
    yield bounded("ratio of the two", peaks["supernet"] / peaks["largest"], 1.25)


def of_growth() -> Iterator[Line]:
    """Time of a step against depth and batch, and how straight the line is."""
    deep = {blocks: step_seconds(deepened(blocks), BATCH) for blocks in DEPTHS}
    yield straight("blocks of stage 3,", deep)
    space = SearchSpace.load(DEFAULT_SPACE)
    yield straight("images of a batch,", {count: step_seconds(space, count) for count in BATCHES})


def of_flat() -> Iterator[Line]:
    """Memory of the process between two steps of a long training."""
    space = SearchSpace.load("demo_64px")
    supernet, rng, data = trained(space), np.random.default_rng(0), batch(8)
    optimizer, history = optimizer_of(supernet), full_history(8)
    found = []
    for number in range(1, FLAT_STEPS[1] + 1):
        sandwich_step(supernet, optimizer, data, draw_subnets(space, rng, 2), history)
        if number in FLAT_STEPS:
            found.append(resident_megabytes())
    text = f"{found[0]:.0f} MB, {found[1]:.0f} MB"
    steps = f"{FLAT_STEPS[0]} and {FLAT_STEPS[1]}"
    figure = f"memory of {space.name}, batches of 8, at steps {steps}: {text}; ratio"
    yield bounded(figure, found[1] / found[0], 1.05)


def peak_megabytes(what: str) -> float:
    """The peak of three steps above what the process held before."""
    space, data = SearchSpace.load(DEFAULT_SPACE), batch(BATCH)
    before = resident_megabytes()
    if what == "supernet":
        supernet, rng = trained(space), np.random.default_rng(0)
        optimizer, history = optimizer_of(supernet), full_history(BATCH)
        for _ in range(3):
            sandwich_step(supernet, optimizer, data, draw_subnets(space, rng, 2), history)
    else:
        network, optimizer = alone(space.largest())
        for _ in range(3):
            plain_step(network, optimizer, data)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6 - before


def trained(space: SearchSpace) -> Supernet:
    """A supernet as the training makes it."""
    supernet = fresh_supernet(space, seed=0, layer_scale=0.1)
    return supernet.to(memory_format=torch.channels_last).train()


def optimizer_of(network: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of the training."""
    return make_optimizer(network, learning_rate=1e-3, weight_decay=0.02)


def full_history(images: int) -> BatchHistory:
    """As many as an epoch keeps, each of other images, for the three subnets of a step."""
    history = BatchHistory(STUDENTS)
    for step in range((STUDENTS + 1) * SPACING + 1):
        earlier, target = batch(images, seed=step), torch.zeros(images, CLASSES)
        history.add(TaughtBatch(earlier.images, earlier.labels, target))
    return history


def sandwich_step(
    supernet: Supernet,
    optimizer: torch.optim.Optimizer,
    data: Batch,
    subnets: list[Architecture],
    history: BatchHistory,
) -> None:
    """One optimiser step on the gradients of the largest and of all subnets."""
    networks = [supernet.space.largest(), *subnets]
    add_gradients(supernet, data, networks, Distillation(0.5), history=history)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def mixture_pass(supernet: Supernet, data: Batch, rng: np.random.Generator) -> None:
    """The gradients of the path logits."""
    add_path_gradients(supernet, data, rng=rng, temperature=1.0, latency=None)
    supernet.zero_grad(set_to_none=True)


def plain_step(network: nn.Module, optimizer: torch.optim.Optimizer, data: Batch) -> None:
    """One optimiser step of a stand-alone network."""
    functional.cross_entropy(network(data.images), data.labels).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def alone(architecture: Architecture) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A stand-alone network and its optimiser."""
    network = build(architecture).to(memory_format=torch.channels_last).train()
    return network, optimizer_of(network)


def batch(images: int, seed: int = 0) -> Batch:
    """Random images (N, 3, PIXELS, PIXELS) and labels (N,)."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(images, 3, PIXELS, PIXELS, generator=generator)
    labels = torch.randint(CLASSES, (images,), generator=generator)
    return Batch(pixels.to(memory_format=torch.channels_last), labels, images, PIXELS)


def step_seconds(space: SearchSpace, images: int) -> float:
    """The median time of a sandwich step whose subnets are as large as they can be.

    Random subnets would differ from depth to depth.
    """
    supernet, data = trained(space), batch(images)
    optimizer, history = optimizer_of(supernet), full_history(images)
    subnets = [space.largest()] * STUDENTS
    times = [
        seconds(lambda: sandwich_step(supernet, optimizer, data, subnets, history))
        for _ in range(6)
    ]
    return statistics.median(times[1:])


def deepened(blocks: int) -> SearchSpace:
    """The default space with so many further blocks in stage 3."""
    space = SearchSpace.load(DEFAULT_SPACE).model_dump(mode="json", exclude_defaults=True)
    space["stages"][2]["blocks"] = [{**space["stages"][2]["blocks"][0], "repeat": blocks}]
    return SearchSpace.model_validate(space)


def straight(name: str, points: Mapping[int, float]) -> Line:
    """A least-squares line through times, and the share of their variance that it explains."""
    x, y = np.array(list(points)), 1000 * np.array(list(points.values()))
    slope, intercept = np.polyfit(x, y, 1)
    rest = y - slope * x - intercept
    r2 = 1 - rest.var() / y.var()
    text = f"{slope:.1f} ms each + {intercept:.0f} ms, R2 {r2:.3f}"
    return Line(f"time over {name} {x[0]} to {x[-1]}", text)


def bounded(figure: str, value: float, most: float) -> Line:
    """A figure with its bound."""
    return Line(figure, f"{value:.3f}", f"at most {most:g}", "met" if value <= most else "MISSED")


def seconds(work: Callable[[], None]) -> float:
    """Wall-clock time."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def resident_megabytes() -> float:
    """What the process holds now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


if __name__ == "__main__":
    main()
