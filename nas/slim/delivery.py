"""Delivers a network for each method and target: all are measured together, and near the target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import onnx
from torch import nn

from nas.architecture import Architecture
from nas.deploy.description import Description
from nas.deploy.export import OnnxNetwork, describe
from nas.deploy.quantize import precision_of
from nas.deploy.weights import save_weights
from nas.documents import write_atomically
from nas.latency.estimator import STATES, State
from nas.latency.survey import network_name
from nas.latency.table import LatencyTable
from nas.latency.unit import describe_int8
from nas.network import measure_size
from nas.search.problem import Costs
from nas.slim.candidates import Candidates
from nas.slim.finalists import Finalists
from nas.slim.loop import NEAR, Judges, Loop, Pair
from nas.slim.methods import Method
from nas.slim.result import (
    NETWORK_FILES,
    FinalNetwork,
    LayerShare,
    MeasuredLatency,
    RivalNetwork,
    TimedLatency,
)
from nas.slim.rivals import Rival
from nas.space import Assignment


@dataclass(frozen=True, eq=False)
class Delivered:
    """A network with inherited weights; ``model`` is in the precision of the first table."""

    figures: FinalNetwork
    architecture: Architecture
    network: nn.Module
    model: onnx.ModelProto

    def with_remark(self, remark: str | None) -> Delivered:
        """The network with one more remark, if there is one."""
        remarks = "; ".join(filter(None, [self.figures.remark, remark])) or None
        return replace(self, figures=self.figures.model_copy(update={"remark": remarks}))

    @property
    def executed(self) -> nn.Module:
        """The module that computes as the written model does."""
        return OnnxNetwork(self.model) if precision_of(self.model) == "int8" else self.network

    def save(self, folder: Path, description: Description) -> None:
        """Write the network's files, whose metadata describe it."""
        self.architecture.save(folder / NETWORK_FILES["architecture"])
        save_weights(self.network, folder / NETWORK_FILES["weights"], description)
        describe(self.model, description)
        write_atomically(folder / NETWORK_FILES["onnx"], self.model.SerializeToString())


def deliver(
    candidates: Candidates, methods: Sequence[Method], rivals: Sequence[Rival] = ()
) -> tuple[list[Delivered], list[RivalNetwork]]:
    """The largest network, and that of each method for each target; and the rivals.

    Raises UserError if a target is not met.
    """
    delivery = Delivery(candidates, rivals)
    targets = candidates.plan.targets
    pairs = [Pair(it, target, it.choose(target)) for target, it in product(targets, methods)]
    Loop(pairs, delivery.judges, [candidates.largest], candidates.progress).run()
    for finalists in delivery.finalists.values():
        finalists.tell_spread()
    delivered = [delivery.take("largest", None, candidates.largest)]
    for pair, method in zip(pairs, list(methods) * len(targets), strict=True):
        found = delivery.take(method.name, pair.target, pair.current)
        delivered.append(found.with_remark(_remark(found.figures, method)))
    delivered = [one.with_remark(delivery.compare_precisions(one)) for one in delivered]
    return delivered, [delivery.take_rival(rival) for rival in rivals]


