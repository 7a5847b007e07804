"""The networks that a search considers, each evaluated once, and exported to be measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from torch import nn

from nas.architecture import Architecture
from nas.data import Dataset
from nas.deploy.export import (
    Examples,
    OnnxNetwork,
    require_parity,
    to_checked_int8,
)
from nas.latency.graphs import LayerGraphs
from nas.latency.parity import require_same_result
from nas.latency.table import LatencyTable, Prices
from nas.latency.target import placement
from nas.progress import Progress
from nas.search import Problem, Rank
from nas.slim.journal import Judged, Memory, Raced
from nas.slim.plan import Plan
from nas.space import Assignment, SearchSpace
from nas.supernet import Supernet
from nas.training.evaluation import inherited_network
from nas.training.evaluator import Evaluator
from nas.training.relative import Anchors

INT8_IMAGES, JUDGED_IMAGES = 128, 512
"""Training images that calibrate an int8 network, and images of the search slice that judge it."""


class Exported(NamedTuple):
    """A network with inherited weights, and its models by the latencies that they are timed for.

    ``int8_agreement`` is that of the first model.
    """

    network: nn.Module
    models: Mapping[str, onnx.ModelProto]
    int8_agreement: float | None


@dataclass
class Candidates:
    """Evaluates and exports networks; ``measured`` are the tables of devices at hand.

    ``folder`` is where the search writes its results.
    """

    plan: Plan
    prices: Prices
    measured: Mapping[str, LatencyTable]
    supernet: Supernet
    dataset: Dataset
    journal: Memory
    progress: Progress
    folder: Path = Path()
    _exported: dict[Architecture, Exported] = field(default_factory=dict)
    _graphs: LayerGraphs = field(default_factory=LayerGraphs)
    _anchors: dict[int, list[Anchors]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = self.journal.accuracies
        self._accuracies = {self.space.decode(one): known[one] for one in known}

    @property
    def space(self) -> SearchSpace:
        return self.prices.space

    @property
    def largest(self) -> Assignment:
        """The last option of every choice."""
        return tuple(size - 1 for size in self.space.sizes)

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
        return Evaluator(self.supernet, self.dataset)

    def accuracy(self, assignment: Assignment) -> float:
        """Accuracy on the search slice with inherited weights, once for each architecture."""
        architecture = self.space.decode(assignment)
        if architecture not in self._accuracies:
            found = self._accuracies[architecture] = self.evaluator.accuracy(architecture)
            self._remember(Judged(assignment=assignment, accuracy=found))
        return self._accuracies[architecture]

    def race(self, start: Assignment, rivals: Sequence[Assignment], rank: Rank) -> Sequence[float]:
        """Accuracies of networks one step from ``start``; estimates of those that lost early."""
        race = start, *rivals
        if race not in self.journal.races:
            first, *others = map(self.space.decode, race)
            found = tuple(self.evaluator.race(first, others, rank))
            self._remember(Raced(current=start, candidates=tuple(rivals), accuracies=found))
        return self.journal.races[race]

    def exported(self, assignment: Assignment) -> Exported:
        """A network as it is delivered, made once; UserError if its export is wrong."""
        architecture = self.space.decode(assignment)
        if architecture not in self._exported:
            self._exported[architecture] = self._export(architecture)
        return self._exported[architecture]

    def _remember(self, line: Judged | Raced) -> None:
        """Write a line and report the number of networks evaluated so far, each counted once."""
        self.journal.add(line)
        raced = {one for race in self.journal.races for one in race[1:]}
        searches = 3 if self.plan.baselines else 1
        done = len(raced | self.journal.accuracies.keys())
        total = searches * len(self.plan.targets) * self.plan.evaluations
        self.progress.update("networks evaluated", done, max(done, total))  # the loop asks for more

    def _export(self, architecture: Architecture) -> Exported:
        network = inherited_network(self.supernet, architecture, self.dataset.train, self._anchors)
        return self.export(network, architecture)

    def export(self, network: nn.Module, architecture: Architecture) -> Exported:
        """The models of any network; UserError if one is wrong, or is run wrongly on its device."""
        exact = self._graphs.compose(network, architecture)  # a tenth of the time of an export
        require_parity(OnnxNetwork(exact), network, architecture.input_shape)
        models: dict[str, onnx.ModelProto] = {}
        agreements: list[float | None] = []
        for cost, table in self.measured.items():
            agreement = None
            models[cost] = exact
            if table.target.precision == "int8":
                examples = take_examples(self.dataset.at(architecture.input_size))
                where = placement(table.target)
                models[cost], agreement = to_checked_int8(exact, network, examples, where)
            require_same_result(models[cost], table.target)
            agreements.append(agreement)
        return Exported(network, models, agreements[0])


def take_examples(dataset: Dataset) -> Examples:
    """Training images to calibrate an int8 network, and images of the search slice to judge it."""
    draws = [
        next(iter(images.batches(min(count, len(images)), rng=np.random.default_rng(0))))[0]
        for images, count in ((dataset.train, INT8_IMAGES), (dataset.search, JUDGED_IMAGES))
    ]
    return Examples(*draws)
