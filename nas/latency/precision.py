"""Graphs in the precision of a target: what is measured for an int8 table is computed in int8."""

from __future__ import annotations

import numpy as np
import onnx

from nas.deploy.quantize import Placement, precision_of, quantize
from nas.latency.runtime import Target
from nas.latency.runtimes import RUNTIMES
from nas.latency.runtimes.base import random_inputs


def in_precision(model: onnx.ModelProto, target: Target) -> onnx.ModelProto:
    """The model as the target computes it; one that is quantized already is taken as it is.

    A graph is quantized as a whole, so that between its layers there is what is there in a network.
    Latency does not depend on values: one random image shows the ranges of the activations.
    """
    if target.precision == "float32" or precision_of(model) == "int8":
        return model
    (image,) = random_inputs(model).values()
    return quantize(model, np.asarray(image), placement(target))


def placement(target: Target) -> Placement:
    """Where the runtime of an int8 target wants numbers to be rounded."""
    return RUNTIMES[target.runtime].int8[target.device]
