"""Training a supernet: epochs of steps by the sandwich rule, with path choice.

Sandwich rule (Yu & Huang 2019, arXiv 1903.05134): the largest, the smallest and a few random
subnets learn; their gradients add up. Path choice: in some steps a mixture of the candidates of
each slot takes the place of a random subnet, and teaches the path logits alone which matter, by a
Gumbel-softmax (Jang et al. 2017, arXiv 1611.01144), as in MetaPath supernets (EfficientFormer V1:
Li et al. 2022, arXiv 2206.01191). Alternatives: benchmarks/README.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nas.architecture import Architecture
from nas.data import Dataset
from nas.data.images import resize
from nas.errors import UserError
from nas.progress import SILENT, Progress
from nas.space import SearchSpace
from nas.supernet import Supernet
from nas.training.batches import Batch, BatchHistory, TaughtBatch
from nas.training.distillation import Distillation, above_chance, diverge, teacher_accuracy
from nas.training.evaluation import evaluate_supernet, evaluation_images
from nas.training.loop import Training, train_epochs
from nas.training.outlook import advice
from nas.training.pretrained import absorb_reference, finetune_reference
from nas.training.processes import ALONE, Processes
from nas.training.relative import Modules, anchoring, modules_of, relative_to
from nas.training.run import Run
from nas.training.settings import LatencyTerm, SupernetSettings, TrainingPrecision
from nas.training.step import DropPath, in_precision, make_optimizer, with_fresh_weights

Probabilities = Mapping[str, Mapping[str, float]]  # of each kind in each slot that is a path choice
LOSSES = ("largest", "subnets", "distillation", "mixture", "hits")
"""Means over a batch, in nats, but ``hits``: the share of images that the largest gets right."""
MIXTURE = 2**16  # tells the mixture's draws from others, which have 0 or a process's rank and 1


def train_supernet(
    run: Run,
    dataset: Dataset,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
    processes: Processes = ALONE,
) -> Mapping[str, float]:
    """Train the supernet of ``run``; returns accuracies of its subnets as ``evaluate_supernet``.

    Raises UserError if the data are not the run's, another process trains it, it has begun and is
    not to ``resume``, it goes wrong too often, or Ctrl-C stops it.
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
                    if run.settings.weights:
                        finetune_reference(run, dataset, progress, processes.device)
            begin = partial(SupernetTraining, run, dataset, progress, processes)
            return train_epochs(begin, run, processes).accuracies
    except KeyboardInterrupt:
        if not processes.is_first:
            raise SystemExit(2) from None
        raise run.interrupted() from None


def fresh_supernet(
    space: SearchSpace,
    *,
    seed: int,
    layer_scale: float,
    resolutions: Sequence[int] = (),
    anchored: bool = False,
) -> Supernet:
    """A supernet with random weights that depend on ``seed`` alone."""
    make = partial(Supernet, space, resolutions, anchored=anchored)
    return with_fresh_weights(make, seed, layer_scale)


