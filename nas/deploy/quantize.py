"""Int8 networks: rounded weights and activations as QuantizeLinear, DequantizeLinear pairs in ONNX.

Convolutions and linear layers with weights compute in int8; the operators between them stay in
float32: rounding those as well makes networks slower. onnxruntime's own ``quantize_static`` makes
the same integers, but takes 100 times as long: too long for the probes of latency tables.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from nas.errors import UserError

Precision = Literal["float32", "int8"]
WeightBits = Literal[7, 8]
"""Of the integers that stand for weights, with their sign."""

Ranges = Mapping[str, tuple[float, float]]
"""The least and the greatest number of each activation, by name."""

WEIGHTED = ("Conv", "Gemm", "MatMul")
"""Operators that compute in int8 where their second input is a weight."""


class Placement(NamedTuple):
    """Whether outputs of convolutions and biases are rounded too: then all numbers are integers.

    Weights have ``weight_bits``, with their sign. Two products of 8 bits overflow the 16 bits in
    which x86 adds them where it has no VNNI, which spoils more than a third of the predictions;
    with 7 bits they fit: 2 * 255 * 63 < 2**15.
    """

    outputs: bool
    weight_bits: WeightBits = 8


INTEGER_OPERATORS = Placement(outputs=True)
"""onnxruntime has kernels for convolutions from integers to integers only."""

FUSED_OPERATORS = Placement(outputs=False)
"""OpenVINO goes on in float32 within an operator, up to the activation behind it."""


class AffineScale(NamedTuple):
    """number = step * (integer - zero), with one or many steps."""

    step: np.ndarray
    zero: np.ndarray


def cpu_session(
    model: onnx.ModelProto, *, optimised: bool = True, threads: int = 1
) -> onnxruntime.InferenceSession:
    """A session of onnxruntime; optimising takes most of the time of a first run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def precision_of(model: onnx.ModelProto) -> Precision:
    """``int8`` where a part of the model computes in integers."""
    rounded = any(node.op_type == "DequantizeLinear" for node in model.graph.node)
    return "int8" if rounded else "float32"


def weighted_operators(model: onnx.ModelProto) -> list[tuple[str, tuple[int, ...]]]:
    """Operators with weights, and the shapes of these: a network's are the same in int8."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    sources = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
    }
    found = []
    for node in model.graph.node:
        if node.op_type in WEIGHTED:
            name = sources.get(node.input[1], node.input[1])
            if name in shapes:
                found.append((node.op_type, shapes[name]))
    return found


def quantize(model: onnx.ModelProto, images: np.ndarray, placement: Placement) -> onnx.ModelProto:
    """The same network in int8; ``images`` (N, C, H, W) determine the ranges of activations.

    Activations are rounded to unsigned 8 bits, weights to signed ones, symmetric, each output
    channel on its own scale: x86 has fast kernels for this pair only.
    """
    return _Quantizer(model, images, placement).quantized()


def activation_scale(low: float, high: float) -> AffineScale:
    """Unsigned 8 bits for numbers between ``low`` and ``high``; zero is exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = np.asarray((high - low) / 255 or 1.0, np.float32)
    return AffineScale(step, np.asarray(np.round(-low / step), np.uint8))


def weight_scale(weight: np.ndarray, axis: int, bits: int = 8) -> AffineScale:
    """Signed integers of so many bits, symmetric, a scale for each index along ``axis``."""
    others = tuple(other for other in range(weight.ndim) if other != axis)
    step = np.abs(weight).max(others).astype(np.float32) / np.float32(largest_integer(bits))
    step[step == 0] = 1.0
    return AffineScale(step, np.zeros(step.shape, np.int8))


def largest_integer(bits: int) -> int:
    """Of signed integers of so many bits."""
    return int(2 ** (bits - 1) - 1)


