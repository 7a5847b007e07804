"""Does the search help once its networks are retrained, at the same measured latency?

    .venv/bin/python benchmarks/helps.py --settings cifar10_mobile --supernet-seeds 0    # one part
    .venv/bin/python benchmarks/helps.py             # all eight parts: many hours
    .venv/bin/python benchmarks/helps.py --smoke     # a minute of CPU time, and no evidence
    .venv/bin/python benchmarks/helps.py --settings shapes_mobile --changes nothing evaluations

A setting is a data set and a space. From one supernet of each seed slimming, uniform scaling,
random search and evolution, each with as many evaluations, find networks for three targets. All
networks of a supernet are then measured in one session with the references. Each network is trained
from what it inherits, and from scratch, from several seeds. A method's accuracies lie on a frontier
of its own, over the logarithm of measured latency; slimming is compared with the others' frontiers
at its networks' own latencies. Differences are means over targets, and their 95 % intervals come
from resampling supernets, and within each the seeds of every network. What is finished in --out is
used again, and two processes may work on different parts (--settings, --supernet-seeds) at once.
With --changes slimming is compared with uniform scaling alone, each after the same changes to the
search or the training. Latencies need an idle machine.
"""

from __future__ import annotations

import os

from nas.machine import OPENMP

os.environ.update(OPENMP | os.environ)  # as the command line does

import argparse
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from kills import SPACE as TINY
from matplotlib.figure import Figure
from prepared import run_at, table_at
from pydantic import TypeAdapter

from nas import pipeline
from nas.architecture import Architecture
from nas.data import Dataset
from nas.data.generated import CLASSES
from nas.documents import Value, write_atomically
from nas.latency.graphs import LayerGraphs
from nas.latency.measure import Patience, Session
from nas.latency.survey import network_name
from nas.report.terminal import ProgressBar, print_table
from nas.slim.plan import Plan
from nas.slim.result import FILES, FinalNetwork, SearchResult
from nas.space import SearchSpace
from nas.store.journal import Journal
from nas.training.alone import train_alone
from nas.training.evaluation import accuracy, inherited_network
from nas.training.run import Run
from nas.training.settings import (
    DataSettings,
    Recipe,
    Share,
    SupernetSettings,
    like_the_supernet,
)

CIFAR10 = Path("../shared/data")
WAYS = ("inherited", "retrained", "scratch")
"""Accuracy before any further training, after it, and after as many epochs from random weights."""
SHORT = "shortlisted"
"""After a short training, on the images of the search."""
OURS = "slimmed"
RESAMPLES = 1000
CELLS, LATENCIES = "cells.jsonl", "latencies.json"
TIMING = Patience(least=40, most=200, tolerance=0.005, seconds=120.0)
COLOURS = {"slimmed": "#2f6fde", "uniform": "#e76f51", "random": "#9aa5b1", "evolution": "#2a9d6f"}


class Effort(NamedTuple):
    """How much is done: epochs of supernets and of networks, evaluations, targets, seeds.

    Of a ``shortlist`` of slimming's networks the best after a short training is the one.
    """

    supernet_epochs: int = 12
    epochs: int = 8
    evaluations: int = 60
    shares: tuple[float, ...] = (0.7, 0.5, 0.35)  # of the largest network's latency
    seeds: int = 3
    batch_size: int = 50
    distillation: float = 1.0
    shortlist: int = 1
    is_quick: bool = False


SMOKE = Effort(1, 1, 10, (0.95, 0.85), 2, is_quick=True)
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "nothing": {},
    "evaluations": {"evaluations": 240},
    "shortlist": {"shortlist": 3},
    "labels": {"distillation": 0.0},
}
"""Of the effort: more evaluations, a choice among several networks, a supernet without teacher."""
SHORT_EPOCHS, NEAR = 2, 0.93
"""Of the training of a shortlist, and the least part of the target that its networks take."""


