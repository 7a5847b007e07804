"""Training a supernet: epochs of sandwich steps, each epoch judged, logged and saved."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np
import torch

from nas.data import Dataset
from nas.errors import UserError
from nas.space import SearchSpace
from nas.supernet import Supernet
from nas.training.checkpoint import State, load_model, load_optimizer, save_checkpoint
from nas.training.distillation import above_chance
from nas.training.evaluate import judge
from nas.training.log import Log
from nas.training.optimizer import make_optimizer, scheduled_rate, set_learning_rate
from nas.training.paths import (
    Probabilities,
    add_path_gradients,
    path_probabilities,
    scheduled_temperature,
)
from nas.training.progress import Pace, Progress, Report
from nas.training.run import Run
from nas.training.sandwich import Losses, add_gradients, draw_subnets

REPORT_SECONDS = 0.2
"""Between two reports; reading the losses makes a GPU wait."""


def train_supernet(
    run: Run,
    dataset: Dataset,
    *,
    resume: bool = False,
    report: Report | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Train the supernet of ``run``; with ``resume`` from its last finished epoch on.

    On a CPU, the weights after the last epoch do not depend on how often it was stopped.

    Raises:
        UserError: the data are not the run's; the run has begun and ``resume`` is not asked for;
            the loss is no longer finite; or Ctrl-C, told with the command that continues.
    """
    run.require_images(dataset)
    if run.finished_epochs and not resume:
        raise UserError(f"{run.path}: has begun; {run.resume_command} continues it")
    if run.is_finished:
        return
    try:
        training = _Training(run, dataset, torch.device(device), report or (lambda progress: None))
        with Log(run.log_path, run.tensorboard_path, finished_epochs=training.epoch) as log:
            while training.epoch < run.settings.epochs:
                numbers = training.run_epoch()
                # before saving: a surplus line is dropped
                log.append(training.epoch, numbers, training.path_probabilities())
                training.save()
    except KeyboardInterrupt:
        done = run.finished_epochs
        saved = f"epoch {done} is saved" if done else "no epoch was finished"
        raise UserError(
            f"stopped in epoch {done + 1} of {run.settings.epochs}, {saved}; "
            f"to continue: {run.resume_command}"
        ) from None


