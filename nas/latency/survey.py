"""The survey of a space: which graphs to visit, how often, and what their latencies tell.

Layers average out in the sum of a network, whole networks do not; and a visit to a large network
takes longer. So visits are shared out such that the error that noise adds to the validation falls
fastest (Neyman 1934: in proportion to the root of variance over cost).
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx

from nas.architecture import Architecture
from nas.families import Layer
from nas.latency.estimator import (
    STATES,
    Estimate,
    Estimates,
    Latency,
    Measurement,
    State,
    Visit,
    combine,
    estimate,
)
from nas.latency.graphs import LayerGraphs, Probe
from nas.latency.measure import HIDDEN, REFERENCE, reference_names
from nas.latency.runner import LIFE
from nas.latency.table import Key
from nas.latency.target import Target
from nas.latency.unit import Reference
from nas.latency.visits import Turns
from nas.network import measure_size
from nas.space import SearchSpace
from nas.statistics import spread_over

CANDIDATES = 300
"""Random networks among which those to measure are picked by their size."""

REFERENCE_SIZES = (0.4, 0.5, 0.6, 0.7, 0.8)
"""MACs of candidates for the reference, on a scale from the smallest network's to the largest's."""

COMPANION_SIZES = (0.1, 0.8, 1.0)
"""Weights of its companions, likewise. The room in caches shows in the one whose weights just fit:
in a space of small networks that is the largest (benchmarks/README.md)."""


@dataclass
class Survey:
    """Layers with their probes, whole networks, and references; ``makers`` make each graph.

    ``inner`` are the graphs of layers that share turns.
    """

    networks: Sequence[Architecture]
    references: Sequence[Architecture]
    graphs: LayerGraphs
    probes: dict[Key, Probe] = field(default_factory=dict)
    makers: dict[str, Callable[[], onnx.ModelProto]] = field(default_factory=dict)
    inner: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for network in self.networks:
            self.makers[network_name(network)] = partial(self.graphs.network, network)
        for name, network in zip(self.regular, self.references, strict=True):
            self.makers[name] = partial(self.graphs.network, network)
        self.makers[HIDDEN] = self.makers[REFERENCE]

    @property
    def regular(self) -> tuple[str, ...]:
        """The names of the references in their turns."""
        return reference_names(len(self.references))

    def add(self, layers: Mapping[Key, Layer]) -> None:
        """Let these layers be measured too."""
        self.graphs.prepare((layer, shape) for (_, shape), layer in layers.items())
        probes = {key: self.graphs.probe(layer, key[1]) for key, layer in layers.items()}
        self.probes |= probes
        graphs = [graph for probe in probes.values() for graph in probe.graphs]
        self.makers |= {graph.name: graph.make for graph in graphs}
        self.inner |= {graph.name for graph in graphs if graph.is_inner}

    def first_counts(self, visits: Sequence[Visit], least: int) -> dict[str, int]:
        """The visits that each graph still lacks."""
        made = Counter(visit.graph for visit in visits)
        names = [name for name in self.makers if name not in self.regular]
        return {name: max(0, least - made[name]) for name in names}

    def next_counts(
        self,
        visits: Sequence[Visit],
        seconds: float,
        *,
        opening: Callable[[str], float] = lambda name: 0.0,
        noise: float = 0.0,
    ) -> dict[str, int]:
        """The visits that fit into ``seconds`` and lower the error by noise most.

        ``opening`` tells the seconds that a graph takes before its first visit in a round; no more
        is asked for than lowers the error to ``noise``, a share.
        """
        graphs = self._weights(visits)
        variances, costs, made = np.array(list(graphs.values())).T
        more = share_out(
            variances, costs, made, seconds,
            opening=np.array([opening(name) for name in graphs]), error=noise**2,
        )  # fmt: skip
        return dict(zip(graphs, more.tolist(), strict=True))

    def noise(self, visits: Sequence[Visit]) -> float:
        """The part of the networks' mean error that noise makes, as a share."""
        return math.sqrt(
            sum(variance / made for variance, _, made in self._weights(visits).values())
        )

    def latencies(
        self, visits: Sequence[Visit]
    ) -> tuple[dict[Key, Latency], list[dict[State, Estimate]]]:
        """The latency of each layer, and the estimates of each whole network by state."""
        found = estimate(visits)
        layers = {key: layer_latency(probe, found) for key, probe in self.probes.items()}
        networks = [
            {state: found[state].graphs[network_name(network)] for state in STATES}
            for network in self.networks
        ]
        return layers, networks

    def of_references(
        self, visits: Sequence[Visit]
    ) -> tuple[tuple[Reference, ...], tuple[float, float]]:
        """The references, and by how much the first one differs from itself when hidden."""
        found = [estimates.graphs for estimates in estimate(visits).values()]
        references = []
        for name, network in zip(self.regular, self.references, strict=True):
            warm_ms, cold_ms = (graphs[name].ms for graphs in found)
            references.append(Reference(network=network, warm_ms=warm_ms, cold_ms=cold_ms))
        warm, cold = (graphs[HIDDEN].ms / graphs[REFERENCE].ms - 1 for graphs in found)
        return tuple(references), (warm, cold)

    def spread(self, visits: Sequence[Visit]) -> tuple[float, float]:
        """How much faster and slower than in the median the machine was, by ``Estimates``."""
        return estimate(visits)["warm"].spread

    def _weights(self, visits: Sequence[Visit]) -> dict[str, tuple[float, float, float]]:
        """Of each graph: the squared error that one visit leaves, seconds of a visit, visits."""
        seconds: dict[str, list[float]] = {}
        for visit in visits:
            seconds.setdefault(visit.graph, []).append(visit.seconds)
        errors = dict.fromkeys(seconds, 0.0)
        for state, (found, _) in estimate(visits).items():
            for name, parts in self._parts(found, state).items():
                errors[name] += found[name].noise ** 2 * parts / len(STATES)
        return {
            name: (error, float(np.mean(seconds[name])), float(len(seconds[name])))
            for name, error in errors.items()
            if name not in self.regular
        }

    def _parts(self, found: Mapping[str, Estimate], state: State) -> dict[str, float]:
        """Of each graph the mean square of its part in the latencies of networks."""
        squares = dict.fromkeys(found, 0.0)
        for network in self.networks:
            whole = found[network_name(network)].ms
            parts = dict.fromkeys(found, 0.0)
            parts[network_name(network)] = 1.0
            for layer, shape in network.placed():
                if probe := self.probes.get((layer.signature, shape)):
                    for graph, multiple in probe.terms(state):
                        parts[graph.name] += multiple * found[graph.name].ms / whole
            for name, part in parts.items():
                squares[name] += part**2 / len(self.networks)
        squares[HIDDEN] = 1 / len(self.networks)  # it is visited as a network would be
        return squares


