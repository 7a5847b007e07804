"""The interface of a runtime whose networks can be measured."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import numpy as np
import onnx

from nas.deploy.quantize import Placement
from nas.errors import UserError
from nas.latency import runner

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


class RunnerRuntime(Runtime):
    """A runtime that the runner knows: it works on every device."""

    name: ClassVar[str]
    """In ``nas.latency.runner.ENGINES``."""

    @classmethod
    def engine(cls) -> runner.Engine:
        """The runtime in this process; raises UserError if it is not installed."""
        try:
            return runner.start_engine(cls.name)
        except runner.Refusal as error:
            raise UserError(str(error)) from None

    @classmethod
    def version(cls) -> str:
        return cls.engine().version

    @classmethod
    def devices(cls) -> Mapping[str, str]:
        return cls.engine().devices

    def prepare(self, model: onnx.ModelProto) -> Callable[[], object]:
        content, inputs = model.SerializeToString(), random_inputs(model)
        try:
            return self.engine().prepare(content, inputs, self.provider, self.threads)
        except runner.Refusal as error:
            raise UserError(str(error)) from None

    def profile(self, model: onnx.ModelProto, runs: int) -> list[Mapping[str, float]] | None:
        content, inputs = model.SerializeToString(), random_inputs(model)
        found = self.engine().profile(content, inputs, self.provider, self.threads, runs)
        return None if found is None else list(found)


MOST_NUMBERS = 100_000_000
"""Of one input: a hundred photos of a telephone."""


class InputKind(NamedTuple):
    """An input of a fixed size, and numpy's name of the numbers that it holds."""

    name: str
    shape: tuple[int, ...]
    number: str


def random_inputs(model: onnx.ModelProto) -> Mapping[str, np.ndarray]:
    """The same numbers at each call, for each input by its name; integers are zeros.

    Raises UserError for inputs without a fixed size, or of other things than numbers.
    """
    return runner.made_up(input_kinds(model))


def input_kinds(model: onnx.ModelProto) -> list[InputKind]:
    """What a model takes; raises UserError as ``random_inputs`` does."""
    found = [_kind(value) for value in inputs_of(model)]
    if not found:
        raise UserError("takes no input")
    return found


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """What a user feeds: early versions of ONNX list weights among the inputs, too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _kind(value: onnx.ValueInfoProto) -> InputKind:
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
    return InputKind(value.name, tuple(shape), NUMBERS[number])
