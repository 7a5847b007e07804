"""Training a supernet: epochs of sandwich steps, each epoch evaluated, logged and saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
from torch import Tensor

from nas.architecture import Architecture
from nas.data import Dataset
from nas.errors import UserError
from nas.progress import SILENT, Progress
from nas.space import SearchSpace
from nas.supernet import Supernet
from nas.training.batches import Batch, BatchHistory
from nas.training.distillation import Distillation, above_chance, teacher_accuracy
from nas.training.evaluation import evaluate_supernet, evaluation_images
from nas.training.loop import Training, train_epochs
from nas.training.processes import ALONE, Processes
from nas.training.run import Run
from nas.training.sandwich import (
    LOSSES,
    Probabilities,
    add_gradients,
    add_path_gradients,
    draw_subnets,
    path_probabilities,
    scheduled_temperature,
)
from nas.training.settings import SupernetSettings
from nas.training.step import DropPath, make_optimizer

MIXTURE = 2**16
"""Tells the mixture's draws from all others: those have 0 here, or a process's rank and 1."""


def train_supernet(
    run: Run,
    dataset: Dataset,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
    processes: Processes = ALONE,
) -> Mapping[str, float]:
    """Train the supernet of ``run``; with ``resume`` from its last finished epoch on.

    On a CPU, the weights after the last epoch do not depend on how often it was stopped. After a
    setback it goes back to the last finished epoch; ``progress`` gets a line about that, and about
    a damaged checkpoint.

    Returns:
        The accuracies of the ``smallest``, a ``middle`` and the ``largest`` subnet after the last
        epoch, in [0, 1].

    Raises:
        UserError: the data are not the run's; the run has begun and ``resume`` is not asked for;
            another process trains it; there were too many setbacks; nothing can be written; or
            Ctrl-C, with the command that continues.
    """
    try:
        with ExitStack() as stack:
            with processes.together():
                run.require_images(dataset)
                if processes.is_first:
                    stack.enter_context(run.locked())
                    if not resume and run.finished_epochs:
                        raise UserError(f"{run.path}: has begun; {run.resume_command} continues it")
                    run.mend(progress)
            begin = partial(SupernetTraining, run, dataset, progress=progress, processes=processes)
            return train_epochs(begin, run, processes).accuracies
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


class SupernetTraining(Training):
    """The training of a run's supernet, in its folder.

    The teacher is the largest subnet, unless the settings name an external one.
    """

    loss_names = LOSSES
    settings: SupernetSettings

    def __init__(
        self,
        run: Run,
        dataset: Dataset,
        *,
        progress: Progress = SILENT,
        processes: Processes = ALONE,
    ) -> None:
        super().__init__(
            run.settings,
            dataset,
            input_size=run.space.largest_size,
            progress=progress,
            processes=processes,
        )
        settings, self.space, device = run.settings, run.space, processes.device
        self.has_mixture = settings.path_choice and bool(run.space.paths)
        self._last_mixture = torch.zeros((), device=device)
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
            found = teacher_accuracy(self.external, evaluation_images(dataset))
            self.teacher_accuracy = above_chance(found, run.space.classes)
        smallest = min(self.plan.sizes.values())
        _require_images_for_parts(smallest, settings.accumulate, processes.count)

    @property
    def saved(self) -> Supernet:
        """All shared weights and path logits."""
        return self.supernet

    @property
    def distillation(self) -> Distillation:
        """The teacher's share grows with its accuracy."""
        share = self.settings.distillation * self.teacher_accuracy
        return Distillation(share, self.settings.divergence, self.external)

    def path_probabilities(self) -> Probabilities:
        """Those of the path logits; nothing without path choice."""
        return path_probabilities(self.supernet) if self.has_mixture else {}

    def evaluate(self) -> Mapping[str, float]:
        """The accuracies of three subnets on the search slice."""
        return evaluate_supernet(self.supernet, self.dataset, self.processes)

    def run_epoch(self) -> dict[str, float]:
        """Train for an epoch; returns the numbers for the log."""
        share = self.distillation.share
        losses = self.take_steps()
        hits = losses.pop("hits")
        self.processes.average_statistics(self.supernet)
        self.finish_epoch()
        if self.external is None:
            self.teacher_accuracy = above_chance(hits, self.space.classes)
        if not self.has_mixture:
            del losses["mixture"]
        return {
            **{f"loss/{name}": loss for name, loss in losses.items()},
            "distillation_share": share,
            "learning_rate": self.rate(self.last_step),
            **({"temperature": self._temperature(self.last_step)} if self.has_mixture else {}),
            "images_per_second": self.images_per_second,
            "training_accuracy/largest": hits,
        }

    def start_epoch(self, draws: np.random.Generator) -> None:
        """Take the random subnets of the coming steps from ``draws``."""
        settings = self.settings
        by_paths = settings.path_sampling and 2 * self.epoch >= settings.epochs
        self._draws, self._chances = draws, self.path_probabilities() if by_paths else {}
        history = BatchHistory(1 + settings.random_subnets, parts=settings.accumulate)
        self._history = history if settings.staggered else None
        self.supernet.train()

    def add_gradients(self, batch: Batch, step: int) -> Tensor:
        """Follow the sandwich rule, part by part, all processes together.

        The sums over parts and processes are the gradients and the losses of the whole batch. Only
        norms tell the difference: each part is normalised by its own statistics, and running
        statistics move once per part.
        """
        settings, mixes = self.settings, self._mixes_in(step)
        networks = self._draw_networks(batch.resolution, mixes=mixes)
        drops = np.random.default_rng((settings.seed, self.epoch, step, 1 + self.processes.rank))
        contributions = [
            part.weight * self._add_part(part, networks, drops, step, mixes=mixes)
            for part in batch.split(settings.accumulate)
        ]
        losses = torch.stack(contributions).sum(0)
        losses = self.processes.add_up_gradients(self.supernet, losses)
        place = LOSSES.index("mixture")
        self._last_mixture = losses[place].clone() if mixes else self._last_mixture
        losses[place] = self._last_mixture  # it stands until the next mixture
        return losses

    def _draw_networks(self, resolution: int, *, mixes: bool) -> list[Architecture]:
        """The networks of a step, the largest first; a mixture stands for a random subnet."""
        count = max(0, self.settings.random_subnets - mixes)
        subnets = draw_subnets(self.space, self._draws, count, self._chances)
        networks = [self.space.largest(), *subnets]
        if self.settings.resolutions:
            networks = [network.with_input_size(resolution) for network in networks]
        return networks

    def _add_part(
        self,
        batch: Batch,
        networks: list[Architecture],
        drops: np.random.Generator,
        step: int,
        *,
        mixes: bool,
    ) -> Tensor:
        """Add the gradients of a step, or of a part of its images; returns ``LOSSES``."""
        settings = self.settings
        losses = add_gradients(
            self.supernet,
            batch,
            networks,
            self.distillation,
            history=self._history,
            precision=settings.precision,
            drop_path=DropPath(settings.drop_path, drops),
        )
        if mixes:
            losses[LOSSES.index("mixture")] = add_path_gradients(
                self.supernet,
                batch,
                rng=np.random.default_rng((settings.seed, 0, step, MIXTURE)),  # one for all parts
                temperature=self._temperature(step - 1),
                latency=settings.latency,
                precision=settings.precision,
            )
        return losses

    def _mixes_in(self, step: int) -> bool:
        """Whether a mixture runs in this step; always in the first one of an epoch."""
        number = step - self.plan.first_steps[self.epoch] - 1
        return self.has_mixture and number % self.settings.path_interval == 0

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
