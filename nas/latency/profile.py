"""Where the time of networks goes on a device: layer by layer, and by class of operator.

Layers are measured by their probes, as in a latency table, in turns with the whole networks.
Classes of operators come from the runtime's own profiler on the whole network, which costs time
itself: so only shares are taken from it. Operators that a runtime fuses into another count with
that one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from nas.architecture import Architecture
from nas.families import Layer, Shape
from nas.latency.estimator import Latency, Measurement, State, estimate
from nas.latency.graphs import LayerGraphs
from nas.latency.survey import layer_latency, network_name
from nas.latency.target import Target
from nas.latency.visits import Turns, profile_graph
from nas.progress import SILENT, Progress

PROFILED_RUNS = 60

VISITS = 12
"""To each graph."""

PARTS: Mapping[str, str] = {
    "stem": "stem",
    "downsample": "downsampling",
    "attention": "attention",
    "ffn": "FFN",
    "head": "head",
}
"""The parts of a network by the last word of a slot's name; other words are their own part."""

OPERATORS: Mapping[str, tuple[str, ...]] = {
    "1x1 convolutions": ("Conv 1x1",),
    "depthwise convolutions": ("Conv depthwise", "ConvolutionDepthwise"),
    "other convolutions": ("Conv",),
    "matrix products": ("MatMul", "FusedMatMul", "Gemm", "FullyConnected", "While"),  # MNN's loop
    "norms": (
        *("BatchNormalization", "InstanceNormalization", "LayerNormalization"),
        *("SkipLayerNormalization", "GroupNorm", "MVN", "NormalizeL2", "LayerNorm"),
    ),
    "activations": (
        *("Gelu", "BiasGelu", "FastGelu", "QuickGelu", "Erf", "Relu", "HardSwish", "HSwish"),
        *("HardSigmoid", "Sigmoid", "Swish", "Tanh", "Clip", "UnaryOp", "ReLU", "ReLU6"),
    ),
    "softmax": ("Softmax", "SoftMax"),
    "reshapes, reorders": (
        *("Reshape", "Transpose", "Reorder", "ReorderInput", "ReorderOutput", "Concat", "Split"),
        *("Slice", "StridedSlice", "Gather", "Squeeze", "Unsqueeze", "Flatten", "Expand", "Tile"),
        *("Pad", "DepthToSpace", "SpaceToDepth", "Raster"),
    ),
    "elementwise": (
        *("Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Sum", "Eltwise", "Subgraph", "BinaryOp"),
    ),
    "resize": ("Upsample", "Resize", "Interpolate", "Interp"),
    "pooling": (
        *("AveragePool", "MaxPool", "GlobalAveragePool", "ReduceMean", "ReduceSum"),
        *("AvgPool", "Pooling", "Reduce", "Reduction"),
    ),
}
"""Classes, with the operators of all runtimes in each; any other operator is ``other``."""

_CLASS_OF = {operator: name for name, operators in OPERATORS.items() for operator in operators}


@dataclass(frozen=True)
class LayerTime:
    """A layer of a network and its latency inside it."""

    layer: Layer
    input_shape: Shape
    found: Latency

    @property
    def part(self) -> str:
        word = self.layer.slot.rpartition(".")[2]
        return PARTS.get(word, word)


@dataclass(frozen=True)
class Profile:
    """One network: its measured latency, that of its layers, and warm ms by class of operator.

    ``operators`` is None where the runtime has no profiler. A large network takes longer than its
    warm layers together, which have their weights in the cache, and less than its cold ones.
    """

    name: str
    whole: Latency
    layers: tuple[LayerTime, ...]
    operators: Mapping[str, float] | None

    @property
    def parts(self) -> Mapping[str, float]:
        """The warm ms of stem, downsampling, attention, FFN and head, in the network's order."""
        there = [layer.part for layer in self.layers]
        found = dict.fromkeys([part for part in PARTS.values() if part in there], 0.0)
        for layer in self.layers:
            found[layer.part] = found.get(layer.part, 0.0) + _ms(layer.found.warm)
        return found

    def sum_of_layers(self, state: State) -> float:
        """The ms of all layers in one state."""
        return sum(_ms(layer.found.of(state)) for layer in self.layers)


def profile_networks(
    networks: Mapping[str, Architecture],
    target: Target,
    *,
    rng: np.random.Generator,
    graphs: LayerGraphs | None = None,
    visits: int = VISITS,
    progress: Progress = SILENT,
) -> list[Profile]:
    """Profile networks by their names; layers that several have in common are measured once."""
    graphs = graphs or LayerGraphs()
    placed = [place for network in networks.values() for place in network.placed()]
    layers = {(layer.signature, shape): layer for layer, shape in placed}
    graphs.prepare(placed)
    probes = {key: graphs.probe(layer, key[1]) for key, layer in layers.items()}
    makers = {it.name: it.make for probe in probes.values() for it in probe.graphs}
    makers |= {network_name(it): partial(graphs.network, it) for it in networks.values()}
    turns = Turns(target, makers, rng, progress=progress)
    estimates = estimate([it for of in turns.visit(dict.fromkeys(makers, visits)) for it in of])
    times = {key: layer_latency(probe, estimates) for key, probe in probes.items()}
    found = []
    for name, network in networks.items():
        graph = network_name(network)
        whole = Latency(*(Measurement.of(it.graphs[graph]) for it in estimates.values()))
        layer_times = tuple(
            LayerTime(layer, shape, times[layer.signature, shape])
            for layer, shape in network.placed()
        )
        runs = profile_graph(makers[graph](), target, PROFILED_RUNS)
        operators = scaled_to(whole.warm.ms, classify(runs)) if runs else None
        found.append(Profile(name, whole, layer_times, operators))
    return found


def classify(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean ms of each class of operators, over the faster half of the runs."""
    faster = sorted(runs, key=lambda run: sum(run.values()))[: max(1, len(runs) // 2)]
    found = dict.fromkeys([*OPERATORS, "other"], 0.0)
    for run in faster:
        for operator, ms in run.items():
            found[_CLASS_OF.get(operator, "other")] += ms / len(faster)
    return {name: ms for name, ms in found.items() if ms}


def scaled_to(total_ms: float, classes: Mapping[str, float]) -> dict[str, float]:
    """The same shares of ``total_ms``."""
    profiled = sum(classes.values())
    return {name: total_ms * ms / profiled for name, ms in classes.items()}


def _ms(found: Measurement) -> float:
    return max(found.ms, 0.0)  # the slope of a layer may drown in noise
