"""The closed loop on the device: choose, export, measure, until measurements meet the target."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from torch import nn

from nas.architecture import Architecture
from nas.data import Dataset
from nas.deploy.export import Examples, OnnxNetwork, to_checked_int8, to_checked_onnx
from nas.deploy.quantize import precision_of
from nas.deploy.weights import save_weights
from nas.documents import write_atomically
from nas.errors import UserError
from nas.latency.measure import PATIENT, Measurement, measure
from nas.latency.table import LatencyTable, Prices
from nas.latency.target import Target, placement
from nas.progress import Progress
from nas.search import Problem, Rank
from nas.search.problem import Costs
from nas.slim.journal import Judged, Measured, Memory, Raced
from nas.slim.plan import Plan
from nas.slim.result import NETWORK_FILES, FinalNetwork, LayerShare, MeasuredLatency
from nas.space import Assignment, SearchSpace
from nas.supernet import Supernet
from nas.training.evaluation import inherited_network
from nas.training.evaluator import Evaluator

CORRECTIONS = 12
"""Rounds of measuring and choosing again, at most."""
LEAST_CORRECTION = 0.995
"""A bound is lowered to this share at most, so that every round changes something."""
INT8_IMAGES, JUDGED_IMAGES = 128, 512
"""Training images that calibrate an int8 network, and images of the search slice that judge it."""


@dataclass(frozen=True, eq=False)
class Delivered:
    """A network with inherited weights; ``model`` is in the precision of the first table."""

    figures: FinalNetwork
    architecture: Architecture
    network: nn.Module
    model: onnx.ModelProto

    @property
    def executed(self) -> nn.Module:
        """The module that computes as the written model does."""
        return OnnxNetwork(self.model) if precision_of(self.model) == "int8" else self.network

    @property
    def missed(self) -> tuple[MeasuredLatency, ...]:
        """The measured latencies whose interval ends above their bound."""
        bounds, latencies = self.figures.target or {}, self.figures.latencies
        return tuple(it for it in latencies if it.high > bounds.get(it.cost, math.inf))

    def save(self, folder: Path) -> None:
        self.architecture.save(folder / NETWORK_FILES["architecture"])
        save_weights(self.network, folder / NETWORK_FILES["weights"])
        write_atomically(folder / NETWORK_FILES["onnx"], self.model.SerializeToString())


@dataclass
class Candidates:
    """Evaluates and delivers networks, each once; ``measured`` are the tables of this machine."""

    plan: Plan
    prices: Prices
    measured: Mapping[str, LatencyTable]
    supernet: Supernet
    dataset: Dataset
    journal: Memory
    progress: Progress
    _delivered: dict[Architecture, Delivered] = field(default_factory=dict)

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

    def deliver(self, name: str, target: Costs | None, assignment: Assignment) -> Delivered:
        """Extract, calibrate, export and measure one network; UserError if its export is wrong."""
        architecture = self.space.decode(assignment)
        if architecture not in self._delivered:
            self._delivered[architecture] = self._make(assignment, architecture)
        named = {"name": name, "target": dict(target) if target else None}
        made = self._delivered[architecture]
        return replace(made, figures=made.figures.model_copy(update=named))

    def deliver_within(
        self, name: str, target: Costs, choose: Callable[[Costs], Assignment]
    ) -> Delivered:
        """Choose within ever lower bounds until measurements meet ``target``, or UserError."""
        bounds, cost = dict(target), ""
        for _ in range(CORRECTIONS):
            delivered = self.deliver(name, target, choose(bounds))
            if not delivered.missed:
                return delivered
            for latency in delivered.missed:
                cost, ms = latency.cost, latency.measured
                self.progress.say(f"{name}: measured {ms:.3f} ms, above the target; going on")
                allowed = target[cost] * latency.predicted / latency.high
                bounds[cost] = min(allowed, bounds[cost] * LEAST_CORRECTION)
        raise UserError(
            f"{name}: {target[cost]:g} ms not met when measured, after {CORRECTIONS} corrections; "
            f"the machine is too busy, or the table out of date: "
            f"nas check-lut {self.measured[cost].path}"
        )

    def _remember(self, line: Judged | Raced) -> None:
        """Write a line and report the number of networks evaluated so far, each counted once."""
        self.journal.add(line)
        raced = {one for race in self.journal.races for one in race[1:]}
        searches = 3 if self.plan.baselines else 1
        done = len(raced | self.journal.accuracies.keys())
        total = searches * len(self.plan.targets) * self.plan.evaluations
        self.progress.update("networks evaluated", done, total)

    def _make(self, assignment: Assignment, architecture: Architecture) -> Delivered:
        network = inherited_network(self.supernet, architecture, self.dataset.train)
        exported, _ = to_checked_onnx(network, architecture.input_shape)
        costs = self.prices.cost(assignment)
        models: list[tuple[onnx.ModelProto, float | None]] = []
        for table in self.measured.values():
            if table.target.precision == "float32":
                models.append((exported, None))
            else:
                examples = take_examples(self.dataset.at(architecture.input_size))
                models.append(to_checked_int8(exported, network, examples, placement(table.target)))
        latencies = []
        for (name, table), (model, _) in zip(self.measured.items(), models, strict=True):
            it = self._measure(assignment, model, table)
            latency = MeasuredLatency(
                cost=name, predicted=costs[name], measured=it.ms, low=it.ms_low, high=it.ms_high
            )
            latencies.append(latency)
        model, agreement = models[0]
        figures = FinalNetwork(
            name="",
            target=None,
            assignment=assignment,
            costs=costs,
            score=self.plan.score(costs),
            latencies=tuple(latencies),
            search_accuracy=self.accuracy(assignment),
            test_accuracy=None,
            layers=tuple(_layer_shares(architecture, costs, self.prices.latencies)),
            int8_agreement=agreement,
        )
        return Delivered(figures, architecture, network, model)

    def _measure(
        self, assignment: Assignment, model: onnx.ModelProto, table: LatencyTable
    ) -> Measurement:
        target = target_sha256(table.target)
        if (assignment, target) not in self.journal.latencies:
            (found,) = measure([model], table.target, rng=np.random.default_rng(0), plan=PATIENT)
            self.journal.add(Measured(assignment=assignment, target_sha256=target, latency=found))
        return self.journal.latencies[assignment, target]


def _layer_shares(
    architecture: Architecture, costs: Costs, tables: Mapping[str, LatencyTable]
) -> list[LayerShare]:
    """Each layer's part of the predicted latency, in proportion to its row; they add up to it."""
    placed = list(architecture.placed())
    sums = {name: sum(table.row(*place).ms for place in placed) for name, table in tables.items()}
    shares = []
    for layer, shape in placed:
        rows = {name: table.row(layer, shape) for name, table in tables.items()}
        row = next(iter(rows.values()))
        latencies = {name: costs[name] * rows[name].ms / sums[name] for name in rows}
        parts = {**latencies, "params": row.params, "macs": row.macs}
        shares.append(LayerShare(slot=layer.slot, layer=layer.signature, costs=parts))
    return shares


def take_examples(dataset: Dataset) -> Examples:
    """Training images to calibrate an int8 network, and images of the search slice to judge it."""
    draws = [
        next(iter(images.batches(min(count, len(images)), rng=np.random.default_rng(0))))[0]
        for images, count in ((dataset.train, INT8_IMAGES), (dataset.search, JUDGED_IMAGES))
    ]
    return Examples(*draws)


def target_sha256(target: Target) -> str:
    """Stands for a target in the journal."""
    return hashlib.sha256(target.model_dump_json().encode()).hexdigest()
