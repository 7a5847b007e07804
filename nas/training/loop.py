"""Training a supernet: epochs of sandwich steps, each epoch judged, logged and saved."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
from torch import Tensor

from nas.architecture import Architecture
from nas.data import Dataset
from nas.data.images import resize
from nas.errors import UserError
from nas.progress import SILENT, Progress
from nas.space import SearchSpace
from nas.supernet import Supernet
from nas.training.distillation import above_chance
from nas.training.epochs import Files, Learn, Training, train_epochs
from nas.training.evaluate import judge, judged_images
from nas.training.lessons import Lessons
from nas.training.optimizer import make_optimizer, set_learning_rate
from nas.training.parts import add_in_parts
from nas.training.paths import (
    Probabilities,
    add_path_gradients,
    path_probabilities,
    scheduled_temperature,
)
from nas.training.processes import ALONE, Processes
from nas.training.progress import Report
from nas.training.resolutions import Batch
from nas.training.run import Run
from nas.training.sandwich import Losses, add_gradients, draw_subnets
from nas.training.teacher import teacher_accuracy

MIXTURE = 2**16
"""Tells the mixture's draws from all others: those have 0 here, or a process's rank and 1."""


def train_supernet(
    run: Run,
    dataset: Dataset,
    *,
    resume: bool = False,
    report: Report | None = None,
    progress: Progress = SILENT,
    device: torch.device | str = "cpu",
    processes: Processes = ALONE,
) -> None:
    """Train the supernet of ``run``; with ``resume`` from its last finished epoch on.

    On a CPU, the weights after the last epoch do not depend on how often it was stopped. After a
    setback it goes back to the last finished epoch; ``progress`` receives a line about that, and
    about a damaged checkpoint.

    Raises:
        UserError: the data are not the run's; the run has begun and ``resume`` is not asked for;
            another process trains it; there were too many setbacks; nothing can be written; or
            Ctrl-C, told with the command that continues.
    """
    try:
        with ExitStack() as stack:
            with processes.together():
                run.require_images(dataset)
                if processes.is_first:
                    stack.enter_context(run.locked())
                    _prepare(run, resume=resume, progress=progress)
            train_epochs(
                partial(_Training, run, dataset, torch.device(device), report, processes),
                Files(run.checkpoint_path, run.log_path, run.tensorboard_path, run.recipe_sha256),
                tell=progress.say,
                processes=processes,
            )
    except KeyboardInterrupt:
        if not processes.is_first:
            raise SystemExit(2) from None
        raise run.interrupted() from None


def fresh_supernet(
    space: SearchSpace, *, seed: int, layer_scale: float, resolutions: Sequence[int] = ()
) -> Supernet:
    """A supernet with random weights that depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        supernet = Supernet(space, resolutions)
    for name, parameter in supernet.named_parameters():
        if name.endswith("/gamma"):
            torch.nn.init.constant_(parameter, layer_scale)
    return supernet


def _prepare(run: Run, *, resume: bool, progress: Progress) -> None:
    if resume:
        run.mend(progress)
    elif run.finished_epochs:
        raise UserError(f"{run.path}: has begun; {run.resume_command} continues it")