def share_out(
    variances: np.ndarray,
    costs: np.ndarray,
    made: np.ndarray,
    budget: float,
    *,
    opening: np.ndarray | float = 0.0,
    error: float = 0.0,
) -> np.ndarray:
    """Further visits (N,) that minimise the sum of variances / visits.

    They cost about ``budget``, or what lowers that sum to ``error`` where this is less. A graph is
    opened once for each ``LIFE`` of its visits, at a cost of ``opening`` (N,); where its first
    visit saves too little for that, it gets none.
    """
    each = costs + opening / LIFE
    first = opening - opening / LIFE

    def visits(price: float) -> np.ndarray:
        """What is worth its cost, where a second is worth ``price`` of the sum."""
        more: np.ndarray = np.maximum(np.sqrt(variances / (price * each)) - made, 0)
        saved = variances / made - variances / (made + more)
        return np.where(saved > price * (more * each + first), more, 0)

    def is_enough(more: np.ndarray) -> bool:
        spent = (more * each + first * (more > 0)).sum()
        return bool(spent >= budget or (variances / (made + more)).sum() <= error)

    low, high = -80.0, math.log((variances / made**2 / each).max() + 1e-300)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if is_enough(visits(math.exp(middle))) else (low, middle)
    found = visits(math.exp(high)).round()
    if not found.any():  # graphs that are alike are worth it from the same price on
        found = visits(math.exp(low)).round()
    return found.astype(int)


