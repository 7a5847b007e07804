"""ONNX graphs of layers and networks, with few exports: layers that differ in width share one.

A dynamo export takes half a second, a space has hundreds of layers. For another width only the
weights of a template are exchanged, and every graph made so is run and compared with its torch
module. Where the weights do not fit, the layer is exported itself. Each graph has one input and
one output.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import onnx
import torch
from onnx import TensorProto, TensorShapeProto, helper, numpy_helper
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas.architecture import Architecture
from nas.deploy.export import INPUT, OPSET, OUTPUT, PARITY_BOUND, export_folded, export_together
from nas.deploy.quantize import cpu_session
from nas.errors import UserError
from nas.families import Layer, Shape
from nas.latency.estimator import State
from nas.latency.light import marked
from nas.network import fold, make_module

KEPT_BYTES = 150_000_000
"""Of graphs that are kept; making one from a template again takes about 5 ms."""

TOGETHER = 16
"""Layers of one export: it takes seconds, hardly more for several, far more for many."""

CALIBRATION_IMAGES = 4
"""Random inputs that the norms of random layers are calibrated with."""

COPIES = 2
"""By which the graphs of a cold layer differ: the noise of a visit counts half."""

IR_VERSION = 10
"""The file format of opset 20 and 21; any runtime that supports the opset reads it."""


@dataclass(frozen=True)
class Graph:
    """A graph by a name that stands for it, and how to make it.

    ``is_inner``: it is of layers that follow others in a network, and so it is run cold.
    """

    name: str
    make: Callable[[], onnx.ModelProto] = field(compare=False)
    is_inner: bool = True


Terms = tuple[tuple[Graph, float], ...]
"""Graphs and the multiples of their latencies that add up to a layer's."""


class Probe(NamedTuple):
    """The graphs that tell a layer's latency, warm and cold."""

    warm: Terms
    cold: Terms

    def terms(self, state: State) -> Terms:
        return self.warm if state == "warm" else self.cold

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """Each graph once."""
        return tuple(dict.fromkeys(graph for graph, _ in (*self.warm, *self.cold)))


Templates = dict[tuple[type[Layer], str], list[onnx.ModelProto]]
"""Exported graphs by what their layers have in common, without the weights that others replace."""

TEMPLATES: Templates = {}
"""Those of this process: an export takes seconds, and a run needs each layer in several stages."""


