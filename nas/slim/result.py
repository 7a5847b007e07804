"""The result of a search as a value: ``report.json``, from which tables and pictures are made.

Accuracies are shares in [0, 1], of the search slice where nothing else is said; latencies are ms.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

import numpy as np
import pandas as pd
from pydantic import BeforeValidator, Field, PlainSerializer, model_validator
from pydantic_core import PydanticCustomError

from nas.deploy.description import DELIVERED
from nas.documents import Value, read_document, write_atomically, write_json
from nas.latency.estimator import STATES, State
from nas.search.problem import Costs, meets
from nas.slim.consistency import complaints
from nas.slim.plan import Term, target_text, weighted_score
from nas.space import Assignment
from nas.statistics import mcnemar
from nas.training.settings import Count, NonNegative, Share

FILES = {
    "trace": "trace.jsonl",
    "frontier": "frontier.csv",
    "picture": "frontier.png",
    "page": "report.html",
    "report": "report.json",
    "result": "result.json",
}
"""The files of a search by their contents; ``nas.report`` adds picture and page."""
NETWORK_FILES = {
    "architecture": "architecture.json",
    "weights": "weights.safetensors",
    "onnx": "model.onnx",
}
LEVEL = 0.05
"""A difference that chance makes less often than this has a winner."""
COUNTS = ("params", "macs")
"""The costs that are whole numbers; all others are latencies."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Price = Annotated[float, Field(gt=0)]
Prices = dict[str, Annotated[Price, Field(allow_inf_nan=False)]]
"""What a network costs by the names of costs."""
Bounds = Annotated[Prices, Field(min_length=1)]


def _read_option(option: float | str) -> int | float | str:
    """The number that a text stands for, if it stands for one."""
    for number in (int, float):
        with suppress(ValueError):
            return number(option) if isinstance(option, str) else option
    return option


Option = Annotated[
    int | float | str, BeforeValidator(_read_option), PlainSerializer(str, when_used="json")
]
"""An option of a choice; in JSON always text, ``"24"``."""


class EvaluatedNetwork(Value):
    """A network that a method evaluated; ``order`` counts the method's evaluations from 0."""

    order: Annotated[int, Field(ge=0)]
    assignment: tuple[int, ...]
    costs: Prices
    accuracy: Share


class MethodResult(Value):
    """All that a method evaluated; only ratios of ``hypervolume`` between methods have meaning."""

    name: str
    evaluated: tuple[EvaluatedNetwork, ...]
    hypervolume: NonNegative


class WalkAction(Value):
    """``choice`` lowered to ``option``; ``accuracy`` is None where it was not evaluated."""

    choice: str
    option: Option
    costs: Prices
    score: Finite
    accuracy: Share | None


class WalkStep(Value):
    """A step of the walk: its start, the considered actions, and the index of the one it took."""

    costs: Prices
    score: Finite
    accuracy: Share | None
    actions: tuple[WalkAction, ...]
    taken: int


class LayerShare(Value):
    """One layer of a network: its slot, its signature, and its part of the network's costs."""

    slot: str
    layer: str
    costs: dict[str, Finite]


class TimedLatency(Value):
    """A measured latency with its 95 % interval, in ms of the unit of the table ``cost``."""

    cost: str
    state: State = "warm"  # files of version 0.1 lack it
    measured: Price
    low: NonNegative
    high: Price


class MeasuredLatency(TimedLatency):
    """A measured latency, and what the table predicts."""

    predicted: Price


class WithLatencies(Value):
    """A network that was measured; ``costs`` and ``state`` are those of targets."""

    name: str
    costs: Prices
    latencies: tuple[TimedLatency, ...]
    state: State = "warm"

    def measured(self, cost: str, state: State | None = None) -> TimedLatency | None:
        """A measured latency, by default in the target's state."""
        wanted = state or self.state
        found = (it for it in self.latencies if (it.cost, it.state) == (cost, wanted))
        return next(found, None)

    def meets(self, target: Costs) -> bool:
        """Whether the network meets a target, by measurements where there are any."""
        return meets({**self.costs, **self._measurements}, target)

    def predicted(self, cost: str) -> float | None:  # noqa: ARG002
        """The predicted latency in that state; None of networks that no table is for."""
        return None

    @property
    def _measurements(self) -> dict[str, float]:
        return {it.cost: it.measured for it in self.latencies if it.state == self.state}


class RivalNetwork(WithLatencies):
    """A finished network beside those of the search; its latencies in ``costs`` are measured."""

    target: None = None
    score: Finite | None
    search_accuracy: None = None
    test_accuracy: Share | None = None
    of_target: None = None
    fits: Literal[True] = True
    remark: None = None

    def summary(self) -> dict[str, Any]:
        """The network in ``result.json``."""
        return {
            "name": self.name,
            "test_accuracy": self.test_accuracy,
            **{name: int(self.costs[name]) for name in COUNTS},
            "latencies": {
                cost: {
                    state: {"measured": it.measured}
                    for state in STATES
                    if (it := self.measured(cost, state))
                }
                for cost in self.costs
                if cost not in COUNTS
            },
        }


