"""The result of a search on a small space, with made-up prices and accuracies, and no training."""

import json

import numpy as np
import pytest

from nas.architecture import Architecture
from nas.families.efficientformer_v2.layers import Attention4D, ConvFFN
from nas.latency.estimator import Latency, Measurement
from nas.latency.profile import LayerTime, Profile
from nas.search import (
    Problem,
    evolve,
    hypervolume,
    mobile_efficiency_score,
    scale_uniformly,
    search_randomly,
    slim_greedily,
)
from nas.slim.evidence import evidence
from nas.slim.plan import published_terms
from nas.slim.result import (
    Comparison,
    EvaluatedNetwork,
    FinalNetwork,
    LayerShare,
    MeasuredLatency,
    MethodResult,
    SearchResult,
    WalkAction,
    WalkStep,
)
from nas.space import SearchSpace
from nas.training.check import Compared, judge_ranks
from nas.training.settings import RECIPES

MS_PER_MAC = 1 / 40e6
COLD = 1.7
"""What a network takes cold, as a multiple of what it takes warm."""


class Bench:
    """A space whose layers cost by their channels and pixels, and some choices matter more."""

    def __init__(self, space):
        self.space = space
        self.weights = np.random.default_rng(1).gamma(0.6, size=len(space.sizes))

    def layers(self, assignment):
        for layer, (channels, height, width) in self.space.decode(assignment).placed():
            params = float(channels**2 * getattr(layer, "expansion", 2) + 64)
            macs = params * height * width
            costs = {"latency_ms": 0.004 + macs * MS_PER_MAC, "params": params, "macs": macs}
            yield layer, costs

    def cost(self, assignment):
        found = [costs for _, costs in self.layers(assignment)]
        return {name: sum(it[name] for it in found) for name in found[0]}

    def accuracy(self, assignment):
        shares = [
            index / (size - 1) for index, size in zip(assignment, self.space.sizes, strict=True)
        ]
        lost = float(np.dot(self.weights, [(1 - share) ** 2 for share in shares]))
        return round(0.86 - 0.2 * lost / float(self.weights.sum()) ** 0.9, 4)


def make_result(space, target_share, evaluations):
    """The result of ``space`` slimmed to a share of its largest network's latency."""
    bench = Bench(space)
    largest = tuple(size - 1 for size in space.sizes)
    target = {"latency_ms": round(target_share * bench.cost(largest)["latency_ms"], 3)}
    searches = {"slimmed": slim_greedily, "random": search_randomly, "evolution": evolve}
    problem = Problem(space.sizes, bench.cost, bench.accuracy, target, space.canonical)
    found = {
        name: search([problem], evaluations=evaluations, rng=np.random.default_rng(0))
        for name, search in searches.items()
    }
    corner = (bench.cost(largest)["latency_ms"], 0.6)
    methods = tuple(
        MethodResult(
            name=name,
            evaluated=tuple(
                EvaluatedNetwork(order=order, assignment=one, costs=bench.cost(one), accuracy=hits)
                for order, (one, hits) in enumerate(result.evaluated.items())
            ),
            hypervolume=hypervolume(
                [(bench.cost(one)["latency_ms"], hits) for one, hits in result.evaluated.items()],
                corner,
            ),
        )
        for name, result in found.items()
    )
    finals = {
        "largest": largest,
        "uniform": scale_uniformly(space.uniform, problem),
        **{name: result.best for name, result in found.items()},
    }
    names, options = list(space.choices), list(space.choices.values())
    trace = tuple(
        WalkStep(
            costs=step.costs,
            score=step.score,
            accuracy=step.accuracy,
            actions=tuple(
                WalkAction(
                    choice=names[it.choice], option=options[it.choice][it.option],
                    costs=it.costs, score=it.score, accuracy=it.accuracy,
                )
                for it in step.actions
            ),
            taken=[it.assignment for it in step.actions].index(step.taken.assignment),
        )
        for step in found["slimmed"].trace
    )  # fmt: skip
    comparison = Comparison(
        target=target, winner=None, compared=("evolution", "slimmed"), accuracies=(0.84, 0.83),
        p=0.25, images=1000,
    )  # fmt: skip
    return SearchResult(
        space=space.name,
        data="digits",
        strategy="frontier",
        seed=0,
        targets=(target,),
        choices=tuple(names),
        options=tuple(options),
        methods=methods,
        trace=trace,
        networks=tuple(_final(bench, name, one, target) for name, one in finals.items()),
        terms=published_terms(["latency_ms"]),
        verdicts=(str(comparison),),
        evidence=evidence(space, from_weights=False),
        comparisons=(comparison,),
        walk=tuple(step.taken.assignment for step in found["slimmed"].trace),
    )  # fmt: skip