class SupernetTraining(Training):
    """The training of a run's supernet."""

    loss_names = LOSSES
    settings: SupernetSettings

    def __init__(
        self, run: Run, dataset: Dataset, progress: Progress, processes: Processes
    ) -> None:
        settings, self.space, device = run.settings, run.space, processes.device
        super().__init__(settings, dataset, self.space.largest_size, progress, processes)
        smallest = min(self.plan.sizes.values())
        if smallest < 2 * settings.accumulate * processes.count:  # a norm needs two
            raise UserError(
                f"batch_size: must hold two images for each of {settings.accumulate} part(s) in "
                f"each of {processes.count} process(es), got {smallest}"
            )
        self.has_mixture = settings.path_choice and bool(self.space.paths)
        self._last_mixture = torch.zeros((), device=device)
        start = settings.model_dump(include={"seed", "layer_scale", "resolutions"})
        supernet = fresh_supernet(self.space, **start, anchored=bool(settings.weights))
        if settings.weights and not run.finished_epochs:
            absorb_reference(supernet, run, dataset, progress)
        self.supernet: Supernet = supernet.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.saved = self.supernet
        rates = {"learning_rate", "weight_decay", "path_learning_rate"}
        self.optimizer = make_optimizer(self.supernet, **settings.model_dump(include=rates))
        self.external = run.load_teacher(device)
        if self.external is not None:
            found = teacher_accuracy(self.external, evaluation_images(dataset))
            self.teacher_accuracy = above_chance(found, self.space.classes)

    @property
    def distillation(self) -> Distillation:
        share = self.settings.distillation * self.teacher_accuracy
        return Distillation(share, self.settings.divergence, self.external)

    def advice(self, rate: float, epochs: int) -> str:
        return advice(rate, self.plan.images, epochs, self.dataset.name)

    def path_probabilities(self) -> Probabilities:
        return path_probabilities(self.supernet) if self.has_mixture else {}

    def evaluate(self) -> Mapping[str, float]:
        return evaluate_supernet(self.supernet, self.dataset, self.processes)

    def numbers(self, losses: dict[str, float]) -> dict[str, float]:
        share, hits = self.distillation.share, losses.pop("hits")
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
        settings = self.settings
        by_paths = settings.path_sampling and 2 * self.epoch >= settings.epochs
        self._draws, self._chances = draws, self.path_probabilities() if by_paths else {}
        history = BatchHistory(1 + settings.random_subnets, parts=settings.accumulate)
        self._history = history if settings.staggered else None
        self.supernet.train()

    def add_gradients(self, batch: Batch, step: int) -> Tensor:
        settings, number = self.settings, step - self.plan.first_steps[self.epoch] - 1
        mixes = self.has_mixture and number % settings.path_interval == 0
        others = max(0, settings.random_subnets - mixes)  # a mixture stands for a random subnet
        networks = [self.space.largest()]
        networks += draw_subnets(self.space, self._draws, others, self._chances)
        if settings.resolutions:
            networks = [network.with_input_size(batch.resolution) for network in networks]
        drops = np.random.default_rng((settings.seed, self.epoch, step, 1 + self.processes.rank))
        drop_path, place = DropPath(settings.drop_path, drops), LOSSES.index("mixture")
        contributions = []
        for part in batch.split(settings.accumulate):
            losses = add_gradients(
                self.supernet,
                part,
                networks,
                self.distillation,
                history=self._history,
                precision=settings.precision,
                drop_path=drop_path,
            )
            if mixes:
                losses[place] = add_path_gradients(
                    self.supernet,
                    part,
                    rng=np.random.default_rng((settings.seed, 0, step, MIXTURE)),  # same for all
                    temperature=self._temperature(step - 1),
                    latency=settings.latency,
                    precision=settings.precision,
                )
            contributions.append(part.weight * losses)
        losses = self.processes.add_up_gradients(self.supernet, torch.stack(contributions).sum(0))
        self._last_mixture = losses[place].clone() if mixes else self._last_mixture
        losses[place] = self._last_mixture  # it stands until the next mixture
        return losses

    def _temperature(self, step: int) -> float:
        first, last = self.settings.first_temperature, self.settings.last_temperature
        return scheduled_temperature(step, steps=self.plan.total_steps, start=first, end=last)


def draw_subnets(
    space: SearchSpace, rng: np.random.Generator, count: int, chances: Probabilities | None = None
) -> list[Architecture]:
    """The smallest subnet and ``count`` random ones, with path choices by ``chances``."""
    drawn = (sample_by_paths(space, rng, chances or {}) for _ in range(count))
    return [space.smallest(), *drawn]


