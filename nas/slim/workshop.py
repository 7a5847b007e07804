"""What a search works with: prices by tables, accuracies and networks from the supernet."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import onnx
from torch import nn

from nas.architecture import Architecture
from nas.data import Dataset
from nas.deploy.export import to_checked_int8, to_checked_onnx
from nas.latency.measure import PATIENT, Measurement, measure
from nas.latency.prices import Prices
from nas.latency.table import LatencyTable
from nas.latency.target import Target, placement
from nas.progress import Progress
from nas.search import Problem, Rank
from nas.slim.journal import Judged, Measured, Memory, Raced
from nas.slim.network import Delivered, take_examples
from nas.slim.plan import Plan
from nas.space import Assignment, SearchSpace
from nas.supernet import Supernet
from nas.training.evaluation import Evaluator, inherited_network


@dataclass
class Workshop:
    """Judges and delivers networks; what the journal knows is not done again.

    ``measured``: the tables of this machine, by the names of their latencies.
    """

    plan: Plan
    prices: Prices
    measured: Mapping[str, LatencyTable]
    supernet: Supernet
    dataset: Dataset
    journal: Memory
    progress: Progress
    _accuracies: dict[Architecture, float] = field(default_factory=dict)
    _delivered: dict[Architecture, Delivered] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for assignment, accuracy in self.journal.accuracies.items():
            self._accuracies[self.space.decode(assignment)] = accuracy

    @property
    def space(self) -> SearchSpace:
        return self.prices.space

    @property
    def evaluations(self) -> int:
        """Networks judged so far, each once, whoever asked; in a race or one by one."""
        raced = {one for race in self.journal.races for one in race[1:]}
        return len(raced | self.journal.accuracies.keys())

    @property
    def _most_evaluations(self) -> int:
        searches = 3 if self.plan.baselines else 1
        return searches * len(self.plan.targets) * self.plan.evaluations

    @cached_property
    def problem(self) -> Problem:
        """The search as the methods see it, within the first of the targets."""
        return Problem(
            sizes=self.space.sizes,
            cost=self.prices.cost,
            accuracy=self.accuracy,
            target=self.plan.targets[0],
            canonical=self.space.canonical,
            race=self.race,
            score=self.plan.score,
        )

    @cached_property
    def evaluator(self) -> Evaluator:
        """What judges architectures."""
        return Evaluator(self.supernet, self.dataset)

    def accuracy(self, assignment: Assignment) -> float:
        """Accuracy on the search slice with inherited weights; the supernet stays as it is.

        Accuracies are remembered by architecture, as several assignments may decode to one.
        """
        architecture = self.space.decode(assignment)
        if architecture not in self._accuracies:
            found = self.evaluator.accuracy(architecture)
            self._accuracies[architecture] = found
            self.journal.add(Judged(assignment=assignment, accuracy=found))
            self.progress.update("networks evaluated", self.evaluations, self._most_evaluations)
        return self._accuracies[architecture]

    def race(
        self, current: Assignment, candidates: Sequence[Assignment], rank: Rank
    ) -> Sequence[float]:
        """Accuracies of a step's candidates, estimates of those that lost early."""
        race = current, *candidates
        if race not in self.journal.races:
            architectures = [self.space.decode(one) for one in candidates]
            found = self.evaluator.race(self.space.decode(current), architectures, rank)
            self.journal.add(
                Raced(current=current, candidates=tuple(candidates), accuracies=tuple(found))
            )
            self.progress.update("networks evaluated", self.evaluations, self._most_evaluations)
        return self.journal.races[race]

    def deliver(
        self, name: str, target: Mapping[str, float] | None, assignment: Assignment
    ) -> Delivered:
        """Extract, calibrate, export and measure one network.

        Raises:
            UserError: the exported network computes something else than torch does, or in int8
            predicts something else.
        """
        architecture = self.space.decode(assignment)
        if architecture not in self._delivered:
            self._delivered[architecture] = self._make(assignment, architecture)
        return replace(self._delivered[architecture], name=name, target=target)

    def _make(self, assignment: Assignment, architecture: Architecture) -> Delivered:
        network = inherited_network(self.supernet, architecture, self.dataset.train)
        exported, _ = to_checked_onnx(network, architecture.input_shape)
        models = {
            name: self._in_precision(exported, network, architecture, table)
            for name, table in self.measured.items()
        }
        costs = self.prices.cost(assignment)
        model, agreement = next(iter(models.values()))
        return Delivered(
            name="",
            target=None,
            assignment=assignment,
            architecture=architecture,
            network=network,
            model=model,
            costs=costs,
            measured={
                name: self._measure(assignment, models[name][0], table)
                for name, table in self.measured.items()
            },
            score=self.plan.score(costs),
            search_accuracy=self.accuracy(assignment),
            agreement=agreement,
        )

    def _in_precision(
        self,
        exported: onnx.ModelProto,
        network: nn.Module,
        architecture: Architecture,
        table: LatencyTable,
    ) -> tuple[onnx.ModelProto, float | None]:
        """The model as the table's target computes it, and in int8 how far it agrees."""
        if table.target.precision == "float32":
            return exported, None
        examples = take_examples(self.dataset.at(architecture.input_size))
        return to_checked_int8(exported, network, examples, placement(table.target))

    def _measure(
        self, assignment: Assignment, model: onnx.ModelProto, table: LatencyTable
    ) -> Measurement:
        target = target_sha256(table.target)
        if (assignment, target) not in self.journal.latencies:
            (found,) = measure([model], table.target, rng=np.random.default_rng(0), plan=PATIENT)
            self.journal.add(Measured(assignment=assignment, target_sha256=target, latency=found))
        return self.journal.latencies[assignment, target]


def target_sha256(target: Target) -> str:
    """Stands for a target in the journal."""
    return hashlib.sha256(target.model_dump_json().encode()).hexdigest()
