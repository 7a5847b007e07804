"""Epochs of steps, each watched, evaluated, logged and saved: the loop of all trainings.

A training has gone wrong when a loss or, after an epoch, a weight is not finite, or when the first
of its losses has a spike: the median of the last 5 steps lies above the median of the 32 steps
before them by more than 10 standard deviations (1.4826 times the median absolute deviation) and by
more than a quarter of what guessing costs, ln(classes). A single bad batch is no spike, and neither
is noise around a loss that is small already. A training that has gone wrong returns to the last
epoch that was saved, and continues with half the learning rate: a setback. Losses go from epoch to
epoch, and into checkpoints; after a setback they start empty.
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
from nas.progress import SILENT, Progress
from nas.store.checkpoint import State, load_model, load_optimizer, save_checkpoint
from nas.store.folder import RunFolder
from nas.training.batches import Batch, BatchPlan
from nas.training.log import Log
from nas.training.processes import ALONE, Processes
from nas.training.settings import Settings
from nas.training.step import scheduled_rate, set_learning_rate

PROGRESS_SECONDS = 0.2
"""Between two reports of progress."""

MOST_SETBACKS = 3
"""The fourth ends the training: then the recipe is wrong, not the luck."""
RATE_FACTOR = 0.5
CHECK_STEPS = 100
"""Losses are read that often, and at the end of an epoch: reading makes a GPU wait."""
RECENT_STEPS, EARLIER_STEPS = 5, 32
DEVIATIONS = 10.0
SHARE_OF_GUESSING = 0.25


class SetbackError(Exception):
    """A training went wrong, for a ``reason``, in a ``step`` of it, from 1."""

    def __init__(self, reason: str, step: int) -> None:
        super().__init__(reason)
        self.reason, self.step = reason, step


class LossMonitor:
    """Collects the losses of steps and judges them in order, whenever they are read.

    So the steps that it finds do not depend on when it reads, and all processes find the same.
    """

    def __init__(self, classes: int, earlier: Sequence[float] = ()) -> None:
        self.losses = list(earlier)
        """In nats, of as many of the last steps as a spike is judged by."""
        self._classes = classes
        self._unread: list[Tensor] = []

    def add(self, losses: Tensor, step: int) -> None:
        """Take the losses (L,) of a step, the one that is judged first; read all now and then.

        Raises:
            SetbackError: a step since the last reading went wrong.
        """
        self._unread.append(losses)
        if step % CHECK_STEPS == 0:
            self.read(step)

    def read(self, step: int) -> None:
        """Judge all steps up to ``step``, the last one that was added.

        Raises:
            SetbackError: one of them went wrong.
        """
        if not self._unread:
            return
        first = step - len(self._unread) + 1
        read = torch.stack(self._unread).tolist()
        self._unread.clear()
        for number, losses in enumerate(read, start=first):
            if not all(math.isfinite(loss) for loss in losses):
                raise SetbackError("the loss is not finite", number)
            self.losses = [*self.losses, losses[0]][-(RECENT_STEPS + EARLIER_STEPS) :]
            if is_spike(self.losses, self._classes):
                raise SetbackError(
                    f"the loss rose to {median(self.losses[-RECENT_STEPS:]):.3g}", number
                )


def is_spike(losses: Sequence[float], classes: int) -> bool:
    """Whether the last losses, in nats, lie far above those before them; see this file's head."""
    if len(losses) < RECENT_STEPS + EARLIER_STEPS:
        return False
    earlier, recent = losses[-RECENT_STEPS - EARLIER_STEPS : -RECENT_STEPS], losses[-RECENT_STEPS:]
    usual = median(earlier)
    deviation = 1.4826 * median(abs(loss - usual) for loss in earlier)  # of a normal distribution
    rise = median(recent) - usual
    return rise > DEVIATIONS * deviation and rise > SHARE_OF_GUESSING * math.log(classes)


