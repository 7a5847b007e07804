"""Whether a runtime computes on a device what onnxruntime computes here."""

from __future__ import annotations

import math

import numpy as np
import onnx

from nas.errors import UserError
from nas.latency import runner
from nas.latency.device import BY_HAND
from nas.latency.target import Target
from nas.latency.visits import ask_of_graph, pack

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
    for name, difference in differences(graph, target).items():
        if not difference <= BOUND:
            raise UserError(
                f"{place.name}: {target.runtime} {target.runtime_version} computes another "
                f"'{name}' than {REFERENCE} does here: it differs by {difference:.1e} of the "
                f"largest number, more than {BOUND:.0e}"
            )


def differences(graph: onnx.ModelProto, target: Target) -> dict[str, float]:
    """By how much each output differs, as a share of its largest number; empty if none is told."""
    told = ask_of_graph("compute", graph, target)["outputs"]
    expected = _expected(graph, target) if told else {}
    return {name: _difference(np.array(told[name]), it) for name, it in expected.items()}


def _expected(graph: onnx.ModelProto, target: Target) -> dict[str, np.ndarray]:
    """The outputs here, thinned as the runner does."""
    packed, content = pack(graph, target)
    inputs, engine = runner.made_up(packed.inputs), runner.start_engine(REFERENCE)
    found = engine.compute(runner.filled(content), inputs, "CPUExecutionProvider", 1)
    return {name: np.array(runner.thinned(values)) for name, values in found.items()}


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        return math.inf
    return float(np.abs(found - expected).max() / np.abs(expected).max())
