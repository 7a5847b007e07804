"""From a trained supernet and a latency table to a network that meets its budget when measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from torch import nn

from nas.architecture import Architecture
from nas.data import Dataset
from nas.deploy.export import Examples, OnnxNetwork, to_checked_int8, to_checked_onnx
from nas.deploy.files import save_weights
from nas.deploy.quantize import precision_of
from nas.documents import write_atomically, write_json
from nas.errors import UserError
from nas.latency.measure import PATIENT, Measurement, measure
from nas.latency.precision import placement
from nas.latency.runtime import detect_again
from nas.latency.table import LatencyTable
from nas.latency.validation import judge
from nas.report.frontier import Point, draw_frontier, write_frontier
from nas.report.progress import Bar
from nas.report.trace import write_trace
from nas.search import (
    PathChoice,
    SlimmingResult,
    mobile_efficiency_score,
    scale_uniformly,
    slim,
    slim_by_importance,
)
from nas.search.problem import Costs, InfeasibleTarget, meets
from nas.search.racing import Rank
from nas.search.slimming import Step
from nas.space import Assignment, SearchSpace
from nas.supernet import Supernet
from nas.training.evaluate import accuracy, inherited_network
from nas.training.evaluator import Evaluator
from nas.training.paths import path_probabilities
from nas.training.run import Run

Strategy = Literal["frontier", "importance"]
"""How slimming goes down: ``slim`` (EfficientFormer V2) or ``slim_by_importance`` (V1)."""
INT8_IMAGES, JUDGED_IMAGES = 128, 512
"""An int8 network is calibrated on training images and judged on images of the search slice, at
most so many."""
CORRECTIONS = 12
"""Rounds of measuring and slimming further, at most."""

RESULT = "result.json"


@dataclass(frozen=True)
class Delivered:
    """One network of the final table, with what was predicted and what was measured.

    Accuracies are shares in [0, 1]; weights are inherited from the supernet. ``model`` is in the
    table's precision; in int8 ``agreement`` is the share of images for which it predicts what
    ``network`` predicts.
    """

    name: str
    assignment: Assignment
    architecture: Architecture
    network: nn.Module
    model: onnx.ModelProto
    costs: Costs
    measured: Measurement
    score: float
    search_accuracy: float
    agreement: float | None = None
    test_accuracy: float | None = None

    @property
    def delivered(self) -> nn.Module:
        """What computes as the written model does."""
        return OnnxNetwork(self.model) if precision_of(self.model) == "int8" else self.network

    def summary(self) -> dict[str, Any]:
        """The figures of the final table."""
        return {
            "name": self.name,
            "test_accuracy": self.test_accuracy,
            "search_accuracy": self.search_accuracy,
            "int8_agreement": self.agreement,
            "params": int(self.costs["params"]),
            "macs": int(self.costs["macs"]),
            "predicted_ms": self.costs["latency_ms"],
            "measured_ms": self.measured.ms,
            "measured_ms_low": self.measured.ms_low,
            "measured_ms_high": self.measured.ms_high,
            "mes": self.score,
        }


@dataclass
class Workshop:
    """What a search works with: prices from the table, accuracies from the supernet.

    Accuracies are remembered by architecture, as several assignments may decode to one.
    """

    space: SearchSpace
    supernet: Supernet
    dataset: Dataset
    table: LatencyTable
    rng: np.random.Generator
    bar: Bar
    evaluations: int
    accuracies: dict[Architecture, float] = field(default_factory=dict)
    prices: dict[Assignment, Costs] = field(default_factory=dict)
    raced: set[Architecture] = field(default_factory=set)

    @cached_property
    def evaluator(self) -> Evaluator:
        """What judges architectures."""
        return Evaluator(self.supernet, self.dataset)

    def cost(self, assignment: Assignment) -> Costs:
        """Predicted latency, parameters and MACs."""
        if assignment not in self.prices:
            self.prices[assignment] = self.table.cost(self.space.decode(assignment))
        return self.prices[assignment]

    def accuracy(self, assignment: Assignment) -> float:
        """Accuracy on the search slice with inherited weights; the supernet stays as it is."""
        architecture = self.space.decode(assignment)
        if architecture not in self.accuracies:
            self.accuracies[architecture] = self.evaluator.accuracy(architecture)
            self.bar.update("networks evaluated", self.spent, self.evaluations)
        return self.accuracies[architecture]

    def race(
        self, current: Assignment, candidates: Sequence[Assignment], rank: Rank
    ) -> list[float]:
        """Accuracies of a step's candidates, of those that lost early estimates."""
        architectures = [self.space.decode(one) for one in candidates]
        found = self.evaluator.race(self.space.decode(current), architectures, rank)
        self.raced.update(architectures)
        self.bar.update("networks evaluated", self.spent, self.evaluations)
        return found

    @property
    def spent(self) -> int:
        """Networks judged so far, one by one or in a race."""
        return len(self.raced | self.accuracies.keys())

    def deliver(self, name: str, assignment: Assignment) -> Delivered:
        """Extract, calibrate, export and measure one network.

        Raises:
            UserError: the exported network computes something else than torch does, or in int8
            predicts something else.
        """
        architecture = self.space.decode(assignment)
        network = inherited_network(self.supernet, architecture, self.dataset.train)
        model, _ = to_checked_onnx(network, architecture.input_shape)
        agreement = None
        if self.table.target.precision == "int8":
            examples = take_examples(self.dataset.at(architecture.input_size))
            where = placement(self.table.target)
            model, agreement = to_checked_int8(model, network, examples, where)
        (measured,) = measure(
            [model], self.table.target, rng=np.random.default_rng(0), plan=PATIENT
        )
        costs = self.cost(assignment)
        return Delivered(
            name,
            assignment,
            architecture,
            network,
            model,
            costs,
            measured,
            mobile_efficiency_score(costs),
            self.accuracy(assignment),
            agreement,
        )


