"""Training one network alone: epochs of ordinary steps, by a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from nas.architecture import Architecture
from nas.data import Dataset
from nas.data.augmentation import RandAugment, erase, mix, soft_targets
from nas.data.images import resize
from nas.deploy.pretrained import class_axes
from nas.errors import UserError
from nas.network import build
from nas.progress import SILENT, Progress
from nas.training.batches import Batch
from nas.training.distillation import Distillation, Teacher, diverge
from nas.training.evaluation import evaluation_images, find_answers
from nas.training.loop import RATE_FACTOR, SetbackError, Training
from nas.training.processes import Processes
from nas.training.settings import Recipe
from nas.training.step import (
    DropPath,
    in_precision,
    keeping_statistics,
    make_optimizer,
    scheduled_rate,
    with_fresh_weights,
)


def fresh_network(architecture: Architecture, *, seed: int, layer_scale: float) -> nn.Module:
    """A network with random weights that depend on ``seed`` alone."""
    return with_fresh_weights(partial(build, architecture), seed, layer_scale)


def train_alone(
    architecture: Architecture,
    dataset: Dataset,
    recipe: Recipe,
    *,
    network: nn.Module | None = None,
    progress: Progress = SILENT,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """The architecture, trained from scratch or from ``network``; UserError if it goes wrong."""
    if network is None:
        network = fresh_network(architecture, seed=recipe.seed, layer_scale=recipe.layer_scale)
    training = NetworkTraining(
        architecture, network, dataset, recipe, progress=progress, device=device
    )
    try:
        while not training.is_finished:
            training.run_epoch()
    except SetbackError as setback:
        raise UserError(
            f"training alone: {setback.reason} in epoch {training.epoch + 1}; take a learning "
            f"rate below {recipe.learning_rate:g}"
        ) from None
    return training.delivered


class NetworkTraining(Training):
    """The training of one network, and of the moving average of its weights, if it has one."""

    settings: Recipe

    def __init__(
        self,
        architecture: Architecture,
        network: nn.Module,
        dataset: Dataset,
        recipe: Recipe,
        *,
        teacher: Teacher | None = None,
        progress: Progress = SILENT,
        device: torch.device | str = "cpu",
    ) -> None:
        size, processes = architecture.input_size, Processes(device=torch.device(device))
        super().__init__(recipe, dataset, size, progress, processes)
        self.architecture, self.teacher = architecture, teacher
        self.loss_names = ("labels",) if teacher is None else ("labels", "distillation")
        if recipe.resolutions:
            network = MultiScale(architecture, network, recipe.resolutions)
        self.network: nn.Module = network.to(processes.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.saved = nn.ModuleDict({"network": self.network})
        self.average = _averaged(self.network, recipe.averaging) if recipe.averaging else None
        if self.average is not None:
            self.saved["average"] = self.average
        self._forward = in_precision(self.network, processes.device, recipe.precision)
        self.optimizer = make_optimizer(
            self.network, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        classifier = class_axes(architecture)
        self._classifier = [
            parameter
            for name, parameter in self.network.named_parameters()
            if name.removeprefix("weights.") in classifier
        ]
        if recipe.distortions:
            distortion = RandAugment(recipe.distortions, recipe.magnitude)
            self.augmentation = dataclasses.replace(self.augmentation, distortion=distortion)

    @property
    def delivered(self) -> nn.Module:
        """The network of the averaged weights if there is an average."""
        found = self.network if self.average is None else self.average.module
        return found.extract() if isinstance(found, MultiScale) else found

    def evaluate(self) -> Mapping[str, float]:
        images = evaluation_images(self.dataset).at(self.architecture.input_size)
        hits, _ = find_answers(self.delivered, images)
        return {"search slice": int(hits.sum()) / len(images)}

    def start_epoch(self, draws: np.random.Generator) -> None:
        self._draws = draws
        self.network.train()
        self.network.requires_grad_(not self._learns_head_alone)
        for parameter in self._classifier:
            parameter.requires_grad_(True)

    @property
    def _learns_head_alone(self) -> bool:
        return self.epoch < self.settings.head_epochs

    @property
    def _keeps_norms(self) -> bool:
        return self._learns_head_alone or self.settings.norms == "keep"

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0: first the head's, then that of all weights."""
        recipe, first = self.settings, self.plan.first_steps[self.settings.head_epochs]
        if step < first:
            peak, warmup, steps = recipe.head_learning_rate, 0.0, first
        else:
            peak, warmup = recipe.learning_rate, recipe.warmup
            step, steps = step - first, self.plan.total_steps - first
        rate = scheduled_rate(step, steps=steps, peak=peak, warmup=warmup)
        return RATE_FACTOR**self.setbacks * rate

    def add_gradients(self, batch: Batch, step: int) -> Tensor:  # noqa: ARG002
        recipe, draws = self.settings, self._draws
        images = resize(batch.images, batch.resolution)
        targets = soft_targets(batch.labels, len(self.dataset.classes), recipe.smoothing)
        if recipe.erasing:
            images = erase(images, recipe.erasing, draws)
        images, targets = mix(
            images, targets, mixup_alpha=recipe.mixup, cutmix_alpha=recipe.cutmix, rng=draws
        )
        with DropPath(recipe.drop_path, draws).applied_to({"": self.network}):
            keeping = keeping_statistics(self.network) if self._keeps_norms else nullcontext()
            with keeping:
                logits = self._forward(images)
        loss = functional.cross_entropy(logits, targets)
        losses = [loss.detach()]
        if self.teacher is not None:
            divergence = diverge(logits, self.teacher(images), "kl")
            loss = Distillation(recipe.distillation).loss(loss, divergence)
            losses.append(divergence.detach())
        loss.backward()  # type: ignore[no-untyped-call]
        if recipe.clipping is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clipping)
        return torch.stack(losses)

    def update_weights(self, step: int) -> None:
        super().update_weights(step)
        if self.average is not None:
            self.average.update_parameters(self.network)