def fresh_supernet(space: SearchSpace, *, seed: int, layer_scale: float) -> Supernet:
    """A supernet with random weights that depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        supernet = Supernet(space)
    for name, parameter in supernet.named_parameters():
        if name.endswith("scale/gamma"):
            torch.nn.init.constant_(parameter, layer_scale)
    return supernet


class _Training:
    """The state of a training: weights, optimizer, finished epochs, and what the largest knows."""

    def __init__(self, run: Run, dataset: Dataset, device: torch.device, report: Report) -> None:
        settings = run.settings
        self.run, self.dataset, self.device, self.report = run, dataset, device, report
        self.mixes = settings.path_choice and bool(run.space.paths)
        self.supernet = fresh_supernet(
            run.space, seed=settings.seed, layer_scale=settings.layer_scale
        ).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(
            self.supernet,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            path_learning_rate=settings.path_learning_rate,
        )
        self.epoch, self.teacher = 0, 0.0
        self.accuracies: Mapping[str, float] = {}
        if (state := run.state()) is not None:
            load_model(run.checkpoint_path, self.supernet)
            load_optimizer(run.checkpoint_path, self.supernet, self.optimizer)
            self.epoch, self.teacher, self.accuracies = state.epoch, state.teacher, state.accuracies
        self.batch_size = min(settings.batch_size, len(dataset.train))
        self.epoch_steps = len(dataset.train) // self.batch_size
        self.total_steps = settings.epochs * self.epoch_steps
        self.pace = Pace(self.epoch * self.epoch_steps, self.total_steps)

    def save(self) -> None:
        """Replace the checkpoint."""
        state = State(
            epoch=self.epoch,
            teacher=self.teacher,
            accuracies=dict(self.accuracies),
            recipe_sha256=self.run.recipe_sha256,
        )
        save_checkpoint(self.run.checkpoint_path, self.supernet, self.optimizer, state)

    def path_probabilities(self) -> Probabilities:
        """What the path logits say; nothing without path choice."""
        return path_probabilities(self.supernet) if self.mixes else {}

    def run_epoch(self) -> dict[str, float]:
        """Train for an epoch and judge it; gives the numbers for the log."""
        started = time.monotonic()
        share = self.run.settings.distillation * self.teacher
        means, hits = self._train(share)
        images_per_second = self.epoch_steps * self.batch_size / (time.monotonic() - started)
        self.epoch += 1
        self.teacher = above_chance(hits, self.run.space.classes)
        self.accuracies = judge(self.supernet, self.dataset)
        self._report(0, images_per_second, means)
        last_step = self.epoch * self.epoch_steps - 1
        return {
            **{f"loss/{name}": loss for name, loss in means.items()},
            "distillation_share": share,
            "learning_rate": self._rate(last_step),
            **({"temperature": self._temperature(last_step)} if self.mixes else {}),
            "images_per_second": images_per_second,
            "training_accuracy/largest": hits,
            **{f"accuracy/{name}": value for name, value in self.accuracies.items()},
        }

    def _train(self, share: float) -> tuple[dict[str, float], float]:
        """One pass over the training images: mean losses, and the largest's share of hits."""
        settings, space = self.run.settings, self.run.space
        order, draws, noise = (
            np.random.default_rng((settings.seed, self.epoch, it)) for it in (0, 1, 2)
        )
        batches = self.dataset.train.batches(
            self.batch_size, rng=order, augmentation=self.dataset.augmentation, drop_last=True
        )
        random_subnets = max(0, settings.random_subnets - self.mixes)
        sampled = settings.path_sampling and 2 * self.epoch >= settings.epochs
        probabilities = self.path_probabilities() if sampled else {}
        sums = torch.zeros(len(Losses._fields) + self.mixes, device=self.device)
        started = reported = time.monotonic()
        first_step = self.epoch * self.epoch_steps
        means: dict[str, float] = {}
        hits = 0.0
        self.supernet.train()
        for number, batch in enumerate(batches, start=1):
            images, labels = self._moved(*batch)
            losses: tuple[torch.Tensor, ...] = add_gradients(
                self.supernet,
                images,
                labels,
                largest=space.largest(),
                subnets=draw_subnets(space, draws, random_subnets, probabilities),
                distillation=share,
            )
            if self.mixes:
                mixture = add_path_gradients(
                    self.supernet,
                    images,
                    labels,
                    rng=noise,
                    temperature=self._temperature(first_step + number - 1),
                    latency=settings.latency,
                )
                losses = (*losses, mixture)
            set_learning_rate(self.optimizer, self._rate(first_step + number - 1))
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)  # what a step did not use stays as it is
            sums += torch.stack(losses)
            now = time.monotonic()
            if now - reported > REPORT_SECONDS or number == self.epoch_steps:
                reported = now
                means, hits = self._means(sums, number)
                self._report(number, number * self.batch_size / (now - started), means)
        return means, hits

    def _moved(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (
            images.to(self.device, memory_format=torch.channels_last, non_blocking=True),
            labels.to(self.device, non_blocking=True),
        )

    def _rate(self, step: int) -> float:
        settings = self.run.settings
        return scheduled_rate(
            step, steps=self.total_steps, peak=settings.learning_rate, warmup=settings.warmup
        )

    def _temperature(self, step: int) -> float:
        settings = self.run.settings
        return scheduled_temperature(
            step,
            steps=self.total_steps,
            start=settings.first_temperature,
            end=settings.last_temperature,
        )

    def _means(self, sums: torch.Tensor, steps: int) -> tuple[dict[str, float], float]:
        names = (*Losses._fields, "mixture")[: len(sums)]
        means = dict(zip(names, (sums / steps).tolist(), strict=True))
        hits = means.pop("hits")
        if not all(math.isfinite(loss) for loss in means.values()):
            raise UserError(
                f"{self.run.path}: the loss is not finite in epoch {self.epoch + 1}; start anew "
                f"(--force) with a learning rate below {self.run.settings.learning_rate:g}"
            )
        return means, hits

    def _report(self, steps: int, images_per_second: float, losses: Mapping[str, float]) -> None:
        step = self.epoch * self.epoch_steps + steps
        self.report(
            Progress(
                epoch=min(self.epoch + 1, self.run.settings.epochs),
                epochs=self.run.settings.epochs,
                step=step,
                total_steps=self.total_steps,
                images_per_second=images_per_second,
                remaining_seconds=self.pace.remaining_seconds(step),
                losses=losses,
                accuracies=self.accuracies,
            )
        )
