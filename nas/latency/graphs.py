"""Surgery on ONNX graphs of layers: other weights, chains.

Each graph here has one input and one output; all but the first dimension of their shapes are those
of the layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nas.deploy.export import INPUT, OPSET, OUTPUT
from nas.families import Shape

IR_VERSION = 10
"""The file format that came with opset 20 and 21; any runtime that knows the opset reads it."""


def operators(model: onnx.ModelProto) -> Counter[str]:
    """How often each operator stands in the graph."""
    return Counter(node.op_type for node in model.graph.node)


def input_shape(model: onnx.ModelProto) -> tuple[int, ...]:
    """The shape of the input, batch first."""
    return _shape(model.graph.input[0])


def output_shape(model: onnx.ModelProto) -> tuple[int, ...]:
    """The shape of the output, batch first."""
    return _shape(model.graph.output[0])


def with_weights(
    model: onnx.ModelProto,
    weights: Mapping[str, np.ndarray],
    *,
    input_shape: Sequence[int],
    output_shape: Sequence[int],
) -> onnx.ModelProto:
    """The same nodes with other initializers, which may have another number of channels.

    Depthwise convolutions, whose group is the number of their channels, stay depthwise.
    """
    nodes = []
    for node in model.graph.node:
        group = _group(node)
        if group is not None and group.i > 1 and node.input[1] in weights:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            filters, per_group = weights[node.input[1]].shape[:2]
            if per_group == 1:
                _group(copy).i = filters  # type: ignore[union-attr]
            nodes.append(copy)
        else:
            nodes.append(node)
    initializers = [
        _tensor(weights[tensor.name], tensor.name) if tensor.name in weights else tensor
        for tensor in model.graph.initializer
    ]
    return _model(nodes, initializers, input_shape, output_shape)


def with_batch(model: onnx.ModelProto, images: int) -> onnx.ModelProto:
    """The same model for so many images at once; its own batch may be fixed or open.

    Reshapes that name the batch as their first number, as those of attention do, are rewritten.
    """
    values = [*model.graph.input, *model.graph.output]
    if all(_batch(value).dim_value == images for value in values):
        return model
    own = _batch(model.graph.input[0]).dim_value  # 0 if it is open
    found = onnx.ModelProto()
    found.CopyFrom(model)
    del found.graph.value_info[:]  # shapes of the other batch
    for value in [*found.graph.input, *found.graph.output]:
        _batch(value).dim_value = images
    shapes = {node.input[1] for node in found.graph.node if node.op_type == "Reshape"}
    for tensor in found.graph.initializer:
        if tensor.name in shapes and own:
            shape = numpy_helper.to_array(tensor).copy()
            if shape.size and shape[0] == own:
                shape[0] = images
                tensor.CopyFrom(_tensor(shape, tensor.name))
    return found


def chain(models: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
    """The models one after the other as one graph; each has its own copy of its weights.

    Raises:
        ValueError: an output has another shape than the next input.
    """
    nodes: list[onnx.NodeProto] = []
    initializers: list[TensorProto] = []
    value = INPUT
    for index, model in enumerate(models):
        if index and input_shape(model) != output_shape(models[index - 1]):
            raise ValueError(
                f"graph {index} takes {input_shape(model)}, "
                f"the one before it gives {output_shape(models[index - 1])}"
            )
        result = OUTPUT if index == len(models) - 1 else f"{index}/{OUTPUT}"
        _append(nodes, initializers, model, str(index), value, result)
        value = result
    return _model(nodes, initializers, input_shape(models[0]), output_shape(models[-1]))


def pointwise(shape: Shape, *, seed: int = 0) -> onnx.ModelProto:
    """A 1x1 convolution that keeps the shape: what stands before a layer inside a network."""
    channels = shape[0]
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((channels, channels, 1, 1), dtype=np.float32) / channels**0.5
    bias = rng.standard_normal(channels, dtype=np.float32)
    node = helper.make_node(
        "Conv", [INPUT, "weight", "bias"], [OUTPUT], "pointwise", kernel_shape=[1, 1]
    )
    initializers = [_tensor(weight, "weight"), _tensor(bias, "bias")]
    return _model([node], initializers, (1, *shape), (1, *shape))


def _append(
    nodes: list[onnx.NodeProto],
    initializers: list[TensorProto],
    model: onnx.ModelProto,
    prefix: str,
    source: str,
    result: str,
) -> None:
    """Add the model under names of its own, from the value ``source`` to the value ``result``."""
    names = {
        "": "",  # an optional input that is left out
        model.graph.input[0].name: source,
        model.graph.output[0].name: result,
    }
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{prefix}/{node.name}"
        copy.input[:] = [names.get(name, f"{prefix}/{name}") for name in node.input]
        copy.output[:] = [names.get(name, f"{prefix}/{name}") for name in node.output]
        nodes.append(copy)
    for tensor in model.graph.initializer:
        renamed = TensorProto()
        renamed.CopyFrom(tensor)
        renamed.name = f"{prefix}/{tensor.name}"
        initializers.append(renamed)


def _model(
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[TensorProto],
    takes: Sequence[int],
    gives: Sequence[int],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, takes)],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, gives)],
        initializers,
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )


def _tensor(array: np.ndarray, name: str) -> TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(array), name)


def _group(node: onnx.NodeProto) -> onnx.AttributeProto | None:
    if node.op_type != "Conv":
        return None
    return next((it for it in node.attribute if it.name == "group"), None)


def _batch(value: onnx.ValueInfoProto) -> onnx.TensorShapeProto.Dimension:
    dimension: onnx.TensorShapeProto.Dimension = value.type.tensor_type.shape.dim[0]
    return dimension


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