class FinalNetwork(WithLatencies):
    """A network of the final table; ``target`` is None for the largest.

    ``costs`` are predicted, in the ``state`` that the target's latencies are in. ``latencies`` are
    in both states. ``int8_agreement`` is the share of images to which int8 and float32 give the
    same class. ``remark`` says why the network is not near its target, if it is not.
    """

    target: Bounds | None
    assignment: tuple[int, ...]
    score: Finite
    latencies: tuple[MeasuredLatency, ...]
    search_accuracy: Share
    test_accuracy: Share | None
    layers: tuple[LayerShare, ...]
    int8_agreement: Share | None = None
    remark: str | None = None

    def predicted(self, cost: str) -> float:
        return self.costs[cost]

    @property
    def fits(self) -> bool:
        """Whether the network meets its target, by measurements where there are any."""
        return self.meets(self.target or {})

    @property
    def of_target(self) -> float | None:
        """The measured latency as a share of its bound, the largest if several are bounded."""
        target = self.target or {}
        shares = [ms / target[cost] for cost, ms in self._measurements.items() if cost in target]
        return max(shares, default=None)

    def summary(self) -> dict[str, Any]:
        """The network in ``result.json``; ``predicted_ms``, ``measured_ms`` of the first table."""
        first = next(it for it in self.latencies if it.state == self.state)
        return {
            "name": self.name,
            "target": self.target,
            "test_accuracy": self.test_accuracy,
            "search_accuracy": self.search_accuracy,
            "int8_agreement": self.int8_agreement,
            **{name: int(self.costs[name]) for name in COUNTS},
            "state": self.state,
            "predicted_ms": first.predicted,
            "measured_ms": first.measured,
            "measured_ms_low": first.low,
            "measured_ms_high": first.high,
            "of_target": self.of_target,
            "mes": self.score,
            "latencies": {
                cost: self._latency_summary(cost) for cost in self.costs if cost not in COUNTS
            },
            "remark": self.remark,
        }

    def _latency_summary(self, cost: str) -> dict[str, Any]:
        """Both states of a measured latency; of one that is only predicted the target's."""
        found: dict[str, Any] = {}
        for state in STATES:
            for it in self.latencies:
                if (it.cost, it.state) == (cost, state):
                    found[state] = {"predicted": it.predicted, "measured": it.measured}
        return found or {self.state: {"predicted": self.costs[cost], "measured": None}}


class Comparison(Value):
    """The wanted method and the best other, the better one first, on the same test images.

    ``p`` is of McNemar's exact test; ``winner`` is None where chance may have decided.
    """

    target: Bounds
    winner: str | None
    compared: tuple[str, str]
    accuracies: tuple[Share, Share]
    p: Share
    images: Count

    @classmethod
    def of(cls, target: Costs, hits: Mapping[str, np.ndarray], wanted: str) -> Comparison:
        """Judge methods by their ``hits`` on the same test images: (N,), bool, right or wrong."""
        best, other, *_ = sorted(hits, key=lambda method: -int(hits[method].sum()))
        if best != wanted and wanted in hits:
            other = wanted
        p = mcnemar(hits[best], hits[other])
        return cls(
            target=dict(target),
            winner=best if p < LEVEL else None,
            compared=(best, other),
            accuracies=(float(hits[best].mean()), float(hits[other].mean())),
            p=p,
            images=len(hits[best]),
        )

    def __str__(self) -> str:
        (first, second), shares = self.compared, [f"{100 * it:.1f} %" for it in self.accuracies]
        found = f"{self.winner} won:" if self.winner else f"no method won: {first}"
        return (
            f"{target_text(self.target)}: {found} {shares[0]}, {second} {shares[1]} "
            f"on {self.images:,} test images, p = {self.p:.2g}"
        )


class Point(NamedTuple):
    """A network that the ``methods`` evaluated, each network once."""

    assignment: Assignment
    costs: Costs
    accuracy: Share
    methods: tuple[str, ...]


Network = TypeVar("Network", Point, EvaluatedNetwork)