class Delivery:
    """Measures networks on all devices at hand, and puts together what is known of each.

    ``rivals`` are measured in every session too.
    """

    def __init__(self, candidates: Candidates, rivals: Sequence[Rival] = ()) -> None:
        self.candidates = candidates
        self._rivals = {
            rival.model_name: candidates.export(rival.network, rival.architecture)
            for rival in rivals
        }
        self.finalists = {
            cost: Finalists(
                table,
                candidates.journal,
                candidates.progress,
                candidates.folder / "finalists",
                candidates.plan.state,
            )
            for cost, table in candidates.measured.items()
        }
        for finalists in self.finalists.values():
            finalists.sums |= {
                rival.model_name: finalists.table.sums(rival.architecture)
                for rival in rivals
                if finalists.table.holds(rival.architecture)
            }

    @property
    def judges(self) -> Judges:
        """What the loop asks about networks."""
        return Judges(
            cost=self.candidates.prices.cost,
            accuracy=self.candidates.accuracy,
            images=len(self.candidates.dataset.search),
            measure=self.measure,
            tables={cost: table.path for cost, table in self.candidates.measured.items()},
            uncertainty=self._uncertainty,
        )

    def measure(
        self, networks: Sequence[Assignment], asked: Sequence[Assignment]
    ) -> dict[Assignment, Costs]:
        """Time networks together on each device; returns latencies in the state of the plan.

        It goes on until those that are asked for are known.
        """
        state, names = self.candidates.plan.state, {one: self._name(one) for one in networks}
        for cost, finalists in self.finalists.items():
            makers = {name: partial(self._model, one, cost) for one, name in names.items()}
            finalists.sums |= {
                name: finalists.table.sums(self.candidates.space.decode(one))
                for one, name in names.items()
            }
            rivals = {
                name: partial(it.models.__getitem__, cost) for name, it in self._rivals.items()
            }
            new = [name for name in rivals if name not in finalists.latencies]
            finalists.measure({**makers, **rivals}, [*(names[it] for it in asked), *new])
        return {
            one: {
                cost: finalists.latencies[name].of(state).ms
                for cost, finalists in self.finalists.items()
            }
            for one, name in names.items()
        }

    def take(self, name: str, target: Costs | None, network: Assignment) -> Delivered:
        """A network that was measured, with its figures."""
        candidates = self.candidates
        architecture, exported = candidates.space.decode(network), candidates.exported(network)
        costs, tables = candidates.prices.cost(network), candidates.prices.latencies
        figures = FinalNetwork(
            name=name,
            target=dict(target) if target else None,
            assignment=network,
            costs=costs,
            score=candidates.plan.score(costs),
            latencies=tuple(self._latencies(architecture)),
            search_accuracy=candidates.accuracy(network),
            test_accuracy=None,
            layers=tuple(layer_shares(architecture, tables, candidates.plan.state)),
            int8_agreement=exported.int8_agreement,
            state=candidates.plan.state,
        )
        return Delivered(
            figures, architecture, exported.network, next(iter(exported.models.values()))
        )

    def take_rival(self, rival: Rival) -> RivalNetwork:
        """The figures of a rival that was measured; its accuracy comes later."""
        plan, size = self.candidates.plan, measure_size(rival.architecture)
        latencies = tuple(self._timed(rival.model_name))
        measured = {it.cost: it.measured for it in latencies if it.state == plan.state}
        costs = {**size._asdict(), **measured}
        is_known = plan.terms.keys() <= costs.keys()
        return RivalNetwork(
            name=rival.name,
            costs=costs,
            score=plan.score(costs) if is_known else None,
            latencies=latencies,
            state=plan.state,
        )

    def compare_precisions(self, delivered: Delivered) -> str | None:
        """Why int8 is in vain, if a table of this machine is in int8 and another in float32."""
        precisions = {it.table.target.precision: it for it in self.finalists.values()}
        if precisions.keys() != {"float32", "int8"}:
            return None
        name, state = network_name(delivered.architecture), self.candidates.plan.state
        int8, float32 = (precisions[it].latencies[name].of(state) for it in ("int8", "float32"))
        return describe_int8(int8, float32)

    def _timed(self, name: str) -> Iterator[TimedLatency]:
        """The latencies of a model by its name, by table and state."""
        for (cost, finalists), state in product(self.finalists.items(), STATES):
            ms, low, high = finalists.latencies[name].of(state)
            yield TimedLatency(cost=cost, state=state, measured=ms, low=low, high=high)

    def _latencies(self, architecture: Architecture) -> Iterator[MeasuredLatency]:
        for it in self._timed(network_name(architecture)):
            predicted = self.finalists[it.cost].table.predict(architecture, it.state)
            yield MeasuredLatency(**dict(it), predicted=predicted)

    def _uncertainty(self, network: Assignment) -> float:
        name = self._name(network)
        return max(finalists.uncertainty(name) for finalists in self.finalists.values())

    def _name(self, network: Assignment) -> str:
        return network_name(self.candidates.space.decode(network))

    def _model(self, network: Assignment, cost: str) -> onnx.ModelProto:
        return self.candidates.exported(network).models[cost]


def layer_shares(
    architecture: Architecture, tables: Mapping[str, LatencyTable], state: State
) -> Iterator[LayerShare]:
    """Each layer's part of the costs of a network; they add up to the predictions."""
    latencies = {cost: table.shares(architecture, state) for cost, table in tables.items()}
    first = next(iter(tables.values()))
    for place, (layer, shape) in enumerate(architecture.placed()):
        row = first.row(layer, shape)
        parts = {cost: shares[place] for cost, shares in latencies.items()}
        parts |= {"params": row.params, "macs": row.macs}
        yield LayerShare(slot=layer.slot, layer=layer.signature, costs=parts)


def _remark(network: FinalNetwork, method: Method) -> str | None:
    """Why a network's latency is not near its target; None if it is, or has no bound."""
    if network.of_target is None or network.of_target >= NEAR:
        return None
    target = network.target or {}
    binding = [name for name, bound in target.items() if network.costs[name] >= NEAR * bound]
    others = [name for name in binding if not network.measured(name)]
    if others:
        return f"bounded by {' and '.join(others)}, not by this latency"
    ms = min(
        it.measured for it in network.latencies if it.state == network.state and it.cost in target
    )
    return method.explain(network.assignment, ms)
