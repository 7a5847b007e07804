"""What a search leaves in its folder: networks, trace, frontier, picture, and all as one value.

With one target its network lies in the folder itself, with several each in a folder of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.deploy.weights import save_weights
from nas.documents import write_atomically
from nas.latency.prices import Prices
from nas.search import Step, hypervolume
from nas.search.problem import meets
from nas.slim.network import Delivered
from nas.slim.plan import Plan
from nas.slim.result import (
    NETWORK_FILES,
    EvaluatedNetwork,
    FinalNetwork,
    LayerShare,
    MeasuredLatency,
    MethodResult,
    SearchResult,
    Verdict,
    WalkAction,
    WalkStep,
)
from nas.space import Assignment


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
    verdicts: tuple[Verdict, ...]
    wanted: str = "slimmed"


def write_results(folder: Path, outcome: Outcome, prices: Prices) -> SearchResult:
    """Write the networks, then the result, and return it."""
    result = make_result(outcome, prices)
    _write_networks(folder, outcome, result)
    result.save(folder)
    return result


def make_result(outcome: Outcome, prices: Prices) -> SearchResult:
    """The search as a value."""
    plan, space = outcome.plan, prices.space
    names = list(space.choices)
    options = tuple(space.choices.values())
    return SearchResult(
        space=space.name,
        data=outcome.data,
        strategy=plan.strategy,
        seed=plan.seed,
        targets=plan.targets,
        terms=plan.terms,
        wanted=outcome.wanted,
        choices=tuple(names),
        options=options,
        methods=tuple(
            _method(name, evaluated, plan, prices) for name, evaluated in outcome.evaluated.items()
        ),
        trace=tuple(_walk_step(step, space.choices) for step in outcome.trace),
        networks=tuple(_final_network(network, prices) for network in outcome.networks),
        verdicts=outcome.verdicts,
    )


def _write_networks(folder: Path, outcome: Outcome, result: SearchResult) -> None:
    """The wanted network of each target: architecture, weights, ONNX."""
    for network in outcome.networks:
        if network.name != outcome.wanted or network.target is None:
            continue
        place = result.folder_of(network.target, folder)
        network.architecture.save(place / NETWORK_FILES["architecture"])
        save_weights(network.network, place / NETWORK_FILES["weights"])
        write_atomically(place / NETWORK_FILES["onnx"], network.model.SerializeToString())


def _method(
    name: str, evaluated: Mapping[Assignment, float], plan: Plan, prices: Prices
) -> MethodResult:
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
    return MethodResult(
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


def _walk_step(step: Step, choices: Mapping[str, Sequence[Any]]) -> WalkStep:
    names = list(choices)
    return WalkStep(
        costs=dict(step.costs),
        score=step.score,
        accuracy=step.accuracy,
        actions=tuple(
            WalkAction(
                choice=names[action.choice],
                option=choices[names[action.choice]][action.option],
                costs=dict(action.costs),
                score=action.score,
                accuracy=action.accuracy,
            )
            for action in step.actions
        ),
        taken=[action.assignment for action in step.actions].index(step.taken.assignment),
        reached=step.taken.assignment,
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
        int8_agreement=network.agreement,
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