class SearchResult(Value):
    """All of a search, which was for the method ``wanted``.

    ``choices`` and ``options`` explain assignments; ``walk`` has that after each step of ``trace``.
    ``rivals`` are finished networks that were measured and judged beside the search's; ``run`` is
    the supernet's folder. ``evidence`` is what verdicts of this kind are worth. Files of version
    0.1 lack ``comparisons`` (``verdicts`` in numbers), ``walk``, ``terms``, ``run``, ``evidence``.
    """

    space: str
    data: str
    strategy: str
    seed: int
    targets: Annotated[tuple[Bounds, ...], Field(min_length=1)]
    wanted: str = "slimmed"
    choices: tuple[str, ...]
    options: tuple[tuple[Option, ...], ...]
    methods: tuple[MethodResult, ...]
    trace: tuple[WalkStep, ...]
    networks: Annotated[tuple[FinalNetwork, ...], Field(min_length=1)]
    verdicts: tuple[str, ...] = ()
    evidence: str = ""
    terms: dict[str, Term] = {}
    comparisons: tuple[Comparison, ...] = ()
    walk: tuple[tuple[int, ...], ...] = ()
    rivals: tuple[RivalNetwork, ...] = ()
    run: str = ""

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        for location, message in complaints(self, COUNTS):
            context = {"location": location, "message": message}
            raise PydanticCustomError("misfit", "{message}", context)
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read ``report.json``; UserError if it cannot be read or holds something else."""
        return read_document(path).validated(cls)

    @property
    def measure(self) -> str:
        """The first bounded cost, against which the frontier is drawn."""
        return next(iter(self.targets[0]))

    @property
    def state(self) -> State:
        """The state that latencies of targets are in."""
        return self.networks[0].state

    @property
    def delivered(self) -> tuple[FinalNetwork, ...]:
        """The networks of the method ``wanted``, one for each target."""
        return tuple(network for network in self.networks if network.name == self.wanted)

    def points(self) -> list[Point]:
        """Every evaluated network once, with the methods that evaluated it."""
        found: dict[Assignment, Point] = {}
        for method in self.methods:
            for one in method.evaluated:
                before = found[one.assignment].methods if one.assignment in found else ()
                methods = *before, method.name
                found[one.assignment] = Point(one.assignment, one.costs, one.accuracy, methods)
        return list(found.values())

    def summary(self) -> dict[str, Any]:
        """The content of ``result.json``."""
        names = ("space", "data", "targets", "terms", "strategy", "seed")
        fields = self.model_dump(mode="json", include=set(names))
        return {
            **{name: fields[name] for name in names},
            "state": self.state,
            "evaluations": len(self.points()),
            "methods": [
                {"name": it.name, "evaluations": len(it.evaluated), "hypervolume": it.hypervolume}
                for it in self.methods
            ],
            "networks": [network.summary() for network in self.networks],
            "rivals": [rival.summary() for rival in self.rivals],
            "verdicts": list(self.verdicts),
            "evidence": self.evidence,
        }

    def save(self, folder: Path) -> None:
        """Write trace, frontier, ``report.json``, and ``result.json``, which marks the end."""
        _write_trace(folder / FILES["trace"], self.trace)
        _write_frontier(folder / FILES["frontier"], self)
        write_json(folder / FILES["report"], self.model_dump(mode="json"))
        write_json(folder / FILES["result"], self.summary())

    def folder_of(self, target: Costs, folder: Path) -> Path:
        """Where the network of one of the targets lies: a single one in the search's own folder."""
        name = "_".join(f"{bound:g}" for bound in target.values())
        return folder if len(self.targets) == 1 else folder / name

    def delivered_to(self, network: FinalNetwork, folder: Path) -> Path:
        """Where the network of a method lies, with all that its user needs."""
        place = self.folder_of(network.target, folder) if network.target else folder
        return place / DELIVERED / network.name

    def paths(self, folder: Path) -> dict[str, Path]:
        """The files of the search in ``folder``, by their contents."""
        (first, *others) = (self.folder_of(target, folder) for target in self.targets)
        networks = {name: first / file for name, file in NETWORK_FILES.items()}
        if others:
            networks = {f"network {place.name}": place for place in (first, *others)}
        delivered = {"delivered": self.delivered_to(self.delivered[0], folder)}
        files = {name: folder / file for name, file in FILES.items()}
        return {**(networks if others else {**delivered, **networks}), **files}


def frontier(networks: Iterable[Network], cost: str) -> list[Network]:
    """The networks that no other beats in both accuracy and ``cost``, cheapest first."""
    best: list[Network] = []
    for one in sorted(networks, key=lambda it: (it.costs[cost], -it.accuracy)):
        if not best or one.accuracy > best[-1].accuracy:
            best.append(one)
    return best


def _write_trace(path: Path, trace: Sequence[WalkStep]) -> None:
    """Write each considered action as a line of JSON; the step started from ``..._before``."""
    records = [
        {
            "step": number,
            "choice": action.choice,
            "option": action.option,
            "accuracy": action.accuracy,
            "accuracy_before": step.accuracy,
            **_with_counts(action.costs),
            "mes": action.score,
            "mes_before": step.score,
            "taken": index == step.taken,
        }
        for number, step in enumerate(trace, 1)
        for index, action in enumerate(step.actions)
    ]
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in records))


def _write_frontier(path: Path, result: SearchResult) -> None:
    """Write every evaluated network as CSV, cheapest first, with a mark on the frontier's."""
    points = sorted(result.points(), key=lambda it: it.costs[result.measure])
    chosen = {point.assignment for point in frontier(points, result.measure)}
    rows = [
        {
            **_with_counts(point.costs),
            "mes": weighted_score(result.terms, point.costs),
            "accuracy": point.accuracy,
            "on_frontier": point.assignment in chosen,
            "methods": " ".join(point.methods),
            "assignment": " ".join(map(str, point.assignment)),
        }
        for point in points
    ]
    write_atomically(path, pd.DataFrame(rows).to_csv(index=False))


def _with_counts(costs: Mapping[str, float]) -> dict[str, float]:
    return {name: int(cost) if name in COUNTS else cost for name, cost in costs.items()}
