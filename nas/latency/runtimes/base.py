"""The interface of a runtime whose networks can be measured."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np
import onnx

from nas.deploy.quantize import Placement
from nas.errors import UserError

NUMBERS = {
    "FLOAT": "float32",
    "FLOAT16": "float16",
    "DOUBLE": "float64",
    "BOOL": "bool",
    **{f"INT{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
}
"""The numbers that an input may hold, by ONNX's names and numpy's."""


class Runtime(ABC):
    """Executes ONNX models on a device, with so many threads."""

    works_in_caller: ClassVar[frozenset[str]] = frozenset()
    """Devices where a single thread is the caller: its CPU time is latency without pre-emption."""

    int8: ClassVar[Mapping[str, Placement]] = {}
    """Devices on which it computes in int8, and where it expects numbers to be rounded."""

    def __init__(self, provider: str, threads: int) -> None:
        self.provider, self.threads = provider, threads

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """The installed version; raises UserError if there is none."""

    @classmethod
    @abstractmethod
    def devices(cls) -> Mapping[str, str]:
        """The available devices, with the name of the provider that drives each."""

    @abstractmethod
    def prepare(self, model: onnx.ModelProto) -> Callable[[], object]:
        """A function that runs ``model`` once, on the same random input each time."""

    def profile(self, model: onnx.ModelProto, runs: int) -> list[Mapping[str, float]] | None:
        """For each run, the ms of each kind of operator; None without a profiler.

        Kinds have the runtime's names, or ``Conv 1x1``, ``Conv depthwise`` and ``Conv``.
        """
        del model, runs
        return None


MOST_NUMBERS = 100_000_000
"""Of one input: a hundred photos of a telephone."""


def random_inputs(model: onnx.ModelProto) -> Mapping[str, np.ndarray]:
    """The same numbers at each call, for each input by its name; integers are zeros.

    Raises UserError for inputs without a fixed size, or of other things than numbers.
    """
    rng = np.random.default_rng(0)
    found = {value.name: _random(value, rng) for value in inputs_of(model)}
    if not found:
        raise UserError("takes no input")
    return found


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """What a user feeds: early versions of ONNX list weights among the inputs, too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _random(value: onnx.ValueInfoProto, rng: np.random.Generator) -> np.ndarray:
    name, kind = f"input '{value.name}'", value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise UserError(f"{name} is no tensor, but {str(kind or 'nothing').removesuffix('_type')}")
    tensor = value.type.tensor_type
    number = onnx.TensorProto.DataType.Name(tensor.elem_type)
    if number not in NUMBERS:
        raise UserError(f"{name} holds {number.lower()}; must hold {', '.join(NUMBERS.values())}")
    sizes = tensor.shape.dim
    shape = [size.dim_value for size in sizes]
    if not (tensor.HasField("shape") and all(size > 0 for size in shape)):
        text = " x ".join(str(size.dim_param or size.dim_value) for size in sizes) or "unknown"
        raise UserError(f"{name} has no fixed size: {text}; export it with one")
    if (count := math.prod(shape)) > MOST_NUMBERS:
        raise UserError(f"{name} has {count:,} numbers, the most are {MOST_NUMBERS:,}")
    dtype = np.dtype(NUMBERS[number])
    if dtype.kind != "f":
        return np.zeros(shape, dtype)
    return np.asarray(rng.standard_normal(shape, dtype=np.float32), dtype)
