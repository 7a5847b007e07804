"""Where the time of networks goes on a device: layer by layer, and by class of operator.

Layers cost what their probes cost, as in a latency table, so that both agree. Classes of operators
come from the runtime's own profiler on the whole network. Profiling itself costs about 14 %, and
onnxruntime counts in whole microseconds: so only shares are taken from it, of the latency that was
measured without it. What a runtime fuses into an operator counts with that operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nas.architecture import Architecture
from nas.families import Layer, Shape
from nas.latency.graphs import with_batch
from nas.latency.measure import PATIENT, Measurement, measure, measure_probes
from nas.latency.probes import layer_probe, network_graph
from nas.latency.rows import Key
from nas.latency.runtime import Target, make_runtime
from nas.latency.templates import LayerGraphs

PROFILED_RUNS = 60
BATCH_LAYERS = 24
"""Layers that take turns; the sessions of all of them are open at once."""

PARTS: Mapping[str, str] = {
    "stem": "stem",
    "downsample": "downsampling",
    "attention": "attention",
    "ffn": "FFN",
    "head": "head",
}
"""What the last word of a slot's name makes of a layer; another word stands for itself."""

OPERATORS: Mapping[str, tuple[str, ...]] = {
    "1x1 convolutions": ("Conv 1x1",),
    "depthwise convolutions": ("Conv depthwise",),
    "other convolutions": ("Conv",),
    "matrix products": ("MatMul", "FusedMatMul", "Gemm", "FullyConnected"),
    "norms": (
        *("BatchNormalization", "InstanceNormalization", "LayerNormalization"),
        *("SkipLayerNormalization", "GroupNorm", "MVN", "NormalizeL2"),
    ),
    "activations": (
        *("Gelu", "BiasGelu", "FastGelu", "QuickGelu", "Erf", "Relu", "HardSwish", "HSwish"),
        *("HardSigmoid", "Sigmoid", "Swish", "Tanh", "Clip"),
    ),
    "softmax": ("Softmax", "SoftMax"),
    "reshapes, reorders": (
        *("Reshape", "Transpose", "Reorder", "ReorderInput", "ReorderOutput", "Concat", "Split"),
        *("Slice", "StridedSlice", "Gather", "Squeeze", "Unsqueeze", "Flatten", "Expand", "Tile"),
        *("Pad", "DepthToSpace", "SpaceToDepth"),
    ),
    "elementwise": ("Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Sum", "Eltwise", "Subgraph"),
    "resize": ("Upsample", "Resize", "Interpolate"),
    "pooling": (
        *("AveragePool", "MaxPool", "GlobalAveragePool", "ReduceMean", "ReduceSum"),
        *("AvgPool", "Pooling", "Reduce"),
    ),
}
"""Classes, with the operators of all runtimes in each; what is in none is ``other``."""

_CLASS_OF = {operator: name for name, operators in OPERATORS.items() for operator in operators}


@dataclass(frozen=True)
class LayerTime:
    """A layer of a network and its latency inside it."""

    layer: Layer
    input_shape: Shape
    found: Measurement

    @property
    def part(self) -> str:
        word = self.layer.slot.rpartition(".")[2]
        return PARTS.get(word, word)


@dataclass(frozen=True)
class Profile:
    """One network: its measured latency, that of its layers, and ms by class of operator.

    ``operators`` is None where the runtime has no profiler. The layers' sum may differ from the
    whole: rows of a table have their weights in the cache, a large network fetches them.
    """

    name: str
    whole: Measurement
    layers: tuple[LayerTime, ...]
    operators: Mapping[str, float] | None

    @property
    def parts(self) -> Mapping[str, float]:
        """The ms of stem, downsampling, attention, FFN and head, in the order of the network."""
        found: dict[str, float] = dict.fromkeys(PARTS.values(), 0.0)
        for one in self.layers:
            found[one.part] = found.get(one.part, 0.0) + max(one.found.ms, 0.0)
        return {part: ms for part, ms in found.items() if ms}


def profile_networks(
    networks: Mapping[str, Architecture],
    target: Target,
    rng: np.random.Generator,
    *,
    graphs: LayerGraphs | None = None,
    tell: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[Profile]:
    """Profile networks by their names; layers that several have in common are measured once."""
    graphs = graphs if graphs is not None else LayerGraphs()
    layers: dict[Key, Layer] = {
        (layer.signature, shape): layer
        for network in networks.values()
        for layer, shape in network.placed()
    }
    times = _measure_layers(layers, target, graphs, rng, tell)
    models = [network_graph(graphs, network) for network in networks.values()]
    wholes = measure(models, target, rng=rng, plan=PATIENT)
    runtime = make_runtime(target)
    found = []
    for name, model, whole in zip(networks, models, wholes, strict=True):
        runs = runtime.profile(with_batch(model, target.batch), PROFILED_RUNS)
        found.append(
            Profile(
                name=name,
                whole=whole,
                layers=tuple(
                    LayerTime(layer, shape, times[layer.signature, shape])
                    for layer, shape in networks[name].placed()
                ),
                operators=scaled_to(whole.ms, classify(runs)) if runs else None,
            )
        )
    return found


def classify(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean ms of each class of operators, over the faster half of the runs.

    The slower half has kernels in it that were interrupted, and the first runs.
    """
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


def _measure_layers(
    layers: Mapping[Key, Layer],
    target: Target,
    graphs: LayerGraphs,
    rng: np.random.Generator,
    tell: Callable[[str, int, int], None],
) -> dict[Key, Measurement]:
    keys = list(layers)
    order = [keys[index] for index in rng.permutation(len(keys))]
    found: dict[Key, Measurement] = {}
    tell("layers", 0, len(keys))
    for start in range(0, len(order), BATCH_LAYERS):
        batch = order[start : start + BATCH_LAYERS]
        probes = [layer_probe(graphs, layers[key], key[1]) for key in batch]
        found.update(zip(batch, measure_probes(probes, target, rng=rng), strict=True))
        tell("layers", len(found), len(keys))
    return found
