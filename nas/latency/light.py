"""Graphs as they are sent: the runner makes up the weights that are random anyway.

A line of JSON stands before such a graph: where which numbers are missing. ``filled`` in
``nas.latency.runner`` puts others in their place.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto

MARK = "random, of nas"
"""The description of weights that mean nothing."""

SHRINK = 0.5
"""Of the deviation of weights. Biases cancel the mean of what the layer's own weights add, not of
what others do: where a ReLU follows, numbers would grow from layer to layer by a fifth, and large
ones make weights of attention below 1e-38, with which some CPUs compute ten times slower
(benchmarks/README.md)."""

LEAST_BYTES = 1024
"""Of weights that are left out: smaller ones are sent."""

DTYPES = {int(TensorProto.FLOAT): "<f4", int(TensorProto.INT8): "i1"}
INTEGERS = "/integer"
"""Behind the name of weights that were rounded to int8."""

Message = onnx.ModelProto | onnx.GraphProto | TensorProto


def marked(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model, whose large weights are marked as random; vectors stay as they are."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    for tensor in found.graph.initializer:
        if tensor.data_type in DTYPES and len(tensor.dims) > 1:
            tensor.doc_string = MARK
    return found


def random_weights(model: onnx.ModelProto) -> set[str]:
    """The names of the weights that are marked."""
    return {tensor.name for tensor in model.graph.initializer if tensor.doc_string == MARK}


class Light(NamedTuple):
    """A graph as it is sent, and the bytes that it has when it is whole."""

    content: bytes
    size: int


def lighten(model: onnx.ModelProto, random: Collection[str]) -> Light:
    """A model serialised, without its large weights of these names, in float32 or in int8.

    Fields may stand in any order (https://protobuf.dev/programming-guides/encoding), so each
    message ends with what is left out of it, and weights are not copied to be serialised.
    """
    parts, fills = list[bytes](), list[tuple[int, int, str, float, float]]()
    size = missing = 0
    for tensor in model.graph.initializer:
        raw = tensor.raw_data if tensor.name.removesuffix(INTEGERS) in random else b""
        if len(raw) < LEAST_BYTES:
            raw, own = b"", tensor.SerializeToString()
        else:
            own = _without(tensor, "raw_data") + _header(tensor, "raw_data", len(raw))
        parts.append(_header(model.graph, "initializer", len(own) + len(raw)) + own)
        size, missing = size + len(parts[-1]), missing + len(raw)
        if raw:
            dtype = DTYPES[tensor.data_type]
            values = np.frombuffer(raw, dtype)
            mean, deviation = (float(f"{it:.6g}") for it in (values.mean(), SHRINK * values.std()))
            fills.append((size, values.size, dtype, mean, deviation))
    if not fills:
        whole: bytes = model.SerializeToString()
        return Light(whole, len(whole))
    graph = _without(model.graph, "initializer")
    header = _header(model, "graph", len(graph) + size + missing)
    start = _without(model, "graph") + header + graph
    places = [(len(start) + place, *fill) for place, *fill in fills]
    content = b"".join([json.dumps({"fills": places}).encode(), b"\n", start, *parts])
    return Light(content, len(start) + size + missing)


def _without(message: Message, field: str) -> bytes:
    """A message serialised without one of its fields."""
    found = type(message)()
    for each, value in message.ListFields():
        if each.name == field:
            continue
        if isinstance(value, (bool, int, float, str, bytes)):
            setattr(found, each.name, value)
        else:
            getattr(found, each.name).MergeFrom(value)
    content: bytes = found.SerializeToString()
    return content


def _header(message: Message, field: str, size: int) -> bytes:
    """What stands before so many bytes of a field."""
    return _varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | 2) + _varint(size)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])