class Training(ABC):
    """The state of a training: weights, optimizer, finished epochs, and their accuracies.

    Everything random in an epoch is drawn from (seed, epoch): on a CPU the weights after the last
    epoch do not depend on how often a training was stopped and its state saved and loaded.
    ``teacher_accuracy`` is that of the network that others learn from, above chance, see
    ``above_chance``; 0 before it is known, and where there is none.
    """

    optimizer: AdamW
    loss_names: tuple[str, ...]
    """Of the losses of a step, in nats; the first is with the labels."""

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        *,
        input_size: int,
        progress: Progress = SILENT,
        processes: Processes = ALONE,
    ) -> None:
        self.settings, self.dataset = settings, dataset
        self.progress, self.processes = progress, processes
        self.augmentation = dataset.augmentation
        self.plan = BatchPlan(
            images=len(dataset.train),
            batch_size=settings.batch_size,
            input_size=input_size,
            resolutions=settings.resolutions,
            epochs=settings.epochs,
            seed=settings.seed,
        )
        self.epoch, self.setbacks, self.teacher_accuracy = 0, 0, 0.0
        self.accuracies: Mapping[str, float] = {}
        self.images_per_second = 0.0
        self.monitor = LossMonitor(len(dataset.classes))
        self._started, self._first_step = time.monotonic(), 0

    @property
    @abstractmethod
    def saved(self) -> nn.Module:
        """All tensors of the training but the optimizer's, under stable names."""

    @abstractmethod
    def start_epoch(self, draws: np.random.Generator) -> None:
        """Prepare for the steps of the coming epoch, which may draw from ``draws``."""

    @abstractmethod
    def add_gradients(self, batch: Batch, step: int) -> Tensor:
        """Compute the gradients of a batch, in a step of the training from 1.

        Returns the losses of the whole batch: means over its images, one for each of
        ``loss_names``.
        """

    @abstractmethod
    def run_epoch(self) -> dict[str, float]:
        """Train for an epoch; returns the numbers for the log.

        Raises:
            SetbackError: it went wrong.
        """

    @abstractmethod
    def evaluate(self) -> Mapping[str, float]:
        """The accuracies to show after an epoch, by name, in [0, 1]."""

    def path_probabilities(self) -> Mapping[str, Mapping[str, float]]:
        """For each path choice the probability of each kind; nothing without path choice."""
        return {}

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.settings.epochs

    @property
    def last_step(self) -> int:
        """The last step of the finished epochs, from 0."""
        return self.plan.first_steps[self.epoch] - 1

    def save(self, folder: RunFolder[Any, Any]) -> None:
        """Replace the checkpoint of a folder."""
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
        state = folder.state()
        if state is None:
            return
        load_model(folder.checkpoint_path, self.saved)
        load_optimizer(folder.checkpoint_path, self.saved, self.optimizer)
        self.epoch, self.setbacks, self.accuracies = state.epoch, state.setbacks, state.accuracies
        self.teacher_accuracy = state.teacher
        self.monitor = LossMonitor(len(self.dataset.classes), state.losses)
        self._first_step = self.plan.first_steps[self.epoch]

    def count_setbacks(self, setbacks: int) -> None:
        """Continue after that many setbacks, each of which halves the rate."""
        self.setbacks, self.monitor = setbacks, LossMonitor(len(self.dataset.classes))

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        settings = self.settings
        return RATE_FACTOR**self.setbacks * scheduled_rate(
            step, steps=self.plan.total_steps, peak=settings.learning_rate, warmup=settings.warmup
        )

    def take_steps(self) -> dict[str, float]:
        """One pass over the training images; returns the mean of each loss.

        Raises:
            SetbackError: a step went wrong.
        """
        order, draws = (
            np.random.default_rng((self.settings.seed, self.epoch, stream)) for stream in (0, 1)
        )
        plan = self.plan.epoch(self.epoch)
        batches = self.dataset.train.batches(
            [planned.size for planned in plan],
            rng=order,
            augmentation=self.augmentation,
            share=(self.processes.rank, self.processes.count),
        )
        self.start_epoch(draws)
        device = self.processes.device
        sums: Tensor | None = None
        seen, first_step = 0, self.plan.first_steps[self.epoch]
        started = shown = time.monotonic()
        for number, (planned, (images, labels)) in enumerate(zip(plan, batches, strict=True), 1):
            batch = Batch(
                images.to(device, memory_format=torch.channels_last, non_blocking=True),
                labels.to(device, non_blocking=True),
                *planned,
            )
            losses = self.add_gradients(batch, first_step + number)
            self.update_weights(first_step + number)
            sums = losses if sums is None else sums + losses
            self.monitor.add(losses, first_step + number)
            seen += planned.size
            now = time.monotonic()
            if now - shown > PROGRESS_SECONDS or number == len(plan):
                shown, self.images_per_second = now, seen / (now - started)
                self.show(number)
        self.monitor.read(first_step + len(plan))
        assert sums is not None
        return dict(zip(self.loss_names, (sums / len(plan)).tolist(), strict=True))

    def update_weights(self, step: int) -> None:
        """Step the optimizer by the gradients of a step of the training, from 1."""
        set_learning_rate(self.optimizer, self.rate(step - 1))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # weights that the step did not use stay

    def finish_epoch(self) -> None:
        """Count one more epoch as finished.

        Raises:
            SetbackError: its weights are not finite.
        """
        finite = [tensor.isfinite().all() for tensor in self.saved.state_dict().values()]
        if not bool(torch.stack(finite).all()):
            raise SetbackError("the weights are not finite", self.plan.first_steps[self.epoch + 1])
        self.epoch += 1

    def show(self, steps: int = 0) -> None:
        """Report the progress after that many steps of the coming epoch."""
        step, total, epochs = (
            self.plan.first_steps[self.epoch] + steps,
            self.plan.total_steps,
            self.settings.epochs,
        )
        elapsed = time.monotonic() - self._started  # with the evaluations between steps
        left = elapsed / (step - self._first_step) * (total - step)
        minutes, seconds = divmod(round(left), 60)
        self.progress.update(
            f"epoch {min(self.epoch + 1, epochs)} of {epochs}, "
            f"{self.images_per_second:.0f} images/s, {minutes}:{seconds:02} left",
            step,
            total,
        )

    def show_accuracies(self) -> None:
        """Report the accuracies after the last finished epoch, if there is one."""
        if self.accuracies:
            found = ", ".join(f"{name} {100 * it:.1f} %" for name, it in self.accuracies.items())
            self.progress.say(f"epoch {self.epoch} of {self.settings.epochs}: {found}")