@dataclass(frozen=True)
class Slimmed:
    """The outcome of a search: the networks of its table, and every step that led there."""

    largest: Delivered
    uniform: Delivered
    slimmed: Delivered
    trace: tuple[Step, ...]
    points: tuple[Point, ...]
    target: Mapping[str, float]

    @property
    def table(self) -> tuple[Delivered, ...]:
        """The rows of the final table."""
        return self.largest, self.uniform, self.slimmed


def slim_to_target(
    workshop: Workshop, target: Mapping[str, float], *, evaluations: int, strategy: Strategy
) -> Slimmed:
    """Slim until the exported network meets the target when measured, and scale uniformly too.

    Where a measured latency is above the bound, the bound on predictions is lowered by the same
    factor, and slimming goes on from where it was.

    Raises:
        InfeasibleTarget: the smallest network misses a bound.
    """
    largest = tuple(size - 1 for size in workshop.space.sizes)
    reached = largest
    found: list[SlimmingResult] = []
    walk = _walk(workshop, strategy)

    def choose(bounds: Mapping[str, float]) -> Assignment:
        nonlocal reached
        left = evaluations - workshop.spent
        result = walk(
            workshop.space.sizes,
            workshop.cost,
            workshop.accuracy,
            bounds,
            evaluations=max(1, left - left // 10),  # a tenth is kept for corrections
            start=reached,
            known=found[-1].evaluated if found else None,
            canonical=workshop.space.canonical,
        )
        found.append(result)
        reached = result.trace[-1].taken.assignment if result.trace else reached
        return result.best

    slimmed = _meet(workshop, "slimmed", target, choose)
    uniform = _meet(
        workshop,
        "uniform",
        target,
        lambda bounds: scale_uniformly(workshop.space.uniform, workshop.cost, bounds),
    )
    return Slimmed(
        workshop.deliver("largest", largest),
        uniform,
        slimmed,
        tuple(step for result in found for step in result.trace),
        tuple(Point(it, workshop.cost(it), hits) for it, hits in found[-1].evaluated.items()),
        dict(target),
    )


def _walk(workshop: Workshop, strategy: Strategy) -> Callable[..., SlimmingResult]:
    """The search of a strategy, with what it needs to know of the space and the supernet."""
    if strategy == "frontier":
        return partial(slim, rng=workshop.rng, race=workshop.race)
    space = workshop.space
    positions = {name: index for index, name in enumerate(space.choices)}
    stages = {slot.name: slot.stage for slot in space.slots}
    paths = [
        PathChoice(
            choice=positions[f"{slot}.kind"],
            stage=stages[slot],
            probabilities=tuple(chances.values()),
            may_go=next(iter(chances)) == "identity",
        )
        for slot, chances in path_probabilities(workshop.supernet).items()
    ]
    widths = {
        stage: positions[name]
        for stage in range(len(space.stages))
        if (name := f"stage{stage + 1}.width") in positions
    }
    return partial(slim_by_importance, paths=paths, widths=widths, race=workshop.race)


def _meet(
    workshop: Workshop,
    name: str,
    target: Mapping[str, float],
    choose: Callable[[Mapping[str, float]], Assignment],
) -> Delivered:
    """Choose, measure, and choose again under a lower bound until the measured latency meets it."""
    bounds = dict(target)
    for _ in range(CORRECTIONS):
        delivered = workshop.deliver(name, choose(bounds))
        if delivered.measured.ms_high <= target.get("latency_ms", math.inf):
            return delivered
        ratio = delivered.measured.ms_high / delivered.costs["latency_ms"]
        workshop.bar.say(
            f"{name}: measured {delivered.measured.ms:.3f} ms, above the target; going on"
        )
        bounds["latency_ms"] = min(target["latency_ms"] / ratio, bounds["latency_ms"] * 0.995)
    raise UserError(
        f"{name}: {target['latency_ms']:g} ms not met when measured, after {CORRECTIONS} "
        f"corrections; the machine is too busy, or the table out of date: "
        f"nas check-lut {workshop.table.path}"
    )


def slim_run(
    run: Run,
    table: LatencyTable,
    target: Mapping[str, float],
    *,
    evaluations: int,
    out: Path,
    seed: int,
    force: bool,
    bar: Bar,
    strategy: Strategy = "frontier",
    accept_table: bool = False,
) -> dict[str, Any]:
    """Slim a trained run to the target, write all results into ``out``, and sum them up.

    ``accept_table``: use a table that failed its validation, and say so.

    Raises:
        UserError: the table is for another machine or space or failed its validation, ``out``
            holds results already, the strategy needs path choice and the run has none, or the
            target is out of reach; each is found before any image is read.
    """
    space = run.space
    if strategy == "importance":
        run.require_path_choice()
    table.require_target(detect_again(table.target))
    table.require_layers(space, str(run.space_path))
    if not accept_table:
        table.require_trust()
    least = table.cost(space.smallest())
    if not meets(least, target):
        raise InfeasibleTarget(target, least)
    if (out / RESULT).exists() and not force:
        raise UserError(f"{out}: holds the results of a search; --force replaces them, or --out")
    write_atomically(out / ".writable", "")
    (out / ".writable").unlink()
    doubts = [doubt for kind in judge(table.validation) for doubt in kind]
    if doubts:
        bar.say(f"{table.path} is used although {'; '.join(doubts)}")
    dataset = run.data.load(run.image_size)
    run.require_images(dataset)
    workshop = Workshop(
        space,
        run.load_supernet(),
        dataset,
        table,
        np.random.default_rng(seed),
        bar=bar,
        evaluations=evaluations,
    )
    outcome = slim_to_target(workshop, target, evaluations=evaluations, strategy=strategy)
    judged = [
        replace(
            row,
            test_accuracy=accuracy(row.delivered, dataset.test.at(row.architecture.input_size)),
        )
        for row in outcome.table
    ]
    result = {
        "space": space.name,
        "data": run.data.spec,
        "target": dict(target),
        "strategy": strategy,
        "seed": seed,
        "evaluations": len(outcome.points),
        "networks": [row.summary() for row in judged],
    }
    paths = write_results(out, outcome, space, result)
    return {**result, "paths": paths}


def take_examples(dataset: Dataset) -> Examples:
    """Training images to calibrate an int8 network, and images of the search slice to judge it."""
    draws = [
        next(iter(images.batches(min(count, len(images)), rng=np.random.default_rng(0))))[0]
        for images, count in ((dataset.train, INT8_IMAGES), (dataset.search, JUDGED_IMAGES))
    ]
    return Examples(*draws)


def write_results(
    folder: Path, outcome: Slimmed, space: SearchSpace, result: Mapping[str, Any]
) -> dict[str, str]:
    """Write architecture, weights, ONNX, trace, frontier and picture; returns their paths."""
    best = outcome.slimmed
    paths = {
        "architecture": folder / "architecture.json",
        "weights": folder / "weights.safetensors",
        "onnx": folder / "model.onnx",
        "trace": folder / "trace.jsonl",
        "frontier": folder / "frontier.csv",
        "picture": folder / "frontier.png",
        "result": folder / RESULT,
    }
    best.architecture.save(paths["architecture"])
    save_weights(best.network, paths["weights"])
    write_atomically(paths["onnx"], best.model.SerializeToString())
    write_trace(paths["trace"], outcome.trace, space.choices)
    write_frontier(paths["frontier"], outcome.points)
    draw_frontier(
        paths["picture"],
        outcome.points,
        walk=[step.taken.assignment for step in outcome.trace],
        named={row.name: (row.costs["latency_ms"], row.search_accuracy) for row in outcome.table},
        target_ms=outcome.target.get("latency_ms"),
        title=f"{space.name}: accuracy on the search slice",
    )
    write_json(paths["result"], dict(result))
    return {name: str(path) for name, path in paths.items()}