@dataclass
class LayerGraphs:
    """Makes the graph of any layer; keeps templates and its latest graphs, counts both ways."""

    templates: Templates = field(default_factory=lambda: TEMPLATES)
    exported: int = field(default=0, init=False)
    substituted: int = field(default=0, init=False)
    _graphs: dict[tuple[str, Shape], onnx.ModelProto] = field(default_factory=dict)
    _bytes: int = 0

    def graph(self, layer: Layer, input_shape: Shape) -> onnx.ModelProto:
        """The folded layer for one image, with random weights that depend on the layer alone."""
        key = (layer.signature, input_shape)
        if key not in self._graphs:
            module = random_module(layer, input_shape)
            graph = self._graphs[key] = marked(self._make(layer, input_shape, module))
            self._bytes += graph.ByteSize()
            while self._bytes > KEPT_BYTES and len(self._graphs) > 1:
                oldest = self._graphs.pop(next(iter(self._graphs)))
                self._bytes -= oldest.ByteSize()
        return self._graphs[key]

    def network(self, architecture: Architecture) -> onnx.ModelProto:
        """The whole network, composed of its layers' graphs: the nodes are those of its export."""
        placed = list(architecture.placed())
        self.prepare(placed)
        return chain([self.graph(layer, shape) for layer, shape in placed])

    def compose(self, module: nn.Module, architecture: Architecture) -> onnx.ModelProto:
        """The graph of ``build(architecture)`` with its weights, composed likewise."""
        placed = list(architecture.placed())
        self.prepare(placed)
        return chain(
            [self._make(layer, shape, module.get_submodule(layer.slot)) for layer, shape in placed]
        )

    def prepare(self, layers: Iterable[tuple[Layer, Shape]]) -> None:
        """Export layers that have no template yet in one go, to serve as such."""
        missing: dict[tuple[str, tuple[int, int]], tuple[Layer, Shape]] = {}
        for layer, shape in layers:
            if not any(_serves(it, shape) for it in self._templates_of(layer)):
                missing.setdefault((layer.structure, shape[1:]), (layer, shape))
        waiting = list(missing.values())
        while len(waiting) > 1:
            self._export_together(waiting[:TOGETHER])
            del waiting[:TOGETHER]

    def _export_together(self, layers: Sequence[tuple[Layer, Shape]]) -> None:
        modules = [random_module(layer, shape) for layer, shape in layers]
        folded = [fold(module) for module in modules]
        try:
            models = export_together(folded, [shape for _, shape in layers])
        except Exception:  # noqa: BLE001 - each is then exported alone, and tells what is wrong
            return
        every = zip(layers, modules, folded, models, strict=True)
        for (layer, shape), module, plain, model in every:
            if not operators(model)["BatchNormalization"] and is_equal(model, module, shape):
                self._keep(model, plain, layer)

    def probe(self, layer: Layer, input_shape: Shape) -> Probe:
        """The probe of a layer: its cost behind a convolution, as in the middle of a network.

        A layer on its own costs more: the runtime reorders activations at both ends, and fuses no
        residual sum. Where a layer keeps its shape, cold copies come after a first one, as the
        layers of a network share code and buffers; warm it stands alone, as the weights of several
        copies may not fit into the caches. The first and the last layer of a network have no
        neighbour on one side. The cost of calling the runtime counts once, with the stem, the
        one layer whose cold run follows no other.
        """
        name = f"{layer.signature} on {'x'.join(map(str, input_shape))}"
        graph = partial(self.graph, layer, input_shape)
        if layer.slot in ("stem", "head"):
            alone: Terms = ((Graph(name, graph, is_inner=layer.slot != "stem"), 1.0),)
            if layer.slot == "head":
                alone += ((Graph("call", lambda: CALL), -1.0),)
            return Probe(alone, alone)
        before = partial(pointwise, input_shape)
        one, several = (
            Graph(f"{copies} of {name}", partial(_behind, before, graph, copies))
            for copies in (1, 1 + COPIES)
        )
        single: Terms = (
            (one, 1.0),
            (Graph(f"before {'x'.join(map(str, input_shape))}", before), -1.0),
        )
        if layer.output_shape(input_shape) != input_shape:
            return Probe(single, single)
        return Probe(single, ((several, 1 / COPIES), (one, -1 / COPIES)))

    def _make(self, layer: Layer, input_shape: Shape, module: nn.Module) -> onnx.ModelProto:
        """The graph of a module of the layer, from a template if one fits."""
        folded = fold(module)
        own = self._templates_of(layer)
        for template in sorted(own, key=lambda it: not _serves(it, input_shape)):
            graph = substitute(template, folded, layer, input_shape)
            if graph is not None and is_equal(graph, module, input_shape):
                self.substituted += 1
                return graph
        model = export_folded(folded, input_shape)
        if operators(model)["BatchNormalization"]:
            raise UserError(
                f"{layer.slot}: '{layer.kind}': a BatchNormalization is left after folding; use "
                "nas.families.parts.ConvNorm, or give the module a method fold()"
            )
        self._keep(model, folded, layer)
        return model

    def _keep(self, model: onnx.ModelProto, folded: nn.Module, layer: Layer) -> None:
        """Let an export be a template, if it holds every weight as it is, under its name."""
        self.exported += 1
        kept = {tensor.name: tensor for tensor in model.graph.initializer}
        weights = _weights(folded)
        if all(
            name in kept and np.array_equal(numpy_helper.to_array(kept[name]), weight)
            for name, weight in weights.items()
        ):
            template = onnx.ModelProto()
            template.CopyFrom(model)
            for tensor in template.graph.initializer:
                if tensor.name in weights:
                    tensor.ClearField("raw_data")
            self._templates_of(layer).append(template)

    def _templates_of(self, layer: Layer) -> list[onnx.ModelProto]:
        return self.templates.setdefault((type(layer), layer.structure), [])