class Setting(NamedTuple):
    """A data set and a space."""

    data: DataSettings
    space: Callable[[], SearchSpace]


SETTINGS: Mapping[str, Setting] = {
    "cifar10_mobile": Setting(
        DataSettings(spec=f"parquet:{CIFAR10}", limit=10_000),
        lambda: SearchSpace.load("cifar10_32px"),
    ),
    "cifar10_mobilenet": Setting(
        DataSettings(spec=f"parquet:{CIFAR10}", limit=10_000),
        lambda: SearchSpace.load("mobilenet_64px").with_input_size(32),
    ),
    "shapes_mobile": Setting(
        DataSettings(spec="shapes"),
        lambda: SearchSpace.load("mobile_64px").with_classes(len(CLASSES)),
    ),
    "shapes_mobilenet": Setting(
        DataSettings(spec="shapes"),
        lambda: SearchSpace.load("mobilenet_64px").with_classes(len(CLASSES)),
    ),
}
SMOKE_SETTINGS = {
    "digits": Setting(DataSettings(), lambda: SearchSpace.model_validate(yaml.safe_load(TINY)))
}


class Cell(NamedTuple):
    """The accuracy of a method's network for a target, a share, trained from one seed."""

    part: str
    method: str
    target: float
    ms: float
    way: str
    seed: int
    accuracy: float