T = TypeVar("T", bound=Training)


def train_epochs(
    begin: Callable[[], T], folder: RunFolder[Any, Any], processes: Processes = ALONE
) -> T:
    """Run the training that ``begin`` returns, from what the folder holds of it, to its last epoch.

    The first process alone writes, the others wait for it. After a setback the training returns to
    its last saved epoch, or to its start, and continues with half the rate; its progress gets a
    line about that.

    Raises:
        UserError: there were too many setbacks, or nothing can be written.
    """
    with ExitStack() as stack:
        log: Log | None = None
        with processes.together():
            training = begin()
            training.load(folder)
            if processes.is_first and not training.is_finished:
                done = {"finished_epochs": training.epoch, "setbacks": training.setbacks}
                log = stack.enter_context(Log(folder.log_path, folder.tensorboard_path, **done))
                training.show_accuracies()
        while not training.is_finished:
            try:
                numbers = training.run_epoch()
            except SetbackError as setback:
                with processes.together():
                    training = _after_setback(training, setback, begin, folder)
                    if log is not None:
                        training.progress.say(_line(training, setback))
                        log.append_setback(
                            training.setbacks,
                            training.epoch + 1,
                            reason=setback.reason,
                            step=setback.step,
                        )
                        training.save(folder)
            else:
                training.accuracies = training.evaluate()
                training.show_accuracies()
                training.show()
                numbers |= {f"accuracy/{name}": it for name, it in training.accuracies.items()}
                with processes.together():
                    if log is not None:
                        # before saving: a surplus line is dropped
                        log.append(training.epoch, numbers, training.path_probabilities())
                        training.save(folder)
    return training


def _after_setback(
    training: T, setback: SetbackError, begin: Callable[[], T], folder: RunFolder[Any, Any]
) -> T:
    if training.setbacks == MOST_SETBACKS:
        raise UserError(
            f"{folder.path}: {setback.reason} in epoch {training.epoch + 1}, with the "
            f"rate halved {MOST_SETBACKS} times already; start anew (--force) with a learning rate "
            f"below {training.settings.learning_rate * RATE_FACTOR**MOST_SETBACKS:g}"
        )
    saved = begin()
    saved.load(folder)
    saved.count_setbacks(training.setbacks + 1)
    return saved


def _line(training: Training, setback: SetbackError) -> str:
    """About the setback after which ``training`` continues."""
    back = f"the end of epoch {training.epoch}" if training.epoch else "the start"
    return (
        f"step {setback.step}, epoch {training.epoch + 1}: {setback.reason}; back to {back}, on "
        f"with {RATE_FACTOR**training.setbacks:g} of the learning rate"
    )
