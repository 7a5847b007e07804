"""Epochs of steps, each watched, judged, logged and saved: what all trainings have in common."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from nas.data import Dataset
from nas.errors import UserError
from nas.store.checkpoint import State, load_model, load_optimizer, save_checkpoint
from nas.training.log import Log
from nas.training.optimizer import scheduled_rate
from nas.training.paths import Probabilities
from nas.training.processes import ALONE, Processes
from nas.training.progress import Pace, Progress, Report
from nas.training.recipe import Recipe
from nas.training.resolutions import Batch, BatchPlan
from nas.training.setbacks import MOST_SETBACKS, RATE_FACTOR, SetbackError, Watch, is_finite
from nas.training.settings import Settings

REPORT_SECONDS = 0.2
"""Between two reports; reading the losses makes a GPU wait."""

Learn = Callable[[Tensor, Tensor, Batch, int], Tensor]
"""Learns from images (N, 3, S, S) and labels (N,) of a batch, in a step of the training, from 1.

It gives the losses (L,) of the whole batch, in nats; the first is that with the labels.
"""


class Files(NamedTuple):
    """Where a training is kept, and what identifies its recipe."""

    checkpoint: Path
    log: Path
    curves: Path
    recipe_sha256: str


class Training(ABC):
    """The state of a training: weights, optimizer, finished epochs, and how they went.

    Everything random in an epoch is drawn from (seed, epoch): on a CPU the weights after the last
    epoch do not depend on how often a training was stopped and its state saved and loaded.
    ``knowledge`` is what the largest subnet knows, see ``distillation_share``; 0 without subnets.
    """

    optimizer: AdamW

    def __init__(
        self,
        schedule: Settings | Recipe,
        dataset: Dataset,
        *,
        input_size: int,
        report: Report | None = None,
        device: torch.device | str = "cpu",
        processes: Processes = ALONE,
    ) -> None:
        self.schedule, self.dataset, self.processes = schedule, dataset, processes
        self.augmentation = dataset.augmentation
        self.report, self.device = report or (lambda progress: None), torch.device(device)
        self.plan = BatchPlan(
            images=len(dataset.train),
            batch_size=schedule.batch_size,
            input_size=input_size,
            resolutions=schedule.resolutions,
            epochs=schedule.epochs,
            seed=schedule.seed,
        )
        self.epoch, self.setbacks, self.knowledge = 0, 0, 0.0
        self.accuracies: Mapping[str, float] = {}
        self.losses: Mapping[str, float] = {}
        self.images_per_second = 0.0
        self.watch = Watch(len(dataset.classes))
        self.pace = Pace(0, self.plan.total_steps)

    @property
    @abstractmethod
    def saved(self) -> nn.Module:
        """All tensors of the training but the optimizer's, under stable names."""

    @abstractmethod
    def begin_epoch(self, draws: np.random.Generator) -> Learn:
        """What takes the steps of the coming epoch, and may draw from ``draws``."""

    @abstractmethod
    def named(self, means: Sequence[float]) -> dict[str, float]:
        """The losses to show, by name, of the means of those that steps give."""

    @abstractmethod
    def run_epoch(self) -> dict[str, float]:
        """Train for an epoch; gives the numbers for the log.

        Raises:
            SetbackError: it went wrong.
        """

    @abstractmethod
    def judge(self) -> None:
        """Find the accuracies after an epoch."""

    def path_probabilities(self) -> Probabilities:
        """What the path logits say; nothing without path choice."""
        return {}

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.schedule.epochs

    @property
    def last_step(self) -> int:
        """The last step of the finished epochs, from 0."""
        return self.plan.first_steps[self.epoch] - 1

    def save(self, files: Files) -> None:
        """Replace the checkpoint."""
        state = State(
            epoch=self.epoch,
            teacher=self.knowledge,
            accuracies=dict(self.accuracies),
            recipe_sha256=files.recipe_sha256,
            setbacks=self.setbacks,
            losses=tuple(self.watch.losses),
        )
        save_checkpoint(files.checkpoint, self.saved, self.optimizer, state)

    def load(self, checkpoint: Path, state: State) -> None:
        """Go on where a checkpoint of that state was written."""
        load_model(checkpoint, self.saved)
        load_optimizer(checkpoint, self.saved, self.optimizer)
        self.epoch, self.knowledge, self.setbacks = state.epoch, state.teacher, state.setbacks
        self.accuracies, self.watch = state.accuracies, self.watch.after(state.losses)
        self.pace = Pace(self.plan.first_steps[self.epoch], self.plan.total_steps)

    def go_back(self, setbacks: int) -> None:
        """Count that many setbacks, each of which halves the rate; losses start anew."""
        self.setbacks, self.watch = setbacks, self.watch.after(())

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        schedule = self.schedule
        return RATE_FACTOR**self.setbacks * scheduled_rate(
            step, steps=self.plan.total_steps, peak=schedule.learning_rate, warmup=schedule.warmup
        )

    def take_steps(self) -> list[float]:
        """One pass over the training images; gives the means of the losses.

        Raises:
            SetbackError: a step went wrong.
        """
        order, draws = (
            np.random.default_rng((self.schedule.seed, self.epoch, it)) for it in (0, 1)
        )
        plan = self.plan.epoch(self.epoch)
        batches = self.dataset.train.batches(
            [batch.images for batch in plan],
            rng=order,
            augmentation=self.augmentation,
            share=(self.processes.rank, self.processes.count),
        )
        learn = self.begin_epoch(draws)
        sums: Tensor | None = None
        means: list[float] = []
        seen, first_step = 0, self.plan.first_steps[self.epoch]
        started = reported = time.monotonic()
        for number, (batch, (images, labels)) in enumerate(zip(plan, batches, strict=True), 1):
            losses = learn(
                images.to(self.device, memory_format=torch.channels_last, non_blocking=True),
                labels.to(self.device, non_blocking=True),
                batch,
                first_step + number,
            )
            sums = losses if sums is None else sums + losses
            self.watch.add(losses, first_step + number)
            seen += batch.images
            now = time.monotonic()
            if now - reported > REPORT_SECONDS or number == len(plan):
                reported = now
                means = (sums / number).tolist()
                self.losses, self.images_per_second = self.named(means), seen / (now - started)
                self.show(number)
        self.watch.read(first_step + len(plan))
        return means

    def finish_epoch(self) -> None:
        """Count one more epoch as finished.

        Raises:
            SetbackError: its weights are not finite.
        """
        if not is_finite(self.saved):
            raise SetbackError("the weights are not finite", self.plan.first_steps[self.epoch + 1])
        self.epoch += 1

    def show(self, steps: int) -> None:
        """Report the progress after that many steps of the coming epoch."""
        step = self.plan.first_steps[self.epoch] + steps
        self.report(
            Progress(
                epoch=min(self.epoch + 1, self.schedule.epochs),
                epochs=self.schedule.epochs,
                step=step,
                total_steps=self.plan.total_steps,
                images_per_second=self.images_per_second,
                remaining_seconds=self.pace.remaining_seconds(step),
                losses=self.losses,
                accuracies=self.accuracies,
            )
        )


