"""Training a supernet: epochs of sandwich steps, each epoch judged, logged and saved."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np
import torch

from nas.architecture import Architecture
from nas.data import Dataset
from nas.data.resizing import resize
from nas.errors import UserError
from nas.space import SearchSpace
from nas.supernet import Supernet
from nas.training.checkpoint import (
    State,
    load_model,
    load_optimizer,
    mend_checkpoint,
    save_checkpoint,
)
from nas.training.distillation import above_chance
from nas.training.evaluate import judge, judged_images
from nas.training.log import Log
from nas.training.optimizer import make_optimizer, scheduled_rate, set_learning_rate
from nas.training.parts import add_in_parts
from nas.training.paths import (
    Probabilities,
    add_path_gradients,
    path_probabilities,
    scheduled_temperature,
)
from nas.training.processes import ALONE, Processes
from nas.training.progress import Pace, Progress, Report
from nas.training.resolutions import Batch, BatchPlan
from nas.training.run import Run
from nas.training.sandwich import Losses, add_gradients, draw_subnets
from nas.training.setbacks import MOST_SETBACKS, RATE_FACTOR, SetbackError, Watch
from nas.training.teacher import teacher_accuracy

REPORT_SECONDS = 0.2
"""Between two reports; reading the losses makes a GPU wait."""

MIXTURE = 2**16
"""Tells the mixture's draws from all others: those have 0 here, or a process's rank and 1."""


def train_supernet(
    run: Run,
    dataset: Dataset,
    *,
    resume: bool = False,
    report: Report | None = None,
    tell: Callable[[str], None] | None = None,
    device: torch.device | str = "cpu",
    processes: Processes = ALONE,
) -> None:
    """Train the supernet of ``run``; with ``resume`` from its last finished epoch on.

    On a CPU, the weights after the last epoch do not depend on how often it was stopped. After a
    setback it goes back to the last finished epoch; ``tell`` takes a line about that, and about a
    damaged checkpoint.

    Raises:
        UserError: the data are not the run's; the run has begun and ``resume`` is not asked for;
            another process trains it; there were too many setbacks; nothing can be written; or
            Ctrl-C, told with the command that continues.
    """
    tell = tell or (lambda line: None)
    report = report or (lambda progress: None)
    try:
        with ExitStack() as stack:
            with processes.together():
                run.require_images(dataset)
                if processes.is_first:
                    stack.enter_context(run.locked())
                    _prepare(run, resume=resume, tell=tell)
            with processes.together():
                training = _Training(run, dataset, torch.device(device), report, processes)
            if training.epoch < run.settings.epochs:
                _train(training, stack, tell)
    except KeyboardInterrupt:
        if not processes.is_first:
            raise SystemExit(2) from None
        done = run.finished_epochs
        saved = f"epoch {done} is saved" if done else "no epoch was finished"
        raise UserError(
            f"stopped in epoch {done + 1} of {run.settings.epochs}, {saved}; "
            f"to continue: {run.resume_command}"
        ) from None


def fresh_supernet(
    space: SearchSpace, *, seed: int, layer_scale: float, resolutions: Sequence[int] = ()
) -> Supernet:
    """A supernet with random weights that depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        supernet = Supernet(space, resolutions)
    for name, parameter in supernet.named_parameters():
        if name.endswith("scale/gamma"):
            torch.nn.init.constant_(parameter, layer_scale)
    return supernet


def _prepare(run: Run, *, resume: bool, tell: Callable[[str], None]) -> None:
    if resume:
        if (warning := mend_checkpoint(run.checkpoint_path)) is not None:
            tell(warning)
    elif run.finished_epochs:
        raise UserError(f"{run.path}: has begun; {run.resume_command} continues it")


def _train(training: _Training, stack: ExitStack, tell: Callable[[str], None]) -> None:
    """Train to the last epoch. The first process alone writes, the others wait for it."""
    run, processes = training.run, training.processes
    log: Log | None = None
    with processes.together():
        if processes.is_first:
            log = stack.enter_context(
                Log(
                    run.log_path,
                    run.tensorboard_path,
                    finished_epochs=training.epoch,
                    setbacks=training.setbacks,
                )
            )
    while training.epoch < run.settings.epochs:
        try:
            numbers = training.run_epoch()
        except SetbackError as setback:
            with processes.together():
                training = training.gone_back(setback)
                if log is not None:
                    tell(training.describe(setback))
                    log.append_setback(
                        training.setbacks,
                        training.epoch + 1,
                        reason=setback.reason,
                        step=setback.step,
                    )
                    training.save()
        else:
            with processes.together():
                if log is not None:
                    # before saving: a surplus line is dropped
                    log.append(training.epoch, numbers, training.path_probabilities())
                    training.save()


