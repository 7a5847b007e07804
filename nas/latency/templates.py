"""ONNX graphs of layers, with few exports: layers that differ in width only share one template.

A dynamo export takes half a second, a space has hundreds of layers. The nodes of a template are the
exporter's; for another width only the weights are exchanged, and every graph made so is run and
compared with its torch module. Where that does not fit, the layer is exported itself.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import nn

from nas.deploy.export import PARITY_BOUND, export_folded
from nas.errors import UserError
from nas.families import Layer, Shape
from nas.latency.graphs import input_shape as input_shape_of
from nas.latency.graphs import operators, with_weights
from nas.network import fold, make_module

KEPT_BYTES = 150_000_000
"""Of graphs that are kept; one made from a template again takes about 5 ms."""


@dataclass
class LayerGraphs:
    """Makes the graph of any layer; remembers its templates and its latest graphs.

    ``exported`` and ``substituted`` count how the graphs came about.
    """

    exported: int = 0
    substituted: int = 0
    _templates: dict[str, list[onnx.ModelProto]] = field(default_factory=dict)
    _graphs: dict[tuple[str, Shape], onnx.ModelProto] = field(default_factory=dict)
    _bytes: int = 0

    def graph(self, layer: Layer, input_shape: Shape) -> onnx.ModelProto:
        """The folded layer for one image, with random weights that depend on the layer alone."""
        key = (layer.signature, input_shape)
        if key not in self._graphs:
            graph = self._graphs[key] = self._make(layer, input_shape)
            self._bytes += graph.ByteSize()
            while self._bytes > KEPT_BYTES and len(self._graphs) > 1:
                oldest = self._graphs.pop(next(iter(self._graphs)))
                self._bytes -= oldest.ByteSize()
        return self._graphs[key]

    def _make(self, layer: Layer, input_shape: Shape) -> onnx.ModelProto:
        module = random_module(layer, input_shape)
        folded = fold(module)
        templates = self._templates.setdefault(layer.structure, [])
        # attention's reshapes hold the map's size, so its template serves one map; others serve all
        for template in sorted(templates, key=lambda it: _map(it) != input_shape[1:]):
            graph = substitute(template, folded, layer, input_shape)
            if graph is not None and is_equal(graph, module, input_shape):
                self.substituted += 1
                return graph
        weights = _weights(folded)
        model = export_folded(folded, input_shape)
        if operators(model)["BatchNormalization"]:
            raise UserError(
                f"{layer.slot}: '{layer.kind}': a BatchNormalization is left after folding; use "
                "nas.families.parts.ConvNorm, or give the module a method fold()"
            )
        self.exported += 1
        if _is_template(model, weights):
            templates.append(model)
        return model


def random_module(layer: Layer, input_shape: Shape) -> nn.Module:
    """The layer in evaluation mode; every tensor random, so that none can be optimised away.

    Fresh networks have scales of 1e-5 and biases of zero, which would hide mistakes.
    """
    seed = zlib.crc32(f"{layer.signature} {input_shape}".encode())
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make_module(layer, input_shape).eval()
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if not tensor.is_floating_point():
                continue
            if tensor.ndim <= 1:  # biases, scales, statistics of norms
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif not tensor.any():
                tensor.normal_(generator=generator)
    return module


def substitute(
    template: onnx.ModelProto, folded: nn.Module, layer: Layer, input_shape: Shape
) -> onnx.ModelProto | None:
    """The template with the weights of ``folded``, or None where they do not belong together."""
    weights = _weights(folded)
    own = {tensor.name: tensor for tensor in template.graph.initializer}
    if any(name not in own or len(own[name].dims) != it.ndim for name, it in weights.items()):
        return None
    channels, height, width = layer.output_shape(input_shape)
    rank = len(template.graph.output[0].type.tensor_type.shape.dim)
    gives = (1, channels, height, width)[:rank]
    return with_weights(template, weights, input_shape=(1, *input_shape), output_shape=gives)


def is_equal(graph: onnx.ModelProto, module: nn.Module, input_shape: Shape) -> bool:
    """Whether the graph computes what the torch module computes, on one random image."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    # the graph is in question, not the runtime's optimiser, which takes most of the time
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    x = torch.randn(1, *input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = module(x).numpy()
    try:
        session = onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        (result,) = session.run(None, {graph.graph.input[0].name: x.numpy()})
    except Exception:  # noqa: BLE001 - onnxruntime raises many types for graphs that do not fit
        return False
    if result.shape != expected.shape:
        return False
    return float(np.abs(result - expected).max()) <= PARITY_BOUND * float(np.abs(expected).max())


def _is_template(model: onnx.ModelProto, weights: dict[str, np.ndarray]) -> bool:
    """Whether the exporter kept every weight as it is, under its name."""
    own = {tensor.name: tensor for tensor in model.graph.initializer}
    return all(
        name in own and np.array_equal(numpy_helper.to_array(own[name]), weight)
        for name, weight in weights.items()
    )


def _map(model: onnx.ModelProto) -> tuple[int, ...]:
    return input_shape_of(model)[2:]


def _weights(folded: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in folded.state_dict().items()}