T = TypeVar("T", bound=Training)


def train_epochs(
    begin: Callable[[], T],
    files: Files,
    *,
    tell: Callable[[str], None] | None = None,
    processes: Processes = ALONE,
) -> T:
    """The training that ``begin`` gives, as it was last saved, after its last epoch.

    The first process alone writes, the others wait for it. After a setback it goes back to what was
    last saved, or to its start, and on with half the rate; ``tell`` takes a line about that.

    Raises:
        UserError: there were too many setbacks, or nothing can be written.
    """
    with ExitStack() as stack:
        log: Log | None = None
        with processes.together():
            training = begin()
            if processes.is_first and not training.is_finished:
                done = {"finished_epochs": training.epoch, "setbacks": training.setbacks}
                log = stack.enter_context(Log(files.log, files.curves, **done))
        while not training.is_finished:
            try:
                numbers = training.run_epoch()
            except SetbackError as setback:
                with processes.together():
                    training = _gone_back(training, setback, begin, files)
                    if log is not None:
                        if tell is not None:
                            tell(_line(training, setback))
                        log.append_setback(
                            training.setbacks,
                            training.epoch + 1,
                            reason=setback.reason,
                            step=setback.step,
                        )
                        training.save(files)
            else:
                training.judge()
                numbers |= {f"accuracy/{name}": it for name, it in training.accuracies.items()}
                with processes.together():
                    if log is not None:
                        # before saving: a surplus line is dropped
                        log.append(training.epoch, numbers, training.path_probabilities())
                        training.save(files)
    return training


def _gone_back(training: T, setback: SetbackError, begin: Callable[[], T], files: Files) -> T:
    if training.setbacks == MOST_SETBACKS:
        raise UserError(
            f"{files.checkpoint.parent}: {setback.reason} in epoch {training.epoch + 1}, with the "
            f"rate halved {MOST_SETBACKS} times already; start anew (--force) with a learning rate "
            f"below {training.schedule.learning_rate * RATE_FACTOR**MOST_SETBACKS:g}"
        )
    saved = begin()
    saved.go_back(training.setbacks + 1)
    return saved


def _line(training: Training, setback: SetbackError) -> str:
    """About the setback that the training has gone back for."""
    back = f"the end of epoch {training.epoch}" if training.epoch else "the start"
    return (
        f"step {setback.step}, epoch {training.epoch + 1}: {setback.reason}; back to {back}, on "
        f"with {RATE_FACTOR**training.setbacks:g} of the learning rate"
    )