def main() -> None:
    """Train what is missing, and print what slimming is ahead by."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--supernet-seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--seeds", type=int, default=Effort().seeds, help="of each network")
    parser.add_argument(
        "--changes",
        nargs="+",
        choices=CHANGES,
        default=[""],
        metavar="CHANGE",
        help=f"of {', '.join(CHANGES)}",
    )
    parser.add_argument("--smoke", action="store_true", help="digits, one epoch each")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_helps"))
    parser.add_argument("--picture", type=Path, help="where to draw the frontiers")
    given = parser.parse_args()
    torch.set_num_threads(1)
    effort = SMOKE if given.smoke else Effort(seeds=given.seeds)
    settings = SMOKE_SETTINGS if given.smoke else {it: SETTINGS[it] for it in given.settings}
    cells: dict[str, list[Cell]] = {}
    for name, setting in settings.items():
        if "parquet:" in setting.data.spec and not CIFAR10.exists():
            print(f"{name}: skipped: {CIFAR10} is not here")
            continue
        for change, seed in itertools.product(given.changes, given.supernet_seeds):
            part = Part(given.out / name, setting, seed, effort, change)
            title = f"{name}, {change}" if change else name
            cells.setdefault(title, []).extend(part.cells(given.ways))
    rows = [row for name, found in cells.items() for row in compared(name, found)]
    print_table(
        ("setting", "way", "against", "supernets", "slimmed ahead by", "95 % interval", "targets"),
        rows,
        title="points of test accuracy at the same measured latency",
    )
    if given.picture and cells:
        draw(given.picture, cells)


class Part:
    """One supernet of a setting: what is found from it, and how that turns out.

    What a change leaves as it is, the supernet and its trained networks, is that of no change.
    """

    def __init__(
        self, folder: Path, setting: Setting, seed: int, effort: Effort, change: str = ""
    ) -> None:
        self.change, self.seed = change, seed
        self.base, self.effort = effort, effort._replace(**CHANGES.get(change, {}))
        self.folder = folder / change / f"supernet{seed}"
        is_own = self.effort.distillation != effort.distillation
        self.trained = self.folder if is_own else folder / f"supernet{seed}"
        self.name = ", ".join(filter(None, (folder.name, change, f"supernet {seed}")))
        self.space = setting.space()
        self.table = table_at(folder / "table.csv", self.space, quick=effort.is_quick)
        settings = SupernetSettings(
            epochs=effort.supernet_epochs,
            batch_size=effort.batch_size,
            distillation=self.effort.distillation,
            seed=seed,
        )
        self.run, self.dataset = run_at(self.trained / "run", self.space, setting.data, settings)

    def found(self) -> SearchResult:
        """The networks of all methods for all targets."""
        out = self.folder / "slim"
        if (out / FILES["result"]).exists():
            return SearchResult.load(out / FILES["report"])
        largest = self.table.predict(self.run.space.largest())
        plan = Plan(
            targets=tuple({"latency_ms": share * largest} for share in self.effort.shares),
            evaluations=self.effort.evaluations,
            baselines=not self.change,
            seed=self.seed,
        )
        with ProgressBar("slimming") as bar:
            return pipeline.slim(
                self.run, self.table, plan, out, accept_tables=True, force=True, progress=bar
            )

    def cells(self, ways: Sequence[str]) -> Iterator[Cell]:
        """Every network's accuracies; networks that several methods found are trained once."""
        found = self.found()
        with trials_at(self.trained / CELLS, self.base) as trials:
            # one without a target is the largest, which no method found
            networks = [self._listed(it, found, trials) for it in found.networks if it.target]
            latencies = self.latencies([self.run.space.decode(it.assignment) for it in networks])
            for network in networks:
                yield from self._cells_of(network, latencies, ways, trials)

    def _listed(
        self, network: FinalNetwork, found: SearchResult, trials: Journal[Trained]
    ) -> FinalNetwork:
        """A network, or in its place the one of slimming's shortlist that learns best.

        That has the networks of the highest search accuracy near the target, and this network.
        """
        assert network.target is not None
        if network.name != OURS or self.effort.shortlist < 2:
            return network
        ms = network.target["latency_ms"]
        (method,) = (it for it in found.methods if it.name == OURS)
        near = [it for it in method.evaluated if NEAR * ms <= it.costs["latency_ms"] <= ms]
        near.sort(key=lambda it: -it.accuracy)
        effort = self.effort._replace(epochs=SHORT_EPOCHS)
        training = Training(self.run, self.dataset, SHORT, 0, effort)
        listed = dict.fromkeys([network.assignment, *(it.assignment for it in near)])

        def accuracy_of(assignment: tuple[int, ...]) -> float:
            architecture = self.run.space.decode(assignment)
            judge = partial(training.judge, architecture)
            return accuracy_in(trials, hash_of(architecture), SHORT, 0, judge)

        best = max(list(listed)[: self.effort.shortlist], key=accuracy_of)
        return network.model_copy(update={"assignment": best})

    def latencies(self, networks: Sequence[Architecture]) -> Mapping[str, float]:
        """The warm ms of networks by their names, all measured in one session, and kept."""
        path = self.folder / LATENCIES
        if path.exists():
            return TypeAdapter(dict[str, float]).validate_json(path.read_text())
        named, graphs = {network_name(it): it for it in networks}, LayerGraphs()
        models = {name: partial(graphs.network, it) for name, it in named.items()}
        sums = {name: self.table.sums(it) for name, it in named.items()}
        rng = np.random.default_rng(self.seed)
        session = Session(self.table.target, models, rng, self.table.unit, TIMING, sums=sums)
        found = {name: it.warm.ms for name, it in session.measure().latencies.items()}
        write_atomically(path, json.dumps(found, indent=2))
        return found

    def _cells_of(
        self,
        network: FinalNetwork,
        latencies: Mapping[str, float],
        ways: Sequence[str],
        trials: Journal[Trained],
    ) -> Iterator[Cell]:
        assert network.target is not None
        architecture = self.run.space.decode(network.assignment)
        target, ms = network.target["latency_ms"], latencies[network_name(architecture)]
        key = hash_of(architecture)
        for way in ways:
            for seed in range(1 if way == "inherited" else self.effort.seeds):
                training = Training(self.run, self.dataset, way, seed, self.effort)
                train = partial(training.judge, architecture)
                share = accuracy_in(trials, key, way, seed, train)
                yield Cell(self.name, network.name, target, ms, way, seed, share)


