"""Checks whether a supernet ranks networks in the order that separate trainings give them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import torch
from pydantic import TypeAdapter

from nas.architecture import Architecture
from nas.data import Dataset
from nas.documents import Value
from nas.errors import StoppedError, UserError
from nas.network import measure_size
from nas.progress import SILENT, Progress
from nas.space import SearchSpace
from nas.statistics import Interval, kendall, spread_over, with_interval
from nas.store.journal import Journal
from nas.store.lock import hold_lock
from nas.training.alone import train_alone
from nas.training.evaluation import accuracy, inherited_accuracy
from nas.training.run import Run
from nas.training.settings import Recipe, Share

LOCK = ".check.lock"
JOURNAL = "check.jsonl"  # in a run's folder: the finished trainings of all its checks
CANDIDATES = 20
"""Random architectures for each one that is picked: enough to have one near every size."""
PICKING_SEED = 0  # runs of one space are checked on the same networks


class Finished(Value):
    """A line of the journal: a training's key, and its accuracy on the search slice."""

    training: str
    accuracy: Share


class Compared(Value):
    """One architecture. Accuracies are shares of the search slice, ``alone`` one for each seed."""

    architecture: Architecture
    params: int
    macs: int
    inherited: float
    alone: tuple[float, ...]

    @property
    def mean_alone(self) -> float:
        return float(np.mean(self.alone))


class Check(Value):
    """All architectures, smallest first, and how well the supernet ranks them.

    ``tau`` is Kendall's rank correlation of inherited accuracy and the mean of those alone, with
    its 95 % interval; ``tau_between_seeds`` a mean over pairs; ``gap`` inherited minus alone.
    """

    recipe: Recipe
    images: int
    compared: tuple[Compared, ...]
    tau: float
    tau_interval: Interval
    tau_between_seeds: float | None
    gap: float


def check_supernet(
    run: Run,
    dataset: Dataset,
    recipe: Recipe,
    *,
    architectures: int,
    seeds: int,
    progress: Progress = SILENT,
    device: torch.device | str = "cpu",
) -> Check:
    """Train architectures that span the run's space, each alone, and compare their accuracies.

    Trainings that the run's journal has are not repeated. Raises UserError if the run has no
    weights, its space has fewer architectures or a training went wrong, and after Ctrl-C.
    """
    run.require_images(dataset)
    supernet = run.load_supernet().to(device)
    picked = spanning_architectures(run.space, architectures)
    recipes = [recipe.model_copy(update={"seed": recipe.seed + seed}) for seed in range(seeds)]
    trainings = {training_key(*pair, run): pair for pair in product(recipes, picked)}
    accuracies: dict[str, float] = {}
    path = run.path / JOURNAL
    try:
        kind, remedy = TypeAdapter(Finished), "mend or delete the file"
        held = f"{run.path}: another process is checking it; wait for it"
        with (
            hold_lock(run.path / LOCK, held=held),
            Journal(path, kind, noun="a check", remedy=remedy) as journal,
        ):
            if journal.remark:
                progress.say(journal.remark)
            accuracies = {line.training: line.accuracy for line in journal.lines}
            for number, (key, (own, architecture)) in enumerate(trainings.items()):
                if key in accuracies:
                    continue
                part = _NetworkProgress(progress, number, len(trainings))
                network = train_alone(architecture, dataset, own, progress=part, device=device)
                accuracies[key] = accuracy(network, dataset.search.at(architecture.input_size))
                journal.append(Finished(training=key, accuracy=accuracies[key]))
    except KeyboardInterrupt:
        raise StoppedError(
            f"stopped; {len(accuracies)} trainings are kept in {path}, the same command goes on"
        ) from None
    alone = [accuracies[key] for key in trainings]
    compared = [
        Compared(
            architecture=architecture,
            **measure_size(architecture)._asdict(),
            inherited=inherited_accuracy(supernet, architecture, dataset),
            alone=tuple(alone[index :: len(picked)]),
        )
        for index, architecture in enumerate(picked)
    ]
    return judge_ranks(compared, recipe, images=len(dataset.search))


def judge_ranks(compared: Sequence[Compared], recipe: Recipe, *, images: int) -> Check:
    """Compare accuracies that were measured on so many ``images``."""
    inherited = [network.inherited for network in compared]
    alone = [network.mean_alone for network in compared]
    tau, interval = with_interval(kendall, inherited, alone)
    by_seed = list(zip(*(network.alone for network in compared), strict=True))
    pairs = [with_interval(kendall, *pair)[0] for pair in combinations(by_seed, 2)]
    return Check(
        recipe=recipe,
        images=images,
        compared=tuple(compared),
        tau=tau,
        tau_interval=interval,
        tau_between_seeds=float(np.mean(pairs)) if pairs else None,
        gap=float(np.mean(np.subtract(inherited, alone))),
    )


def spanning_architectures(space: SearchSpace, count: int) -> list[Architecture]:
    """So many, evenly spread by the logarithm of MACs; UserError if the space has fewer."""
    rng = np.random.default_rng(PICKING_SEED)
    wanted = CANDIDATES * count
    if space.cardinality <= wanted:
        drawn = [space.decode(it) for it in product(*map(range, space.sizes))]
    else:
        drawn = [space.sample(rng) for _ in range(wanted)]
    ends = dict.fromkeys((space.smallest(), space.largest()))
    pool = list(ends | dict.fromkeys(drawn))
    if len(pool) < count:
        raise UserError(
            f"{space.name}: has {len(pool)} architectures, --architectures must not be above"
        )
    picked = spread_over(macs := [measure_size(network).macs for network in pool], count)
    for place, end in (0, 0), (-1, len(ends) - 1):
        if end not in picked:  # others may cost as much
            picked[place] = end
    return [pool[index] for index in sorted(picked, key=lambda it: macs[it])]


def training_key(recipe: Recipe, architecture: Architecture, run: Run) -> str:
    """Identifies a training: trainings with the same key have the same accuracy."""
    text = architecture.to_json() + recipe.model_dump_json()
    if run.record.held_out:
        text += run.data.model_copy(update={"spec": ""}).model_dump_json()
    else:
        text += run.data.model_dump_json()
    text += run.record.images_sha256
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _NetworkProgress:
    """The progress of one of ``count`` trainings, after ``finished`` others."""

    progress: Progress
    finished: int
    count: int

    def update(self, text: str, done: int, total: int | None = None) -> None:
        text = f"network {self.finished + 1} of {self.count}, {text}"
        steps = total or 1
        self.progress.update(text, self.finished * steps + done, self.count * steps)

    def say(self, line: str) -> None:
        self.progress.say(line)
