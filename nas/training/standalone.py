"""Training one network alone: epochs of ordinary steps, by a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from nas.architecture import Architecture
from nas.data import Dataset
from nas.data.augmentation import RandAugment, erase, mix, soft_targets
from nas.data.images import resize
from nas.errors import UserError
from nas.network import build
from nas.training.distillation import diverge
from nas.training.drop_path import drop_path
from nas.training.epochs import Learn, Training
from nas.training.evaluate import accuracy, judged_images
from nas.training.multiscale import MultiScale
from nas.training.optimizer import make_optimizer, set_learning_rate
from nas.training.precision import in_precision
from nas.training.progress import Report
from nas.training.recipe import Recipe
from nas.training.resolutions import Batch
from nas.training.setbacks import SetbackError
from nas.training.teacher import Teacher


def fresh_network(architecture: Architecture, *, seed: int, layer_scale: float) -> nn.Module:
    """A network with random weights that depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(architecture)
    for name, parameter in network.named_parameters():
        if name.endswith(".gamma"):
            nn.init.constant_(parameter, layer_scale)
    return network


def train_alone(
    architecture: Architecture,
    dataset: Dataset,
    recipe: Recipe,
    *,
    network: nn.Module | None = None,
    report: Report | None = None,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """The architecture, trained from scratch or from ``network``; nothing is written or judged.

    Raises:
        UserError: the training went wrong, see ``nas/training/setbacks.py``.
    """
    if network is None:
        network = fresh_network(architecture, seed=recipe.seed, layer_scale=recipe.layer_scale)
    training = Standalone(architecture, network, dataset, recipe, report=report, device=device)
    while not training.is_finished:
        try:
            training.run_epoch()
        except SetbackError as setback:
            raise UserError(
                f"training alone: {setback.reason} in epoch {training.epoch + 1}; take a learning "
                f"rate below {recipe.learning_rate:g}"
            ) from None
    return training.delivered


class Standalone(Training):
    """The training of one network: its weights, and their moving average if the recipe wants it."""

    def __init__(
        self,
        architecture: Architecture,
        network: nn.Module,
        dataset: Dataset,
        recipe: Recipe,
        *,
        teacher: Teacher | None = None,
        report: Report | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(
            recipe, dataset, input_size=architecture.input_size, report=report, device=device
        )
        self.architecture, self.recipe, self.teacher = architecture, recipe, teacher
        if recipe.resolutions:
            network = MultiScale(architecture, network, recipe.resolutions)
        self.network: nn.Module = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = _averaged(self.network, recipe.averaging) if recipe.averaging else None
        self._forward = in_precision(self.network, self.device, recipe.precision)
        self.optimizer = make_optimizer(
            self.network, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        if recipe.distortions:
            distortion = RandAugment(recipe.distortions, recipe.magnitude)
            self.augmentation = dataclasses.replace(self.augmentation, distortion=distortion)

    @property
    def delivered(self) -> nn.Module:
        """The network that the training is for: the average of the weights if there is one."""
        found = self.network if self.average is None else self.average.module
        return found.extract() if isinstance(found, MultiScale) else found

    @property
    def saved(self) -> nn.Module:
        """All tensors of the training but the optimizer's, under stable names."""
        parts = {"network": self.network}
        return nn.ModuleDict(parts if self.average is None else parts | {"average": self.average})

    def judge(self) -> None:
        """Find the accuracy on the search slice."""
        images = judged_images(self.dataset).at(self.architecture.input_size)
        found = accuracy(self.delivered, images)
        self.accuracies = {"search slice": found}
        self.show(0)

    def run_epoch(self) -> dict[str, float]:
        """Train for an epoch; gives its mean losses, its last rate, and its speed."""
        self.take_steps()
        self.finish_epoch()
        return {
            **{f"loss/{name}": loss for name, loss in self.losses.items()},
            "learning_rate": self.rate(self.last_step),
            "images_per_second": self.images_per_second,
        }

    def begin_epoch(self, draws: np.random.Generator) -> Learn:
        """Ordinary steps; what is done to the images comes from ``draws``."""
        self.network.train()
        return partial(self._learn, draws=draws)

    def named(self, means: Sequence[float]) -> dict[str, float]:
        """With the labels, and with the teacher if there is one."""
        return dict(zip(("labels", "distillation"), means, strict=False))

    def _learn(
        self, images: Tensor, labels: Tensor, batch: Batch, step: int, *, draws: np.random.Generator
    ) -> Tensor:
        images = resize(images, batch.resolution)
        recipe = self.recipe
        targets = soft_targets(labels, len(self.dataset.classes), recipe.smoothing)
        if recipe.erasing:
            images = erase(images, recipe.erasing, draws)
        images, targets = mix(
            images, targets, mixup_alpha=recipe.mixup, cutmix_alpha=recipe.cutmix, rng=draws
        )
        with drop_path({"": self.network}, recipe.drop_path, draws):
            logits = self._forward(images)
        loss = functional.cross_entropy(logits, targets)
        losses = [loss.detach()]
        if self.teacher is not None:
            divergence = diverge(logits, self.teacher(images), "kl")
            loss = (1 - recipe.distillation) * loss + recipe.distillation * divergence
            losses.append(divergence.detach())
        loss.backward()  # type: ignore[no-untyped-call]
        if recipe.clipping is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clipping)
        set_learning_rate(self.optimizer, self.rate(step - 1))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.network)
        return torch.stack(losses)


def _averaged(network: nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average of weights and statistics.

    In the first steps it forgets faster, (1 + n) / (10 + n) of it is kept after n steps: else the
    fresh weights would weigh for 1 / (1 - decay) steps.
    """

    def update(averages: Sequence[Tensor], currents: Sequence[Tensor], steps: Tensor | int) -> None:
        kept = min(decay, (1 + int(steps)) / (10 + int(steps)))
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                average.lerp_(current, 1 - kept)
            else:
                average.copy_(current)  # a number of batches

    return AveragedModel(network, multi_avg_fn=update, use_buffers=True)
