"""How fast this machine trains and evaluates: seconds of an image, measured in a few steps.

A plan is made of these before anything is trained; a training that runs says its own pace.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch.nn import functional

from nas.architecture import Architecture
from nas.space import SearchSpace
from nas.training.alone import fresh_network
from nas.training.batches import Batch
from nas.training.distillation import Distillation
from nas.training.settings import SupernetSettings
from nas.training.step import make_optimizer
from nas.training.supernets import add_gradients, add_path_gradients, draw_subnets, fresh_supernet

BATCH_SIZE = 64
FIRST, STEPS, ROUNDS = 2, 4, 2
"""Steps that allocate memory and make modules; those of a round, as many as from one mixture to the
next; rounds, of which the faster counts: other work on the machine slows some of them."""
STEP_SECONDS = 0.5
"""Of a timed step: images of a batch that would take longer are left out."""
PIXELS = 64 * 64**2
"""Of a batch that is timed, at most: of larger ones the work for each image is nearly all."""


def sandwich_seconds(
    space: SearchSpace, settings: SupernetSettings, device: torch.device | str = "cpu"
) -> float:
    """Seconds of a training image in steps of the sandwich rule, as ``settings`` have them."""
    supernet = fresh_supernet(
        space, seed=0, layer_scale=settings.layer_scale, anchored=bool(settings.weights)
    )
    supernet.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = make_optimizer(supernet, learning_rate=1e-6, weight_decay=0.0)
    batch = _batch(space.largest(), settings.batch_size, device)
    rng = np.random.default_rng(0)
    teaching = Distillation(settings.distillation, settings.divergence, None)
    has_mixture = settings.path_choice and bool(space.paths)

    def step(number: int, batch: Batch) -> None:
        mixes = has_mixture and number % settings.path_interval == 0
        others = max(0, settings.random_subnets - mixes)
        networks = [space.largest(), *draw_subnets(space, rng, others)]
        add_gradients(supernet, batch, networks, teaching, precision=settings.precision)
        if mixes:
            add_path_gradients(supernet, batch, rng=rng, temperature=1.0, latency=None)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return _image_seconds(step, batch, device)


def alone_seconds(architecture: Architecture, device: torch.device | str = "cpu") -> float:
    """Seconds of a training image when one network trains alone."""
    network = fresh_network(architecture, seed=0, layer_scale=0.1)
    network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = make_optimizer(network, learning_rate=1e-6, weight_decay=0.0)
    batch = _batch(architecture, BATCH_SIZE, device)

    def step(number: int, batch: Batch) -> None:  # noqa: ARG001
        loss = functional.cross_entropy(network(batch.images), batch.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return _image_seconds(step, batch, device)


def forward_seconds(architecture: Architecture, device: torch.device | str = "cpu") -> float:
    """Seconds of an image that a network classifies."""
    network = fresh_network(architecture, seed=0, layer_scale=0.1).eval()
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = _batch(architecture, BATCH_SIZE, device)
    with torch.inference_mode():
        return _image_seconds(lambda _, part: network(part.images), batch, device)


def _batch(architecture: Architecture, most: int, device: torch.device | str) -> Batch:
    """Random images: what they show makes no step longer."""
    channels, side, _ = architecture.input_shape
    size = max(4, min(most, PIXELS // side**2))
    draws = torch.Generator().manual_seed(0)
    images = torch.randn((size, channels, side, side), generator=draws)
    labels = torch.randint(architecture.classes, (size,), generator=draws)
    placed = images.to(device, memory_format=torch.channels_last)
    return Batch(placed, labels.to(device), size, side)


def _image_seconds(
    step: Callable[[int, Batch], object], batch: Batch, device: torch.device | str
) -> float:
    """The seconds of a step for each of its images."""
    took = min(_seconds(partial(step, 1, batch), device) for _ in range(FIRST))
    size = max(min(4, batch.size), min(batch.size, int(batch.size * STEP_SECONDS / took)))
    part = Batch(batch.images[:size], batch.labels[:size], size, batch.resolution)

    def one_round() -> None:
        for number in range(STEPS):
            step(number, part)

    return min(_seconds(one_round, device) for _ in range(ROUNDS)) / (STEPS * size)


def _seconds(work: Callable[[], object], device: torch.device | str) -> float:
    _wait(device)
    started = time.monotonic()
    work()
    _wait(device)
    return time.monotonic() - started


def _wait(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