class Training(NamedTuple):
    """How a network is trained before it is judged on the test images."""

    run: Run
    dataset: Dataset
    way: str
    seed: int
    effort: Effort

    def judge(self, architecture: Architecture) -> float:
        """The accuracy of a network, trained as wanted."""
        unseen = self.dataset.search if self.way == SHORT else self.dataset.test
        images = unseen.at(architecture.input_size)
        if self.way == "scratch":
            return accuracy(train_alone(architecture, self.dataset, self.recipe()), images)
        supernet = self.run.load_supernet()
        network = inherited_network(supernet, architecture, self.dataset.train)
        if self.way in ("retrained", SHORT):
            network = train_alone(architecture, self.dataset, self.recipe(), network=network)
        return accuracy(network, images)

    def recipe(self) -> Recipe:
        """That of the supernet, by labels alone; from inherited weights at half of the rate."""
        settings = SupernetSettings(
            epochs=self.effort.epochs, batch_size=2 * self.effort.batch_size
        )
        rate = settings.learning_rate / (1 if self.way == "scratch" else 2)
        update = {"learning_rate": rate, "seed": self.seed, "smoothing": 0.1}
        return like_the_supernet(settings).model_copy(update=update)


def hash_of(architecture: Architecture) -> str:
    """By which a network is known."""
    return hashlib.sha256(architecture.to_json().encode()).hexdigest()[:16]


class Work(Value):
    """The first line of a journal: by what its accuracies were reached."""

    supernet_epochs: int
    epochs: int
    evaluations: int
    shares: tuple[float, ...]
    batch_size: int


class Trained(Value):
    """The accuracy of a network, by the hash of its architecture."""

    network: str
    way: str
    seed: int
    accuracy: Share


def trials_at(path: Path, effort: Effort) -> Journal[Trained]:
    """The accuracies that are known; UserError if they were reached with another effort."""
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Work(**{name: it for name, it in effort._asdict().items() if name in Work.model_fields})
    adapter, remedy = TypeAdapter(Trained), "name another --out"
    return Journal(path, adapter, noun="a part", remedy=remedy, header=work)


def accuracy_in(
    trials: Journal[Trained], network: str, way: str, seed: int, make: Callable[[], float]
) -> float:
    """That of a network, made where it is not known: a kill loses the one under way."""
    for line in trials.lines:
        if (line.network, line.way, line.seed) == (network, way, seed):
            return line.accuracy
    found = Trained(network=network, way=way, seed=seed, accuracy=make())
    trials.append(found)
    print(f"{network}, {way}, seed {seed}: {100 * found.accuracy:.2f} %", flush=True)
    return found.accuracy


def compared(setting: str, cells: Sequence[Cell]) -> Iterator[tuple[str, ...]]:
    """Slimming's lead over each method in each way, with intervals."""
    ways = dict.fromkeys(it.way for it in cells)
    others = dict.fromkeys(it.method for it in cells if it.method != OURS)
    for way, other in itertools.product(ways, others):
        parts = [
            Pair.of([it for it in cells if (it.part, it.way) == (part, way)], other)
            for part in dict.fromkeys(it.part for it in cells)
        ]
        lead = float(np.mean([np.mean(it.leads()) for it in parts]))
        rng = np.random.default_rng(0)
        drawn = [resampled(parts, rng) for _ in range(RESAMPLES)]
        low, high = np.quantile(drawn, [0.025, 0.975])
        by_target = np.mean([it.leads() for it in parts], axis=0)
        yield (
            setting, way, other, str(len(parts)), f"{100 * lead:+.2f}",
            f"{100 * low:+.2f} to {100 * high:+.2f}",
            ", ".join(f"{100 * it:+.1f}" for it in by_target),
        )  # fmt: skip