class _Training:
    """The state of a training: weights, optimizer, finished epochs, and what the teacher knows.

    The teacher is the largest subnet, unless the settings name an external one.
    """

    def __init__(
        self,
        run: Run,
        dataset: Dataset,
        device: torch.device,
        report: Report,
        processes: Processes,
    ) -> None:
        settings = run.settings
        self.run, self.dataset, self.device, self.report = run, dataset, device, report
        self.processes = processes
        self.mixes = settings.path_choice and bool(run.space.paths)
        self.supernet = fresh_supernet(
            run.space,
            seed=settings.seed,
            layer_scale=settings.layer_scale,
            resolutions=settings.resolutions,
        ).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(
            self.supernet,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            path_learning_rate=settings.path_learning_rate,
        )
        self.epoch, self.teacher, self.setbacks = 0, 0.0, 0
        self.external = run.load_teacher(device)
        if self.external is not None:
            found = teacher_accuracy(self.external, judged_images(dataset))
            self.teacher = above_chance(found, run.space.classes)
        self.accuracies: Mapping[str, float] = {}
        self.watch = Watch(run.space.classes)
        if (state := run.state()) is not None:
            load_model(run.checkpoint_path, self.supernet)
            load_optimizer(run.checkpoint_path, self.supernet, self.optimizer)
            self.epoch, self.teacher, self.accuracies = state.epoch, state.teacher, state.accuracies
            self.setbacks, self.watch = state.setbacks, Watch(run.space.classes, state.losses)
        self.plan = BatchPlan(
            images=len(dataset.train),
            batch_size=settings.batch_size,
            input_size=run.space.largest_size,
            resolutions=settings.resolutions,
            epochs=settings.epochs,
            seed=settings.seed,
        )
        smallest = min(self.plan.sizes.values())
        _require_images_for_parts(smallest, settings.accumulate, processes.count)
        self.pace = Pace(self.plan.first_steps[self.epoch], self.plan.total_steps)

    def save(self) -> None:
        """Replace the checkpoint."""
        state = State(
            epoch=self.epoch,
            teacher=self.teacher,
            accuracies=dict(self.accuracies),
            recipe_sha256=self.run.recipe_sha256,
            setbacks=self.setbacks,
            losses=tuple(self.watch.losses),
        )
        save_checkpoint(self.run.checkpoint_path, self.supernet, self.optimizer, state)

    def path_probabilities(self) -> Probabilities:
        """What the path logits say; nothing without path choice."""
        return path_probabilities(self.supernet) if self.mixes else {}

    def gone_back(self, setback: SetbackError) -> _Training:
        """The training as it was last saved, or at its start, but with a lower rate.

        Raises:
            UserError: there were too many setbacks.
        """
        if self.setbacks == MOST_SETBACKS:
            raise UserError(
                f"{self.run.path}: {setback.reason} in epoch {self.epoch + 1}, with the rate "
                f"halved {MOST_SETBACKS} times already; start anew (--force) with a learning rate "
                f"below {self.run.settings.learning_rate * RATE_FACTOR**MOST_SETBACKS:g}"
            )
        saved = _Training(self.run, self.dataset, self.device, self.report, self.processes)
        saved.setbacks = self.setbacks + 1
        saved.watch = Watch(self.run.space.classes)
        return saved

    def describe(self, setback: SetbackError) -> str:
        """A line about the setback that the training has gone back for."""
        back = f"the end of epoch {self.epoch}" if self.epoch else "the start"
        return (
            f"step {setback.step}, epoch {self.epoch + 1}: {setback.reason}; back to {back}, on "
            f"with {RATE_FACTOR**self.setbacks:g} of the learning rate"
        )

    def run_epoch(self) -> dict[str, float]:
        """Train for an epoch and judge it; gives the numbers for the log."""
        started = time.monotonic()
        share = self.run.settings.distillation * self.teacher
        means, hits = self._train(share)
        images = sum(batch.images for batch in self.plan.epoch(self.epoch))
        images_per_second = images / (time.monotonic() - started)
        self.processes.average_statistics(self.supernet)
        if not _is_finite(self.supernet):
            step = self.plan.first_steps[self.epoch + 1]
            raise SetbackError("the weights are not finite", step)
        self.epoch += 1
        if self.external is None:
            self.teacher = above_chance(hits, self.run.space.classes)
        self.accuracies = judge(self.supernet, self.dataset, self.processes)
        self._report(0, images_per_second, means)
        last_step = self.plan.first_steps[self.epoch] - 1
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
        order, draws = (np.random.default_rng((settings.seed, self.epoch, it)) for it in (0, 1))
        plan = self.plan.epoch(self.epoch)
        batches = self.dataset.train.batches(
            [batch.images for batch in plan],
            rng=order,
            augmentation=self.dataset.augmentation,
            share=(self.processes.rank, self.processes.count),
        )
        sampled = settings.path_sampling and 2 * self.epoch >= settings.epochs
        chances = self.path_probabilities() if sampled else {}
        random_subnets = max(0, settings.random_subnets - self.mixes)  # the mixture stands for one
        sums = torch.zeros(len(Losses._fields), device=self.device)
        started = reported = time.monotonic()
        first_step = self.plan.first_steps[self.epoch]
        seen = 0
        means: dict[str, float] = {}
        hits = 0.0
        self.supernet.train()
        for number, (batch, (images, labels)) in enumerate(zip(plan, batches, strict=True), 1):
            step = first_step + number
            networks = [space.largest(), *draw_subnets(space, draws, random_subnets, chances)]
            if settings.resolutions:
                networks = [it.with_input_size(batch.resolution) for it in networks]
            part = add_in_parts(
                partial(
                    self._add,
                    networks=networks,
                    batch=batch,
                    share=share,
                    step=step,
                    drops=np.random.default_rng(
                        (settings.seed, self.epoch, step, 1 + self.processes.rank)
                    ),
                ),
                images.to(self.device, memory_format=torch.channels_last, non_blocking=True),
                labels.to(self.device, non_blocking=True),
                parts=settings.accumulate,
                batch_size=batch.images,
            )
            losses = self.processes.add_up_gradients(self.supernet, torch.stack(part))
            set_learning_rate(self.optimizer, self._rate(step - 1))
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)  # what a step did not use stays as it is
            sums += losses
            self.watch.add(losses[:-1], step)  # the last one is hits
            seen += batch.images
            now = time.monotonic()
            if now - reported > REPORT_SECONDS or number == len(plan):
                reported = now
                means, hits = self._means(sums, number)
                self._report(number, seen / (now - started), means)
        self.watch.read(first_step + len(plan))
        return means, hits

    def _add(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        weight: float,
        networks: list[Architecture],
        batch: Batch,
        share: float,
        step: int,
        drops: np.random.Generator,
    ) -> Losses:
        """Add the gradients of one step, or of a part of its images."""
        settings = self.run.settings
        largest, *subnets = networks
        losses = add_gradients(
            self.supernet,
            images,
            labels,
            largest=largest,
            subnets=subnets,
            distillation=share,
            divergence=settings.divergence,
            teacher=self.external,
            weight=weight,
            precision=settings.precision,
            drop_rate=settings.drop_path,
            rng=drops,
        )
        if not self.mixes:
            return losses
        mixture = add_path_gradients(
            self.supernet,
            resize(images, batch.resolution),
            labels,
            rng=np.random.default_rng((settings.seed, 0, step, MIXTURE)),  # the same for all parts
            temperature=self._temperature(step - 1),
            latency=settings.latency,
            weight=weight,
            precision=settings.precision,
        )
        return losses._replace(mixture=mixture)

    def _rate(self, step: int) -> float:
        settings = self.run.settings
        return RATE_FACTOR**self.setbacks * scheduled_rate(
            step, steps=self.plan.total_steps, peak=settings.learning_rate, warmup=settings.warmup
        )

    def _temperature(self, step: int) -> float:
        settings = self.run.settings
        return scheduled_temperature(
            step,
            steps=self.plan.total_steps,
            start=settings.first_temperature,
            end=settings.last_temperature,
        )

    def _means(self, sums: torch.Tensor, steps: int) -> tuple[dict[str, float], float]:
        means = Losses(*(sums / steps).tolist())._asdict()
        hits = means.pop("hits")
        if not self.mixes:
            del means["mixture"]
        return means, hits

    def _report(self, steps: int, images_per_second: float, losses: Mapping[str, float]) -> None:
        step = self.plan.first_steps[self.epoch] + steps
        self.report(
            Progress(
                epoch=min(self.epoch + 1, self.run.settings.epochs),
                epochs=self.run.settings.epochs,
                step=step,
                total_steps=self.plan.total_steps,
                images_per_second=images_per_second,
                remaining_seconds=self.pace.remaining_seconds(step),
                losses=losses,
                accuracies=self.accuracies,
            )
        )


def _is_finite(supernet: Supernet) -> bool:
    return bool(torch.stack([it.isfinite().all() for it in supernet.state_dict().values()]).all())


def _require_images_for_parts(batch_size: int, accumulate: int, processes: int) -> None:
    if batch_size < 2 * accumulate * processes:  # a norm needs two
        raise UserError(
            f"batch_size: must hold two images for each of {accumulate} part(s) in each of "
            f"{processes} process(es), got {batch_size}"
        )