def _final(bench, name, assignment, target):
    costs = bench.cost(assignment)
    predicted = costs["latency_ms"]
    measured = predicted * (1.02 if name == "largest" else 0.985)
    return FinalNetwork(
        name=name,
        target=None if name == "largest" else target,
        assignment=assignment,
        costs=costs,
        score=mobile_efficiency_score(costs),
        latencies=tuple(
            MeasuredLatency(
                cost="latency_ms", state=state, predicted=factor * predicted,
                measured=factor * measured, low=0.99 * factor * measured,
                high=1.01 * factor * measured,
            )
            for state, factor in (("warm", 1.0), ("cold", COLD))
        ),
        search_accuracy=bench.accuracy(assignment),
        test_accuracy=round(bench.accuracy(assignment) - 0.004, 4),
        layers=tuple(
            LayerShare(slot=layer.slot, layer=layer.signature, costs=it)
            for layer, it in bench.layers(assignment)
        ),
    )  # fmt: skip


def log_lines(epochs):
    """The log of a training with path choice and one setback."""
    lines = [{"setback": 1, "epoch": 3, "step": 7, "reason": "the loss is not finite"}]
    for epoch in range(1, epochs + 1):
        done = epoch / epochs
        kept = round(0.5 + 0.45 * done, 4)
        lines.append(
            {
                "epoch": epoch,
                "loss/largest": 2.2 * (1 - 0.7 * done) ** 2,
                "loss/subnets": 2.4 * (1 - 0.6 * done) ** 2,
                "learning_rate": 0.002 * (1 + np.cos(np.pi * done)),
                "images_per_second": 150.0,
                "training_accuracy/largest": 0.9 - 0.5 * (1 - done) ** 2,
                "accuracy/smallest": 0.7 - 0.4 * (1 - done) ** 2,
                "accuracy/largest": 0.86 - 0.4 * (1 - done) ** 2,
                "paths": {
                    "stage1.block2.ffn": {"identity": 1 - kept, "conv_ffn": kept},
                    "stage2.block2.ffn": {"identity": kept, "conv_ffn": 1 - kept},
                },
            }
        )
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.fixture(scope="session")
def result():
    return make_result(SearchSpace.load("demo_64px"), 0.5, 25)


@pytest.fixture
def run_folder(tmp_path, result):
    """A run with two searches and a log."""
    run = tmp_path / "run"
    for name in ("slim_2", "slim_3"):
        (run / name).mkdir(parents=True)
        (run / name / "report.json").write_text(result.model_dump_json())
    (run / "log.jsonl").write_text(log_lines(8))
    return run


@pytest.fixture(scope="session")
def check():
    architecture = Architecture.load("efficientformer_v2_s0")
    rows = [(0.1, (0.2, 0.3)), (0.2, (0.4, 0.5)), (0.5, (0.3, 0.3))]
    compared = [
        Compared(
            architecture=architecture, params=1000 * n, macs=10**n, inherited=mine, alone=theirs
        )
        for n, (mine, theirs) in enumerate(rows, start=4)
    ]
    return judge_ranks(compared, RECIPES["light"], images=200)


def measured(ms):
    """A latency that is twice as long when cold."""
    return Latency(*(Measurement(it, 0.9 * it, 1.1 * it) for it in (ms, 2 * ms)))


def made(name, operators):
    layers = (
        LayerTime(
            ConvFFN(slot="stage1.block1.ffn", channels=8, expansion=2), (8, 4, 4), measured(3)
        ),
        LayerTime(Attention4D(slot="stage1.block1.attention", channels=8), (8, 4, 4), measured(1)),
    )
    return Profile(name, measured(5.0), layers, operators)


@pytest.fixture(scope="session")
def profiles():
    return [
        made("one", {"1x1 convolutions": 4.0, "activations": 1.0}),
        made("two", {"1x1 convolutions": 3.0, "softmax": 2.0}),
    ]