class Pair(NamedTuple):
    """Accuracies (targets, seeds) and log latencies (targets,) of slimming and another method."""

    ours: np.ndarray
    theirs: np.ndarray
    our_logs: np.ndarray
    their_logs: np.ndarray

    @classmethod
    def of(cls, cells: Sequence[Cell], other: str) -> Pair:
        def of_method(method: str) -> tuple[np.ndarray, np.ndarray]:
            own = [it for it in cells if it.method == method]
            targets = sorted({it.target for it in own})
            shares = np.array([[it.accuracy for it in own if it.target == at] for at in targets])
            return shares, np.log([next(it.ms for it in own if it.target == at) for at in targets])

        (ours, our_logs), (theirs, their_logs) = of_method(OURS), of_method(other)
        return cls(ours, theirs, our_logs, their_logs)

    def leads(self, rng: np.random.Generator | None = None) -> np.ndarray:
        """By target, what slimming is ahead by, at its own latencies; of resampled seeds."""
        ours, theirs = (_mean(it, rng) for it in (self.ours, self.theirs))
        return ours - at_latencies(self.our_logs, self.their_logs, theirs)


def _mean(shares: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
    """The mean over seeds (targets,), or that of as many drawn with replacement."""
    if rng is None:
        return np.asarray(shares.mean(axis=1))
    drawn = rng.integers(0, shares.shape[1], shares.shape)
    return np.asarray(np.take_along_axis(shares, drawn, axis=1).mean(axis=1))


def at_latencies(wanted: np.ndarray, logs: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """A frontier's accuracies at other log latencies: lines between its points, and beyond them."""
    order = np.argsort(logs)
    logs, shares = logs[order], shares[order]
    keep = np.concatenate([[True], np.diff(logs) > 1e-9])
    logs, shares = logs[keep], shares[keep]
    if len(logs) == 1:
        return np.full(len(wanted), shares[0])  # one network for all targets
    place = np.clip(np.searchsorted(logs, wanted), 1, len(logs) - 1)
    slope = (shares[place] - shares[place - 1]) / (logs[place] - logs[place - 1])
    return np.asarray(shares[place - 1] + slope * (wanted - logs[place - 1]))


def resampled(parts: Sequence[Pair], rng: np.random.Generator) -> float:
    """The mean lead of as many supernets, drawn with replacement, as are their networks' seeds."""
    drawn = rng.integers(0, len(parts), len(parts))
    return float(np.mean([parts[place].leads(rng).mean() for place in drawn]))


def draw(path: Path, cells: Mapping[str, Sequence[Cell]]) -> None:
    """Each method's accuracies over measured latency, by setting and way."""
    ways = [way for way in WAYS if any(it.way == way for of in cells.values() for it in of)]
    figure = Figure(figsize=(3.4 * len(ways), 2.9 * len(cells)), layout="constrained")
    axes = figure.subplots(len(cells), len(ways), squeeze=False, sharex="row")
    for row, (setting, found) in zip(axes, cells.items(), strict=True):
        for axis, way in zip(row, ways, strict=True):
            for method, colour in COLOURS.items():
                own = [it for it in found if (it.method, it.way) == (method, way)]
                for number, part in enumerate(dict.fromkeys(it.part for it in own)):
                    of = [it for it in own if it.part == part]
                    targets = sorted({it.target for it in of})
                    ms = [next(it.ms for it in of if it.target == at) for at in targets]
                    shares = [
                        100 * np.mean([it.accuracy for it in of if it.target == at])
                        for at in targets
                    ]
                    axis.plot(
                        ms, shares, "o-", color=colour, alpha=0.8, markersize=4,
                        label=method if number == 0 else None,
                    )  # fmt: skip
            axis.set_title(f"{setting}: {way}", fontsize=9)
            axis.set_xlabel("measured ms", fontsize=8)
            axis.tick_params(labelsize=8)
        row[0].set_ylabel("test accuracy, %", fontsize=8)
    axes[0][0].legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