class MultiScale(nn.Module):
    """The weights of a network, for square images of each of ``resolutions``.

    Attention biases of a smaller map are a leading corner; those that the network lacks start at 0.
    Raises ValueError if a layer has other weights, not merely more, at another resolution.
    """

    def __init__(
        self, architecture: Architecture, network: nn.Module, resolutions: Sequence[int]
    ) -> None:
        super().__init__()
        self.architecture = architecture
        with torch.device("meta"):
            plain = {side: build(architecture.with_input_size(side)) for side in resolutions}
        self._plain = tuple(plain.items())  # no child modules: they hold no weights
        self.weights = build(architecture.with_input_size(max(resolutions)))
        self.weights.to(next(network.parameters()))
        whole = self.weights.state_dict()
        for module in plain.values():
            for name, tensor in module.state_dict().items():
                if any(p > w for p, w in zip(tensor.shape, whole[name].shape, strict=True)):
                    raise ValueError(f"{name}: {tensor.shape} is no corner of {whole[name].shape}")
        with torch.no_grad():
            for name, tensor in network.state_dict().items():
                if whole[name].shape != tensor.shape:
                    whole[name].zero_()
                whole[name][_corner(tensor)] = tensor

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, channels, S, S) of one of the resolutions to logits (N, classes)."""
        module = dict(self._plain)[images.shape[-1]].train(self.training)
        return functional_call(module, self._views(module), (images,), strict=True)  # type: ignore[no-any-return]

    def extract(self) -> nn.Module:
        """An ordinary network at the architecture's own size, with a copy of the weights."""
        with torch.device("meta"):
            network = build(self.architecture)
        state = {name: it.detach().clone() for name, it in self._views(network).items()}
        network.load_state_dict(state, strict=True, assign=True)
        return network.requires_grad_(True).train(self.training)

    def _views(self, module: nn.Module) -> dict[str, Tensor]:
        whole = self.weights.state_dict(keep_vars=True)
        return {
            name: whole[name] if whole[name].shape == it.shape else whole[name][_corner(it)]
            for name, it in module.state_dict().items()
        }


def _averaged(network: nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average; after n steps it keeps (1 + n) / (10 + n), or ``decay``."""

    def update(averages: Sequence[Tensor], currents: Sequence[Tensor], steps: Tensor | int) -> None:
        kept = min(decay, (1 + int(steps)) / (10 + int(steps)))
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                average.lerp_(current, 1 - kept)
            else:
                average.copy_(current)  # a number of batches

    return AveragedModel(network, multi_avg_fn=update, use_buffers=True)


def _corner(part: Tensor) -> tuple[slice, ...]:
    return tuple(slice(0, side) for side in part.shape)
