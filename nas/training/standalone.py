"""Training one network alone: epochs of ordinary steps, by a recipe."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from nas.architecture import Architecture
from nas.data import Dataset
from nas.data.mixing import erase, mix, soft_targets
from nas.data.rand_augment import RandAugment
from nas.data.resizing import resize
from nas.errors import UserError
from nas.network import build
from nas.training.distillation import diverge
from nas.training.drop_path import drop_path
from nas.training.evaluate import accuracy, judged_images
from nas.training.multiscale import MultiScale
from nas.training.optimizer import make_optimizer, scheduled_rate, set_learning_rate
from nas.training.precision import in_precision
from nas.training.progress import Pace, Progress, Report
from nas.training.recipe import Recipe
from nas.training.resolutions import BatchPlan
from nas.training.teacher import Teacher

REPORT_SECONDS = 0.2
"""Between two reports; reading the losses makes a GPU wait."""


def fresh_network(architecture: Architecture, *, seed: int, layer_scale: float) -> nn.Module:
    """A network with random weights that depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(architecture)
    for name, parameter in network.named_parameters():
        if name.endswith("scale.gamma"):
            nn.init.constant_(parameter, layer_scale)
    return network


def train_alone(
    architecture: Architecture, dataset: Dataset, recipe: Recipe, *, report: Report | None = None
) -> nn.Module:
    """The architecture, trained from scratch; nothing is written, no epoch is judged."""
    network = fresh_network(architecture, seed=recipe.seed, layer_scale=recipe.layer_scale)
    training = Standalone(architecture, network, dataset, recipe, report=report)
    while not training.is_finished:
        training.run_epoch()
    return training.delivered


class Standalone:
    """The state of a training: weights, their moving average, optimizer, finished epochs.

    Everything random in an epoch is drawn from (seed, epoch): on a CPU the weights after the last
    epoch do not depend on how often a training was stopped and its state saved and loaded.
    """

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
        self.architecture, self.dataset = architecture, dataset
        self.recipe, self.teacher = recipe, teacher
        if recipe.resolutions:
            network = MultiScale(architecture, network, recipe.resolutions)
        self.device = torch.device(device)
        self.report = report or (lambda progress: None)
        self.network: nn.Module = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = _averaged(self.network, recipe.averaging) if recipe.averaging else None
        self._forward = in_precision(self.network, self.device, recipe.precision)
        self.optimizer = make_optimizer(
            self.network, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.plan = BatchPlan(
            images=len(dataset.train),
            batch_size=recipe.batch_size,
            input_size=architecture.input_size,
            resolutions=recipe.resolutions,
            epochs=recipe.epochs,
            seed=recipe.seed,
        )
        self.augmentation = dataset.augmentation
        if recipe.distortions:
            distortion = RandAugment(recipe.distortions, recipe.magnitude)
            self.augmentation = dataclasses.replace(self.augmentation, distortion=distortion)
        self.go_on_from(0, {})

    def go_on_from(self, epoch: int, accuracies: Mapping[str, float]) -> None:
        """Count ``epoch`` epochs as finished, whose weights and optimizer were loaded."""
        self.epoch, self.accuracies, self.images_per_second = epoch, accuracies, 0.0
        self.pace = Pace(self.plan.first_steps[epoch], self.plan.total_steps)

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.recipe.epochs

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
        self._report(0, {})

    def run_epoch(self) -> dict[str, float]:
        """Train for an epoch; gives its mean losses, its last rate, and its speed."""
        means = self._train()
        self.epoch += 1
        return {
            **{f"loss/{name}": loss for name, loss in means.items()},
            "learning_rate": self._rate(self.plan.first_steps[self.epoch] - 1),
            "images_per_second": self.images_per_second,
        }

    def _train(self) -> dict[str, float]:
        order, draws = (np.random.default_rng((self.recipe.seed, self.epoch, it)) for it in (0, 1))
        plan = self.plan.epoch(self.epoch)
        batches = self.dataset.train.batches(
            [batch.images for batch in plan], rng=order, augmentation=self.augmentation
        )
        sums: Tensor | None = None
        started = reported = time.monotonic()
        first_step = self.plan.first_steps[self.epoch]
        seen = 0
        means: dict[str, float] = {}
        self.network.train()
        for number, (batch, (images, labels)) in enumerate(zip(plan, batches, strict=True), 1):
            there = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
            losses = self._step(
                resize(there, batch.resolution),
                labels.to(self.device, non_blocking=True),
                self._rate(first_step + number - 1),
                draws,
            )
            found = torch.stack(list(losses.values()))
            sums = found if sums is None else sums + found
            seen += batch.images
            now = time.monotonic()
            if now - reported > REPORT_SECONDS or number == len(plan):
                reported = now
                means = dict(zip(losses, (sums / number).tolist(), strict=True))
                self._require_finite(means)
                self.images_per_second = seen / (now - started)
                self._report(number, means)
        return means

    def _step(
        self, images: Tensor, labels: Tensor, rate: float, draws: np.random.Generator
    ) -> dict[str, Tensor]:
        """Learn from a batch; gives its losses."""
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
        losses = {"labels": loss.detach()}
        if self.teacher is not None:
            divergence = diverge(logits, self.teacher(images), "kl")
            loss = (1 - recipe.distillation) * loss + recipe.distillation * divergence
            losses["distillation"] = divergence.detach()
        loss.backward()  # type: ignore[no-untyped-call]
        if recipe.clipping is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clipping)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.network)
        return losses

    def _rate(self, step: int) -> float:
        recipe = self.recipe
        return scheduled_rate(
            step, steps=self.plan.total_steps, peak=recipe.learning_rate, warmup=recipe.warmup
        )

    def _require_finite(self, losses: Mapping[str, float]) -> None:
        if not all(math.isfinite(loss) for loss in losses.values()):
            raise UserError(
                f"training alone: the loss is not finite in epoch {self.epoch + 1}; take a "
                f"learning rate below {self.recipe.learning_rate:g}"
            )

    def _report(self, steps: int, losses: Mapping[str, float]) -> None:
        step = self.plan.first_steps[self.epoch] + steps
        self.report(
            Progress(
                epoch=min(self.epoch + 1, self.recipe.epochs),
                epochs=self.recipe.epochs,
                step=step,
                total_steps=self.plan.total_steps,
                images_per_second=self.images_per_second,
                remaining_seconds=self.pace.remaining_seconds(step),
                losses=losses,
                accuracies=self.accuracies,
            )
        )


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