def pick_networks(space: SearchSpace, rng: np.random.Generator, count: int) -> list[Architecture]:
    """Different random networks, and the smallest and largest, from the fewest MACs to the most."""
    macs = _random_networks(space, rng)
    networks = list(macs)
    return [networks[index] for index in spread_over(list(macs.values()), min(count, len(macs)))]


def pick_candidates(space: SearchSpace, rng: np.random.Generator) -> list[Architecture]:
    """Networks that may serve as the reference, from the fewest MACs to the most.

    Small networks hardly feel what others do to the caches, and are a poor unit for large ones
    (benchmarks/reference.py).
    """
    return _of_sizes(_random_networks(space, rng), REFERENCE_SIZES)


def pick_companions(
    space: SearchSpace, rng: np.random.Generator, reference: Architecture
) -> list[Architecture]:
    """A smaller and two larger networks than the reference, where the space has such.

    Others on a host change how fast memory is and how much the caches keep, which networks of few
    and of many weights feel differently.
    """
    params = {it: measure_size(it).params for it in _random_networks(space, rng)}
    own = measure_size(reference).params
    smaller = [it for it, size in params.items() if size < own]
    larger = [it for it, size in params.items() if size > own]
    sides = zip(COMPANION_SIZES, (smaller, larger, larger), strict=True)
    found = [_nearest(params, share, side) for share, side in sides if side]
    return list(dict.fromkeys(found))


def pick_reference(
    candidates: Sequence[Architecture],
    target: Target,
    graphs: LayerGraphs,
    rng: np.random.Generator,
    visits: int,
) -> Architecture:
    """The candidate that so many visits show to tell the machine's speed best for their time.

    A network whose weights just fit into the caches takes another time at each visit.
    """
    makers = {network_name(it): partial(graphs.network, it) for it in candidates}
    chunks = Turns(target, makers, rng).visit(dict.fromkeys(makers, visits))
    made = [visit for chunk in chunks for visit in chunk]
    found = estimate(made).values()

    def price(network: Architecture) -> float:
        name = network_name(network)
        noise = max(of_state.graphs[name].noise for of_state in found)
        return noise**2 * sum(visit.seconds for visit in made if visit.graph == name)

    return min(candidates, key=price)


def _of_sizes(sizes: Mapping[Architecture, int], shares: Sequence[float]) -> list[Architecture]:
    """The networks nearest to these places on a scale from the least size to the greatest."""
    return list(dict.fromkeys(_nearest(sizes, share, sizes) for share in shares))


def _nearest(
    sizes: Mapping[Architecture, int], share: float, among: Iterable[Architecture]
) -> Architecture:
    """The one of some networks that is nearest to a place on the scale of all sizes."""
    logs = {network: math.log(size) for network, size in sizes.items()}
    least, most = min(logs.values()), max(logs.values())
    wanted = least + share * (most - least)
    return min(among, key=lambda network: abs(logs[network] - wanted))


def _random_networks(space: SearchSpace, rng: np.random.Generator) -> dict[Architecture, int]:
    """The smallest and the largest network, and random ones, each with its MACs."""
    found = [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(CANDIDATES))]
    return {network: measure_size(network).macs for network in found}


def network_name(network: Architecture) -> str:
    """The name of a network's graph."""
    return f"network {hashlib.sha256(network.to_json().encode()).hexdigest()[:16]}"


def layer_latency(probe: Probe, found: Mapping[State, Estimates]) -> Latency:
    """The latency of a layer by the estimates of its probe's graphs."""
    return Latency(*(Measurement.of(_layer(probe, found[state], state)) for state in STATES))


def _layer(probe: Probe, found: Estimates, state: State) -> Estimate:
    return combine([(found.graphs[graph.name], times) for graph, times in probe.terms(state)])