def add_gradients(
    supernet: Supernet,
    batch: Batch,
    networks: list[Architecture],
    distillation: Distillation,
    *,
    history: BatchHistory | None = None,
    precision: TrainingPrecision | None = None,
    drop_path: DropPath | None = None,
) -> Tensor:
    """Add the gradients of ``networks``, the largest first, to the supernet's; return ``LOSSES``.

    Subnets learn from labels and the largest, or all from an external teacher; with a ``history``
    from earlier batches. In an anchored supernet norms of the largest keep their statistics, and
    those of subnets are relative to it. Gradients count by the batch's weight, losses (5,) do not.
    """
    images, labels = batch.images, batch.labels
    largest, *subnets = networks
    forward = in_precision(supernet, images.device, precision)
    sized = cache(resize)  # many subnets have the same size
    dropping = drop_path.applied_to(supernet.plain_modules(largest)) if drop_path else nullcontext()
    anchored = anchoring(plain_modules(supernet, largest)) if supernet.anchored else nullcontext()
    with dropping, anchored as found:
        logits = forward(sized(images, largest.input_size), largest)
    label_loss = loss = functional.cross_entropy(logits, labels)
    hits = (logits.argmax(1) == labels).float().mean()
    if distillation.teacher is None:
        target = logits.detach()  # (N, classes)
    else:
        target = distillation.teacher(images)
        loss = distillation.loss(loss, diverge(logits, target, distillation.divergence))
    (batch.weight * loss).backward()  # type: ignore[no-untyped-call]
    taught = TaughtBatch(images, labels, target, found)
    if history is not None:
        history.add(taught)
    label_losses, divergences = [], []
    for student, subnet in enumerate(subnets, 1):
        images, labels, target, anchors = taught if history is None else history.batch_of(student)
        modules = plain_modules(supernet, subnet)
        with nullcontext() if anchors is None else relative_to(anchors, modules):
            logits = forward(sized(images, subnet.input_size), subnet)
        cross_entropy = functional.cross_entropy(logits, labels)
        divergence = diverge(logits, target, distillation.divergence)
        loss = distillation.loss(cross_entropy, divergence)
        (batch.weight * loss).backward()  # type: ignore[no-untyped-call]
        label_losses.append(cross_entropy.detach())
        divergences.append(divergence.detach())
    means = torch.stack(label_losses).mean(), torch.stack(divergences).mean()
    return torch.stack([label_loss.detach(), *means, label_loss.new_zeros(()), hits])


def plain_modules(supernet: Supernet, architecture: Architecture) -> Modules:
    """The modules of an architecture's layers, which the supernet's forward calls."""
    return modules_of(architecture, supernet.plain_modules(architecture).__getitem__)


def add_path_gradients(
    supernet: Supernet,
    batch: Batch,
    *,
    rng: np.random.Generator,
    temperature: float,
    latency: LatencyTerm | None,
    precision: TrainingPrecision | None = None,
) -> Tensor:
    """Add a mixture's gradients by the batch's weight, with ``latency``'s; return cross-entropy."""
    logits = supernet.path_logits
    forward = in_precision(supernet.mixture, batch.images.device, precision)
    images = resize(batch.images, batch.resolution)
    outputs = forward(images, gumbel_weights(logits, rng, temperature))
    cross_entropy = functional.cross_entropy(outputs, batch.labels)
    loss = cross_entropy if latency is None else cross_entropy + latency(logits)
    (batch.weight * loss).backward()  # type: ignore[no-untyped-call]
    return cross_entropy.detach()


def path_probabilities(supernet: Supernet) -> Probabilities:
    """The softmax of the logits: how often each kind wins with Gumbel noise, at any temperature."""
    space = supernet.space
    found: dict[str, dict[str, float]] = {}
    for slot, logits in supernet.path_logits.items():
        kinds = map(str, space.typed_choices[space.kind_choices[slot]].options)
        chances = logits.detach().double().softmax(0).tolist()
        found[slot] = dict(zip(kinds, chances, strict=True))
    return found


def scheduled_temperature(step: int, *, steps: int, start: float, end: float) -> float:
    """The temperature of a step, from 0: it falls by the same factor in each step."""
    share = step / max(1, steps - 1)
    return float(start ** (1 - share) * end**share)


def gumbel_weights(
    logits: Mapping[str, Tensor], rng: np.random.Generator, temperature: float
) -> dict[str, Tensor]:
    """softmax((logits + noise) / temperature) of each slot, the noise -log(-log U)."""
    return {
        slot: ((vector + gumbel_noise(rng, len(vector)).to(vector)) / temperature).softmax(0)
        for slot, vector in logits.items()
    }


def gumbel_noise(rng: np.random.Generator, count: int) -> Tensor:
    """So many draws of -log(-log U) for U uniform in (0, 1)."""
    return torch.from_numpy(rng.gumbel(size=count))


def sample_by_paths(
    space: SearchSpace, rng: np.random.Generator, probabilities: Probabilities
) -> Architecture:
    """A random architecture like ``space.sample``, with each path choice by its probabilities."""
    assignment = list(space.sample_assignment(rng))
    for slot, chances in probabilities.items():
        drawn = rng.choice(len(chances), p=list(chances.values()))
        assignment[space.kind_choices[slot]] = int(drawn)
    return space.decode(assignment)
