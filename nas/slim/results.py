"""What a search leaves in its folder: networks, trace, frontier, picture, and all as one value.

With one target its network lies in the folder itself, with several each in a folder of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.deploy.weights import save_weights
from nas.documents import write_atomically, write_json
from nas.latency.prices import Prices
from nas.report.folder import PAGE_FILE, REPORT_FILE
from nas.report.frontier import Final, Point, draw_frontier, write_frontier
from nas.report.page import write_page
from nas.report.trace import write_trace
from nas.search import Step, hypervolume
from nas.search.problem import meets
from nas.slim.network import Delivered
from nas.slim.plan import Plan
from nas.slim.result import (
    Action,
    EvaluatedNetwork,
    FinalNetwork,
    LayerShare,
    MeasuredLatency,
    Method,
    SearchReport,
    WalkStep,
)
from nas.space import Assignment
from nas.training.run import SEARCH_RESULT


@dataclass(frozen=True)
class Outcome:
    """All that a search found.

    ``networks`` are those of the final table, the largest first; ``evaluated`` holds what each
    method evaluated, by its name and in its order; ``wanted`` names the one whose networks are
    written.
    """

    plan: Plan
    data: str
    networks: tuple[Delivered, ...]
    evaluated: Mapping[str, Mapping[Assignment, float]]
    trace: tuple[Step, ...]
    verdicts: tuple[str, ...]
    wanted: str = "slimmed"


def write_results(folder: Path, outcome: Outcome, prices: Prices) -> dict[str, Any]:
    """Write every file and sum the search up, with the paths of what was written."""
    plan, space = outcome.plan, prices.space
    paths = _write_networks(folder, outcome)
    shared = {
        "trace": folder / "trace.jsonl",
        "frontier": folder / "frontier.csv",
        "picture": folder / "frontier.png",
        "page": folder / PAGE_FILE,
        "report": folder / REPORT_FILE,
        "result": folder / SEARCH_RESULT,
    }
    points = _points(outcome, prices)
    report = make_report(outcome, prices)
    write_trace(shared["trace"], outcome.trace, space.choices)
    write_frontier(shared["frontier"], points, plan.measure, plan.score)
    draw_frontier(
        shared["picture"],
        points,
        measure=plan.measure,
        finals=[
            Final(it.name, it.costs[plan.measure], it.search_accuracy) for it in outcome.networks
        ],
        bounds=[target[plan.measure] for target in plan.targets],
        walk=[step.taken.assignment for step in outcome.trace],
        title=f"{space.name}: accuracy on the search slice",
    )
    write_json(shared["report"], report.model_dump(mode="json"))
    write_page(shared["page"], report)
    result = {
        "space": space.name,
        "data": outcome.data,
        **plan.model_dump(mode="json", include={"targets", "strategy", "seed", "terms"}),
        "evaluations": len(points),
        "methods": [
            {
                "name": method.name,
                "evaluations": len(method.evaluated),
                "hypervolume": method.hypervolume,
            }
            for method in report.methods
        ],
        "networks": [network.summary() for network in outcome.networks],
        "verdicts": list(outcome.verdicts),
    }
    write_json(shared["result"], result)
    return {**result, "paths": {**paths, **{name: str(path) for name, path in shared.items()}}}


def target_folder(folder: Path, target: Mapping[str, float]) -> Path:
    """Where the network of one of several targets lies."""
    return folder / "_".join(f"{bound:g}" for bound in target.values())


def make_report(outcome: Outcome, prices: Prices) -> SearchReport:
    """The search as a value."""
    plan, space = outcome.plan, prices.space
    names = list(space.choices)
    options = tuple(tuple(map(str, options)) for options in space.choices.values())
    return SearchReport(
        space=space.name,
        data=outcome.data,
        strategy=plan.strategy,
        seed=plan.seed,
        targets=plan.targets,
        wanted=outcome.wanted,
        choices=tuple(names),
        options=options,
        methods=tuple(
            _method(name, evaluated, plan, prices) for name, evaluated in outcome.evaluated.items()
        ),
        trace=tuple(_walk_step(step, names, options) for step in outcome.trace),
        networks=tuple(_final_network(network, prices) for network in outcome.networks),
        verdicts=outcome.verdicts,
    )


def _write_networks(folder: Path, outcome: Outcome) -> dict[str, str]:
    """The wanted network of each target: architecture, weights, ONNX."""
    targets = outcome.plan.targets
    paths: dict[str, str] = {}
    for network in outcome.networks:
        if network.name != outcome.wanted or network.target is None:
            continue
        place = folder if len(targets) == 1 else target_folder(folder, network.target)
        files = {
            "architecture": place / "architecture.json",
            "weights": place / "weights.safetensors",
            "onnx": place / "model.onnx",
        }
        network.architecture.save(files["architecture"])
        save_weights(network.network, files["weights"])
        write_atomically(files["onnx"], network.model.SerializeToString())
        if len(targets) == 1:
            paths |= {name: str(path) for name, path in files.items()}
        else:
            paths[f"network {place.name}"] = str(place)
    return paths


def _points(outcome: Outcome, prices: Prices) -> list[Point]:
    """Every evaluated network once, with the methods that evaluated it."""
    methods: dict[Assignment, list[str]] = {}
    accuracies: dict[Assignment, float] = {}
    for name, evaluated in outcome.evaluated.items():
        for assignment, accuracy in evaluated.items():
            methods.setdefault(assignment, []).append(name)
            accuracies[assignment] = accuracy
    return [
        Point(assignment, prices.cost(assignment), accuracies[assignment], tuple(names))
        for assignment, names in methods.items()
    ]


def _method(name: str, evaluated: Mapping[Assignment, float], plan: Plan, prices: Prices) -> Method:
    """What a method evaluated; its frontier counts within all other bounds of the loosest target.

    The reference is the largest network's cost and the accuracy of chance. Searches spend their
    evaluations near the bounds, so against the bound itself their frontiers would cover nothing.
    """
    others = {cost: bound for cost, bound in plan.targets[0].items() if cost != plan.measure}
    largest = prices.cost(tuple(size - 1 for size in prices.space.sizes))
    points = [
        (costs[plan.measure], accuracy)
        for assignment, accuracy in evaluated.items()
        if meets(costs := prices.cost(assignment), others)
    ]
    return Method(
        name=name,
        evaluated=tuple(
            EvaluatedNetwork(
                order=order,
                assignment=assignment,
                costs=prices.cost(assignment),
                accuracy=accuracy,
            )
            for order, (assignment, accuracy) in enumerate(evaluated.items())
        ),
        hypervolume=hypervolume(points, (largest[plan.measure], 1 / prices.space.classes)),
    )


def _walk_step(step: Step, names: Sequence[str], options: Sequence[Sequence[str]]) -> WalkStep:
    return WalkStep(
        costs=dict(step.costs),
        score=step.score,
        accuracy=step.accuracy,
        actions=tuple(
            Action(
                choice=names[action.choice],
                option=options[action.choice][action.option],
                costs=dict(action.costs),
                score=action.score,
                accuracy=action.accuracy,
            )
            for action in step.actions
        ),
        taken=[action.assignment for action in step.actions].index(step.taken.assignment),
    )


def _final_network(network: Delivered, prices: Prices) -> FinalNetwork:
    return FinalNetwork(
        name=network.name,
        target=dict(network.target) if network.target else None,
        assignment=network.assignment,
        costs=dict(network.costs),
        score=network.score,
        latencies=tuple(
            MeasuredLatency(
                cost=name,
                predicted=network.costs[name],
                measured=found.ms,
                low=found.ms_low,
                high=found.ms_high,
            )
            for name, found in network.measured.items()
        ),
        search_accuracy=network.search_accuracy,
        test_accuracy=network.test_accuracy,
        layers=tuple(_layer_shares(network, prices)),
    )


def _layer_shares(network: Delivered, prices: Prices) -> list[LayerShare]:
    """Each layer's part of the predicted latency, in proportion to its row; they add up to it."""
    placed = list(network.architecture.placed())
    sums = {
        name: sum(table.row(*place).ms for place in placed)
        for name, table in prices.latencies.items()
    }
    shares = []
    for layer, shape in placed:
        rows = {name: table.row(layer, shape) for name, table in prices.latencies.items()}
        row = next(iter(rows.values()))
        latencies = {name: network.costs[name] * it.ms / sums[name] for name, it in rows.items()}
        costs = {**latencies, "params": float(row.params), "macs": float(row.macs)}
        shares.append(LayerShare(slot=layer.slot, layer=layer.signature, costs=costs))
    return shares