def _serves(template: onnx.ModelProto, input_shape: Shape) -> bool:
    """Whether a template is for maps of this size: attention's reshapes hold that of its own."""
    is_own = input_shape_of(template)[2:] == input_shape[1:]
    return is_own or not operators(template)["Reshape"]


def _behind(
    before: Callable[[], onnx.ModelProto], graph: Callable[[], onnx.ModelProto], copies: int
) -> onnx.ModelProto:
    return chain([before(), *[graph()] * copies])


def random_module(layer: Layer, input_shape: Shape) -> nn.Module:
    """The layer in evaluation mode; every tensor random: biases of zero would hide mistakes.

    Norms hold the statistics of random inputs, and biases and scales are small, so that numbers in
    a network of such layers stay as near to 1 as in a trained one. Where they grow, attention makes
    weights below 1e-38, with which some CPUs compute ten times slower.
    """
    seed = zlib.crc32(f"{layer.signature} {input_shape}".encode())
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make_module(layer, input_shape).eval()
    ends = tuple(
        f"{path}.{end}" if path else end
        for path, child in module.named_modules()
        for end in getattr(child, "branch_ends", ())
    )
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            is_norm = tensor.ndim <= 1 and not name.endswith("bias")
            if name.endswith("gamma") or (is_norm and name.startswith(ends)):
                tensor.uniform_(0.02, 0.06, generator=generator)
            elif is_norm:
                tensor.uniform_(0.25, 0.75, generator=generator)
            elif tensor.ndim <= 1 or not tensor.any():  # attention's biases start at 0
                tensor.normal_(std=0.1, generator=generator)
        _calibrate(module, torch.randn(CALIBRATION_IMAGES, *input_shape, generator=generator))
    return module


def _calibrate(module: nn.Module, images: torch.Tensor) -> None:
    """Set the statistics of norms over the batch to those of these inputs."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # all of this batch
        norm.train()
    if norms:
        module(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def substitute(
    template: onnx.ModelProto, folded: nn.Module, layer: Layer, input_shape: Shape
) -> onnx.ModelProto | None:
    """The template with the weights of ``folded``, or None where they do not belong together."""
    weights = _weights(folded)
    own = {tensor.name: len(tensor.dims) for tensor in template.graph.initializer}
    if any(own.get(name) != weight.ndim for name, weight in weights.items()):
        return None
    output_shape = (1, *layer.output_shape(input_shape))[: len(output_shape_of(template))]
    initializers = [
        (it.name, _tensor(weights[it.name], it.name) if it.name in weights else it)
        for it in template.graph.initializer
    ]
    model = _model(template.graph.node, initializers, (1, *input_shape), output_shape)
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in weights:
            filters, per_group = weights[node.input[1]].shape[:2]
            for attribute in node.attribute:  # depthwise convolutions stay depthwise
                if attribute.name == "group" and attribute.i > 1 and per_group == 1:
                    attribute.i = filters
    return model


def is_equal(graph: onnx.ModelProto, module: nn.Module, input_shape: Shape) -> bool:
    """Whether the graph computes the same as the torch module, on one random image."""
    x = torch.randn(1, *input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = module(x).numpy()
    try:
        session = cpu_session(graph, optimised=False)  # the graph is tested, not the optimiser
        (result,) = session.run(None, {graph.graph.input[0].name: x.numpy()})
    except Exception:  # noqa: BLE001 - onnxruntime raises many types for graphs that do not fit
        return False
    if result.shape != expected.shape or not np.isfinite(expected).all():
        return False
    return float(np.abs(result - expected).max()) <= PARITY_BOUND * float(np.abs(expected).max())


def operators(model: onnx.ModelProto) -> Counter[str]:
    """How often each operator occurs in the graph."""
    return Counter(node.op_type for node in model.graph.node)


def count_parameters(model: onnx.ModelProto) -> int:
    """The number of a model's weights."""
    return sum(math.prod(tensor.dims) for tensor in model.graph.initializer)


