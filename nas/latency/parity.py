"""Whether a runtime computes on a device what onnxruntime computes here."""

from __future__ import annotations

import math

import numpy as np
import onnx

from nas.errors import UserError
from nas.latency import runner
from nas.latency.device import BY_HAND
from nas.latency.graphs import with_batch
from nas.latency.runtimes.base import random_inputs
from nas.latency.target import Target
from nas.latency.visits import ask_of_graph

REFERENCE = "onnxruntime"

BOUND = 5e-3
"""Of the largest number. MNN's approximate functions err by up to 4e-4, bfloat16 by 1e-2."""


def require_same_result(graph: onnx.ModelProto, target: Target) -> None:
    """Raise UserError if the outputs for one random input differ.

    Not compared are the reference itself, GPUs, which round more, int8, which runtimes round at
    different places, devices that are measured by hand, and runtimes that return no outputs.
    """
    place = target.place
    is_reference = target.runtime == REFERENCE and place.is_plain
    rounds = place.kind != "cpu" or target.precision == "int8"
    if is_reference or rounds or place.carrier == BY_HAND:
        return
    told = ask_of_graph("compute", graph, target)["outputs"]
    for name, expected in _expected(with_batch(graph, target.batch)).items() if told else ():
        difference = _difference(np.array(told[name]), expected)
        if not difference <= BOUND:
            raise UserError(
                f"{place.name}: {target.runtime} {target.runtime_version} computes another "
                f"'{name}' than {REFERENCE} does here: it differs by {difference:.1e} of the "
                f"largest number, more than {BOUND:.0e}"
            )


def _expected(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The outputs, thinned as the runner does."""
    engine = runner.start_engine(REFERENCE)
    content, inputs = model.SerializeToString(), random_inputs(model)
    found = engine.compute(content, inputs, "CPUExecutionProvider", 1)
    return {name: np.array(runner.thinned(values)) for name, values in found.items()}


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        return math.inf
    return float(np.abs(found - expected).max() / np.abs(expected).max())