class _Training(Training):
    """The training of a run's supernet.

    The teacher is the largest subnet, unless the settings name an external one.
    """

    def __init__(
        self,
        run: Run,
        dataset: Dataset,
        device: torch.device,
        report: Report | None,
        processes: Processes,
    ) -> None:
        self.space, self.settings = run.space, run.settings
        super().__init__(
            run.settings,
            dataset,
            input_size=run.space.largest_size,
            report=report,
            device=device,
            processes=processes,
        )
        settings = run.settings
        self.mixes = settings.path_choice and bool(run.space.paths)
        self._mixture = torch.zeros((), device=self.device)
        self.supernet: Supernet = fresh_supernet(
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
        self.external = run.load_teacher(device)
        if self.external is not None:
            found = teacher_accuracy(self.external, judged_images(dataset))
            self.knowledge = above_chance(found, run.space.classes)
        if (state := run.state()) is not None:
            self.load(run.checkpoint_path, state)
        smallest = min(self.plan.sizes.values())
        _require_images_for_parts(smallest, settings.accumulate, processes.count)

    @property
    def saved(self) -> Supernet:
        """All shared weights and path logits."""
        return self.supernet

    def path_probabilities(self) -> Probabilities:
        """What the path logits say; nothing without path choice."""
        return path_probabilities(self.supernet) if self.mixes else {}

    def judge(self) -> None:
        """Find the accuracies of three subnets on the search slice."""
        self.accuracies = judge(self.supernet, self.dataset, self.processes)
        self.show(0)

    def run_epoch(self) -> dict[str, float]:
        """Train for an epoch; gives the numbers for the log."""
        share = self._share
        hits = dict(zip(Losses._fields, self.take_steps(), strict=True))["hits"]
        self.processes.average_statistics(self.supernet)
        self.finish_epoch()
        if self.external is None:
            self.knowledge = above_chance(hits, self.space.classes)
        return {
            **{f"loss/{name}": loss for name, loss in self.losses.items()},
            "distillation_share": share,
            "learning_rate": self.rate(self.last_step),
            **({"temperature": self._temperature(self.last_step)} if self.mixes else {}),
            "images_per_second": self.images_per_second,
            "training_accuracy/largest": hits,
        }

    def begin_epoch(self, draws: np.random.Generator) -> Learn:
        """Steps whose random subnets come from ``draws``."""
        settings = self.settings
        sampled = settings.path_sampling and 2 * self.epoch >= settings.epochs
        chances = self.path_probabilities() if sampled else {}
        self.supernet.train()
        lessons = Lessons(1 + settings.random_subnets, parts=settings.accumulate)
        return partial(
            self._learn,
            draws=draws,
            chances=chances,
            lessons=lessons if settings.staggered else None,
        )

    def named(self, means: Sequence[float]) -> dict[str, float]:
        """All but the hits, and but the mixture where there is none."""
        named = dict(zip(Losses._fields, means, strict=True))
        del named["hits"]
        if not self.mixes:
            del named["mixture"]
        return named

    @property
    def _share(self) -> float:
        """Of the teacher's outputs in what the subnets learn from."""
        return self.settings.distillation * self.knowledge

    def _learn(
        self,
        images: Tensor,
        labels: Tensor,
        batch: Batch,
        step: int,
        *,
        draws: np.random.Generator,
        chances: Probabilities,
        lessons: Lessons | None,
    ) -> Tensor:
        settings, space = self.settings, self.space
        mixes = self._mixes_in(step)
        random_subnets = max(0, settings.random_subnets - mixes)  # the mixture stands for one
        networks = [space.largest(), *draw_subnets(space, draws, random_subnets, chances)]
        if settings.resolutions:
            networks = [it.with_input_size(batch.resolution) for it in networks]
        rank = self.processes.rank
        part = add_in_parts(
            partial(
                self._add,
                networks=networks,
                batch=batch,
                step=step,
                mixes=mixes,
                lessons=lessons,
                drops=np.random.default_rng((settings.seed, self.epoch, step, 1 + rank)),
            ),
            images,
            labels,
            parts=settings.accumulate,
            batch_size=batch.images,
        )
        losses = self.processes.add_up_gradients(self.supernet, torch.stack(part))
        place = Losses._fields.index("mixture")
        self._mixture = losses[place].clone() if mixes else self._mixture
        losses[place] = self._mixture  # until the next mixture the loss of the last one stands
        set_learning_rate(self.optimizer, self.rate(step - 1))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # what a step did not use stays as it is
        return losses

    def _add(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        weight: float,
        networks: list[Architecture],
        batch: Batch,
        step: int,
        mixes: bool,
        lessons: Lessons | None,
        drops: np.random.Generator,
    ) -> Losses:
        """Add the gradients of one step, or of a part of its images."""
        settings = self.settings
        largest, *subnets = networks
        losses = add_gradients(
            self.supernet,
            images,
            labels,
            largest=largest,
            subnets=subnets,
            distillation=self._share,
            divergence=settings.divergence,
            teacher=self.external,
            lessons=lessons,
            weight=weight,
            precision=settings.precision,
            drop_rate=settings.drop_path,
            rng=drops,
        )
        if not mixes:
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

    def _mixes_in(self, step: int) -> bool:
        """Whether a mixture runs in this step; always in the first one of an epoch."""
        number = step - self.plan.first_steps[self.epoch] - 1
        return self.mixes and number % self.settings.path_interval == 0

    def _temperature(self, step: int) -> float:
        settings = self.settings
        return scheduled_temperature(
            step,
            steps=self.plan.total_steps,
            start=settings.first_temperature,
            end=settings.last_temperature,
        )


def _require_images_for_parts(batch_size: int, accumulate: int, processes: int) -> None:
    if batch_size < 2 * accumulate * processes:  # a norm needs two
        raise UserError(
            f"batch_size: must hold two images for each of {accumulate} part(s) in each of "
            f"{processes} process(es), got {batch_size}"
        )
