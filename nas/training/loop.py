"""Epochs of steps, each watched, evaluated, logged and saved: the loop of all trainings.

A training has gone wrong when a loss or, after an epoch, a weight is not finite, or the first of
its losses has a spike. It then returns to the last saved epoch, and continues with half the
learning rate: a setback. Checkpoints keep the losses that the next spike is judged by.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from nas.data import Dataset
from nas.errors import UserError
from nas.progress import Progress
from nas.store.checkpoint import State, load_model, load_optimizer, save_checkpoint
from nas.store.folder import RunFolder
from nas.training.batches import Batch, BatchPlan
from nas.training.log import Log
from nas.training.outlook import Outlook, outlook_line
from nas.training.processes import ALONE, Processes
from nas.training.settings import Settings
from nas.training.step import scheduled_rate, set_learning_rate

PROGRESS_SECONDS = 0.2  # between two reports of progress
MOST_SETBACKS = 3  # the fourth ends the training
RATE_FACTOR = 0.5
CHECK_STEPS = 100  # losses are read that often, and after an epoch: reading makes a GPU wait
RECENT_STEPS, EARLIER_STEPS = 5, 32
DEVIATIONS = 10.0
SHARE_OF_GUESSING = 0.25


class SetbackError(Exception):
    """A training went wrong in a ``step``, from 1."""

    def __init__(self, reason: str, step: int) -> None:
        super().__init__(reason)
        self.reason, self.step = reason, step


class LossMonitor:
    """Collects the losses of steps and judges each in turn, however late they are read."""

    def __init__(self, classes: int, earlier: Sequence[float] = ()) -> None:
        self.losses = list(earlier)
        self._classes = classes
        self._unread: list[Tensor] = []

    def add(self, losses: Tensor, step: int) -> None:
        """Take the losses (L,) of a step, the one that is judged first; now and then ``read``."""
        self._unread.append(losses)
        if step % CHECK_STEPS == 0:
            self.read(step)

    def read(self, step: int) -> None:
        """Raise SetbackError if a step up to ``step``, the last one added, went wrong."""
        read = torch.stack(self._unread).tolist() if self._unread else []
        self._unread.clear()
        for number, losses in enumerate(read, start=step - len(read) + 1):
            if not all(math.isfinite(loss) for loss in losses):
                raise SetbackError("the loss is not finite", number)
            self.losses = [*self.losses, losses[0]][-(RECENT_STEPS + EARLIER_STEPS) :]
            if is_spike(self.losses, self._classes):
                rose = median(self.losses[-RECENT_STEPS:])
                raise SetbackError(f"the loss rose to {rose:.3g}", number)


def is_spike(losses: Sequence[float], classes: int) -> bool:
    """Whether the median of the last losses, in nats, lies far above that of those before them.

    Far are 10 standard deviations and a quarter of the loss of guessing, ln(classes).
    """
    if len(losses) < RECENT_STEPS + EARLIER_STEPS:
        return False
    earlier, recent = losses[-RECENT_STEPS - EARLIER_STEPS : -RECENT_STEPS], losses[-RECENT_STEPS:]
    usual = median(earlier)
    deviation = 1.4826 * median(abs(loss - usual) for loss in earlier)  # of a normal distribution
    least = max(DEVIATIONS * deviation, SHARE_OF_GUESSING * math.log(classes))
    return median(recent) - usual > least


class Training(ABC):
    """The state of a training; all that is random in an epoch is drawn from (seed, epoch)."""

    saved: nn.Module  # all tensors of the training but the optimizer's, under stable names
    optimizer: AdamW
    loss_names: tuple[str, ...]  # of the losses of a step, in nats; the first is with the labels

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        input_size: int,
        progress: Progress,
        processes: Processes,
    ) -> None:
        self.settings, self.dataset = settings, dataset
        self.progress, self.processes = progress, processes
        self.augmentation = dataset.augmentation
        shared = settings.model_dump(include={"batch_size", "resolutions", "epochs", "seed"})
        self.plan = BatchPlan(images=len(dataset.train), input_size=input_size, **shared)
        self.epoch, self.setbacks, self.teacher_accuracy = 0, 0, 0.0
        self.accuracies: Mapping[str, float] = {}
        self.images_per_second = 0.0
        self.monitor = LossMonitor(len(dataset.classes))
        self.outlook: Outlook | None = None
        self._started, self._first_step = time.monotonic(), 0

    @abstractmethod
    def start_epoch(self, draws: np.random.Generator) -> None:
        """Prepare for the steps of the coming epoch, which may draw from ``draws``."""

    @abstractmethod
    def add_gradients(self, batch: Batch, step: int) -> Tensor:
        """Compute gradients in a step, from 1; returns means over the batch of ``loss_names``."""

    @abstractmethod
    def evaluate(self) -> Mapping[str, float]:
        """The accuracies to show after an epoch, by name, in [0, 1]."""

    def run_epoch(self) -> dict[str, float]:
        """Train for an epoch; returns numbers for the log. Raises SetbackError if it goes wrong."""
        losses = self.take_steps()
        self.processes.average_statistics(self.saved)
        finite = [tensor.isfinite().all() for tensor in self.saved.state_dict().values()]
        if not bool(torch.stack(finite).all()):
            raise SetbackError("the weights are not finite", self.plan.first_steps[self.epoch + 1])
        self.epoch += 1
        return self.numbers(losses)

    def numbers(self, losses: dict[str, float]) -> dict[str, float]:
        """The numbers for the log of the epoch that has just finished with these mean losses."""
        return {
            **{f"loss/{name}": loss for name, loss in losses.items()},
            "learning_rate": self.rate(self.last_step),
            "images_per_second": self.images_per_second,
        }

    def path_probabilities(self) -> Mapping[str, Mapping[str, float]]:
        """For each path choice the probability of each kind; nothing without path choice."""
        return {}

    @property
    def is_finished(self) -> bool:
        return self.epoch >= self.settings.epochs

    @property
    def last_step(self) -> int:
        """The last step of the finished epochs, from 0."""
        return self.plan.first_steps[self.epoch] - 1

    def save(self, folder: RunFolder[Any, Any]) -> None:
        state = State(
            epoch=self.epoch,
            teacher=self.teacher_accuracy,
            accuracies=dict(self.accuracies),
            recipe_sha256=folder.recipe_sha256,
            setbacks=self.setbacks,
            losses=tuple(self.monitor.losses),
        )
        save_checkpoint(folder.checkpoint_path, self.saved, self.optimizer, state)

    def load(self, folder: RunFolder[Any, Any]) -> None:
        """Continue where the checkpoint of a folder was written, if there is one."""
        if (state := folder.state()) is None:
            return
        load_model(folder.checkpoint_path, self.saved)
        load_optimizer(folder.checkpoint_path, self.saved, self.optimizer)
        self.epoch, self.setbacks, self.accuracies = state.epoch, state.setbacks, state.accuracies
        self.teacher_accuracy = state.teacher
        self.monitor = LossMonitor(len(self.dataset.classes), state.losses)
        self._first_step = self.plan.first_steps[self.epoch]

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        peak, warmup = self.settings.learning_rate, self.settings.warmup
        rate = scheduled_rate(step, steps=self.plan.total_steps, peak=peak, warmup=warmup)
        return RATE_FACTOR**self.setbacks * rate

    def take_steps(self) -> dict[str, float]:
        """One pass over the training images; returns the mean of each loss."""
        plan, seed = self.plan.epoch(self.epoch), self.settings.seed
        order, draws = (np.random.default_rng((seed, self.epoch, stream)) for stream in (0, 1))
        batches = self.dataset.train.batches(
            [planned.size for planned in plan],
            rng=order,
            augmentation=self.augmentation,
            share=(self.processes.rank, self.processes.count),
        )
        self.start_epoch(draws)
        device, first_step = self.processes.device, self.plan.first_steps[self.epoch]
        sums, seen = torch.zeros((), device=device), 0
        started = shown = before = time.monotonic()
        for number, (planned, (images, labels)) in enumerate(zip(plan, batches, strict=True), 1):
            placed = images.to(device, memory_format=torch.channels_last, non_blocking=True)
            batch = Batch(placed, labels.to(device, non_blocking=True), *planned)
            losses = self.add_gradients(batch, first_step + number)
            self.update_weights(first_step + number)
            sums = sums + losses
            self.monitor.add(losses, first_step + number)
            seen += planned.size
            now = time.monotonic()
            self._tell_pace(planned.size, now - before, is_last=number == len(plan))
            before = now
            if now - shown > PROGRESS_SECONDS or number == len(plan):
                shown, self.images_per_second = now, seen / (now - started)
                self.show(number)
        self.monitor.read(first_step + len(plan))
        return dict(zip(self.loss_names, (sums / len(plan)).tolist(), strict=True))

    def update_weights(self, step: int) -> None:
        """Step the optimizer by the gradients of a step of the training, from 1."""
        set_learning_rate(self.optimizer, self.rate(step - 1))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # weights that the step did not use stay

    def show(self, steps: int = 0) -> None:
        """Report the progress after that many steps of the coming epoch."""
        step, total = self.plan.first_steps[self.epoch] + steps, self.plan.total_steps
        elapsed = time.monotonic() - self._started  # with the evaluations between steps
        left = elapsed / (step - self._first_step) * (total - step)
        minutes, seconds = divmod(round(left), 60)
        epochs = self.settings.epochs
        text = f"epoch {min(self.epoch + 1, epochs)} of {epochs}, "
        text += f"{self.images_per_second:.0f} images/s, {minutes}:{seconds:02} left"
        self.progress.update(text, step, total)

    def advice(self, rate: float, epochs: int) -> str:  # noqa: ARG002
        """What to do about so many epochs at a rate in images/s; empty if that is reasonable."""
        return ""

    def _tell_pace(self, images: int, seconds: float, *, is_last: bool) -> None:
        """Say once, in the first seconds, how fast the training is, and when it will end."""
        rate = self.outlook and self.outlook.pace(images, seconds, is_last=is_last)
        if rate:
            left = self.settings.epochs - self.epoch
            line = outlook_line(rate, self.plan.images, left, time.time())
            if line:
                self.progress.say(line + self.advice(rate, left))

    def show_accuracies(self) -> None:
        if self.accuracies:
            found = ", ".join(f"{name} {100 * it:.1f} %" for name, it in self.accuracies.items())
            self.progress.say(f"epoch {self.epoch} of {self.settings.epochs}: {found}")


T = TypeVar("T", bound=Training)


def train_epochs(
    begin: Callable[[], T], folder: RunFolder[Any, Any], processes: Processes = ALONE
) -> T:
    """Run a training from its folder's checkpoint to its end; UserError after many setbacks."""
    with ExitStack() as stack:
        log: Log | None = None
        with processes.together():
            training = begin()
            training.load(folder)
            if processes.is_first and not training.is_finished:
                done = {"finished_epochs": training.epoch, "setbacks": training.setbacks}
                log = stack.enter_context(Log(folder.log_path, folder.tensorboard_path, **done))
                if log.remark:
                    training.progress.say(log.remark)
                training.show_accuracies()
                training.outlook = Outlook()
        while not training.is_finished:
            try:
                numbers = training.run_epoch()
            except SetbackError as setback:
                with processes.together():
                    setbacks = training.setbacks + 1
                    if setbacks > MOST_SETBACKS:
                        lowest = training.settings.learning_rate * RATE_FACTOR**MOST_SETBACKS
                        raise UserError(
                            f"{folder.path}: {setback.reason} in epoch {training.epoch + 1}, with "
                            f"the rate halved {MOST_SETBACKS} times already; start anew (--force) "
                            f"with a learning rate below {lowest:g}"
                        ) from None
                    training = begin()
                    training.load(folder)
                    training.setbacks = setbacks
                    training.monitor = LossMonitor(len(training.dataset.classes))
                    if log is not None:
                        epoch = training.epoch + 1
                        back = f"the end of epoch {epoch - 1}" if training.epoch else "the start"
                        training.progress.say(
                            f"step {setback.step}, epoch {epoch}: {setback.reason}; back to {back},"
                            f" on with {RATE_FACTOR**training.setbacks:g} of the learning rate"
                        )
                        log.append_setback(
                            training.setbacks, epoch, reason=setback.reason, step=setback.step
                        )
                        training.save(folder)
            else:
                training.accuracies = training.evaluate()
                training.show_accuracies()
                training.show()
                numbers |= {f"accuracy/{name}": it for name, it in training.accuracies.items()}
                with processes.together():
                    if log is not None:
                        log.append(training.epoch, numbers, training.path_probabilities())
                        training.save(folder)  # after the log, where a surplus line is dropped
    return training