def input_shape_of(model: onnx.ModelProto) -> tuple[int, ...]:
    """The shape of the input, batch first."""
    return tuple(size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim)


def output_shape_of(model: onnx.ModelProto) -> tuple[int, ...]:
    """The shape of the output, batch first."""
    return tuple(size.dim_value for size in model.graph.output[0].type.tensor_type.shape.dim)


def with_batch(model: onnx.ModelProto, images: int) -> onnx.ModelProto:
    """The same model for so many images at once; its own batch may be fixed or open."""
    if all(batch.dim_value == images for batch in _batches(model)):
        return model
    found = onnx.ModelProto()
    found.CopyFrom(model)
    batches = _batches(found)
    own = batches[0].dim_value  # 0 if it is open
    del found.graph.value_info[:]  # shapes of the other batch
    for batch in batches:
        batch.dim_value = images
    shapes = {node.input[1] for node in found.graph.node if node.op_type == "Reshape"}
    for tensor in found.graph.initializer:
        if tensor.name in shapes and own:  # attention's reshapes name the batch first
            shape = numpy_helper.to_array(tensor).copy()
            if shape.size and shape[0] == own:
                shape[0] = images
                tensor.CopyFrom(_tensor(shape, tensor.name))
    return found


def _batches(model: onnx.ModelProto) -> list[TensorShapeProto.Dimension]:
    """The first size of each input and output; what has no sizes has none."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    shapes = [value.type.tensor_type.shape.dim for value in (*inputs, *model.graph.output)]
    return [sizes[0] for sizes in shapes if sizes]


def chain(models: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
    """The models one after the other as one graph; each has its own copy of its weights."""
    nodes: list[onnx.NodeProto] = []
    initializers: list[tuple[str, TensorProto]] = []
    value, shape = INPUT, input_shape_of(models[0])
    for index, model in enumerate(models):
        taken = input_shape_of(model)
        if taken != shape:
            raise ValueError(f"graph {index} takes {taken}, the graph before it returns {shape}")
        result = OUTPUT if index == len(models) - 1 else f"{index}/{OUTPUT}"
        names = {
            "": "",  # an optional input that is left out
            model.graph.input[0].name: value,
            model.graph.output[0].name: result,
        }
        for node in model.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"{index}/{node.name}"
            copy.input[:] = [names.get(name, f"{index}/{name}") for name in node.input]
            copy.output[:] = [names.get(name, f"{index}/{name}") for name in node.output]
            nodes.append(copy)
        initializers += [(f"{index}/{it.name}", it) for it in model.graph.initializer]
        value, shape = result, output_shape_of(model)
    return _model(nodes, initializers, input_shape_of(models[0]), shape)


def pointwise(shape: Shape, *, seed: int = 0) -> onnx.ModelProto:
    """A 1x1 convolution that keeps the shape: the neighbour of a layer inside a network."""
    channels = shape[0]
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((channels, channels, 1, 1), dtype=np.float32) / channels**0.5
    bias = rng.standard_normal(channels, dtype=np.float32)
    node = helper.make_node(
        "Conv", [INPUT, "weight", "bias"], [OUTPUT], "pointwise", kernel_shape=[1, 1]
    )
    initializers = [(name, _tensor(it, name)) for name, it in (("weight", weight), ("bias", bias))]
    return marked(_model([node], initializers, (1, *shape), (1, *shape)))


def _model(
    nodes: Sequence[onnx.NodeProto],
    initializers: Iterable[tuple[str, TensorProto]],
    input_shape: Sequence[int],
    output_shape: Sequence[int],
) -> onnx.ModelProto:
    """A model of these nodes, and of weights by their names, which are copied once."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, output_shape)],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    for name, tensor in initializers:
        copy = model.graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = name
    return model


def _weights(folded: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in folded.state_dict().items()}


def _tensor(array: np.ndarray, name: str) -> TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(array), name)


CALL = pointwise((1, 1, 1))
"""One multiplication: 3 us of onnxruntime, 9 us of OpenVINO."""