class _Quantizer:
    """One model on its way to int8: the nodes and initializers of the new graph."""

    def __init__(self, model: onnx.ModelProto, images: np.ndarray, placement: Placement) -> None:
        self.model, self.placement = model, placement
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        names = _rounded_values(model, self.weights, placement)
        ranges = measure_ranges(model, images, names)
        self.scales = {name: activation_scale(*ranges[name]) for name in names}

    def quantized(self) -> onnx.ModelProto:
        renamed = {}
        for value in self.model.graph.input:
            if value.name in self.scales:
                renamed[value.name] = f"{value.name}/rounded"
                self._round(value.name, value.name, renamed[value.name])
        for node in self.model.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            if _is_weighted(node, self.weights):
                self._round_weights(copy)
            copy.input[:] = [renamed.get(name, name) for name in copy.input]
            rounded = [name for name in node.output if name in self.scales]
            copy.output[:] = [f"{name}/exact" if name in rounded else name for name in node.output]
            self.nodes.append(copy)
            for name in rounded:
                self._round(name, f"{name}/exact", name)
        found = onnx.ModelProto()
        found.CopyFrom(self.model)
        del found.graph.node[:], found.graph.initializer[:], found.graph.value_info[:]
        found.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in self.model.graph.initializer if tensor.name in used]
        found.graph.initializer.extend([*kept, *self.initializers.values()])
        return found

    def _round(self, name: str, source: str, result: str) -> None:
        """Add two nodes from ``source`` to ``result``, with the scale of the value ``name``."""
        scale, integer = self._scale(name, self.scales[name]), f"{name}/integer"
        self.nodes.append(helper.make_node("QuantizeLinear", [source, *scale], [integer]))
        self.nodes.append(helper.make_node("DequantizeLinear", [integer, *scale], [result]))

    def _round_weights(self, node: onnx.NodeProto) -> None:
        """Put integers in place of the node's weight, and of its bias where outputs are rounded."""
        transposed = any(option.name == "transB" and option.i for option in node.attribute)
        axis = 0 if transposed or node.op_type == "Conv" else 1  # of the output channels
        source = self.scales[node.input[0]]
        weight = numpy_helper.to_array(self.weights[node.input[1]])
        bits = self.placement.weight_bits
        scale = weight_scale(weight, axis, bits)
        has_bias = self.placement.outputs and len(node.input) > 2 and bool(node.input[2])
        if has_bias:
            bias = numpy_helper.to_array(self.weights[node.input[2]])
            # a bias must fit into 32 bits of its own step, which is that of the products
            least = np.abs(bias) / (source.step * np.float32(2**30))
            scale = scale._replace(step=np.maximum(scale.step, least.astype(np.float32)))
            product = AffineScale(source.step * scale.step, np.zeros(scale.step.shape, np.int32))
            integers = np.round(bias / product.step).astype(np.int32)
            node.input[2] = self._constant(node.input[2], integers, product, axis=0)
        steps = scale.step.reshape([-1 if place == axis else 1 for place in range(weight.ndim)])
        most = largest_integer(bits)
        integers = np.clip(np.round(weight / steps), -most, most).astype(np.int8)
        node.input[1] = self._constant(node.input[1], integers, scale, axis=axis)

    def _constant(self, name: str, integers: np.ndarray, scale: AffineScale, *, axis: int) -> str:
        """Add integers that are read through a scale; returns the name of the resulting numbers."""
        inputs = [self._add(f"{name}/integer", integers), *self._scale(name, scale)]
        result = f"{name}/rounded"
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [result], axis=axis))
        return result

    def _scale(self, name: str, scale: AffineScale) -> Sequence[str]:
        return self._add(f"{name}/step", scale.step), self._add(f"{name}/zero", scale.zero)

    def _add(self, name: str, array: np.ndarray) -> str:
        self.initializers[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name


def measure_ranges(model: onnx.ModelProto, images: np.ndarray, names: Sequence[str]) -> Ranges:
    """The least and the greatest number that each of the named values takes on the images."""
    source = model.graph.input[0].name
    inner = [name for name in names if name != source]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inner]
    del watched.graph.output[:]
    watched.graph.output.extend(outputs)
    session = cpu_session(watched, optimised=False)
    found: dict[str, tuple[float, float]] = {}
    for image in images[:, None]:
        values = [image, *session.run(inner, {source: image})]
        for name, value in zip([source, *inner], values, strict=True):
            if not np.isfinite(value).all():
                raise UserError(
                    f"the float32 network gives numbers in '{name}' that are not finite"
                )
            low, high = found.get(name, (np.inf, -np.inf))
            found[name] = min(low, float(value.min())), max(high, float(value.max()))
    if not found:
        raise ValueError("no images to take the ranges of activations from")
    return found


def _rounded_values(
    model: onnx.ModelProto, weights: Collection[str], placement: Placement
) -> list[str]:
    """The activations that are rounded: inputs of weighted operators, outputs of convolutions.

    Of a convolution before a ReLU the ReLU's output is rounded instead: they are one operator.
    """
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    names = []
    for node in model.graph.node:
        if _is_weighted(node, weights):
            names.append(node.input[0])
            if placement.outputs and node.op_type == "Conv":
                following = consumers.get(node.output[0], [])
                alone = [consumer.op_type for consumer in following] == ["Relu"]
                names.append((following[0] if alone else node).output[0])
    return list(dict.fromkeys(names))


def _is_weighted(node: onnx.NodeProto, weights: Collection[str]) -> bool:
    return node.op_type in WEIGHTED and node.input[1] in weights
