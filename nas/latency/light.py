"""Graphs as they are sent: the runner makes up the weights that are random anyway.

A line of JSON stands before such a graph: where which numbers are missing. ``filled`` in
``nas.latency.runner`` puts others in their place.
"""

from __future__ import annotations

import json
from collections.abc import Collection

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


def lighten(model: onnx.ModelProto, random: Collection[str]) -> bytes:
    """A model serialised, without its large weights of these names, in float32 or in int8."""
    content: bytes = model.SerializeToString()
    kept, fills, place, size = list[bytes](), list[tuple[int, int, str, float, float]](), 0, 0
    for tensor in model.graph.initializer:
        raw = tensor.raw_data
        if tensor.name.removesuffix(INTEGERS) not in random or len(raw) < LEAST_BYTES:
            continue
        start = content.index(raw, place)
        kept.append(content[place:start])
        size, place = size + start - place, start + len(raw)
        dtype = DTYPES[tensor.data_type]
        values = np.frombuffer(raw, dtype)
        mean, deviation = (float(f"{it:.6g}") for it in (values.mean(), SHRINK * values.std()))
        fills.append((size, values.size, dtype, mean, deviation))
    if not fills:
        return content
    kept.append(content[place:])
    return b"".join([json.dumps({"fills": fills}).encode(), b"\n", *kept])
