"""The interface of a runtime whose networks can be measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import onnx

from nas.deploy.quantize import Placement
from nas.errors import UserError


class Runtime(ABC):
    """Executes ONNX models on a device, with so many threads."""

    works_in_caller: ClassVar[frozenset[str]] = frozenset()
    """Devices on which, with one thread, the calling thread does all the work.

    Its CPU time is then the latency without pre-emption. A test holds it for every runtime.
    """

    int8: ClassVar[Mapping[str, Placement]] = {}
    """Devices on which it computes in int8, and where it expects numbers to be rounded."""

    def __init__(self, provider: str, threads: int) -> None:
        self.provider, self.threads = provider, threads

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """The installed version.

        Raises:
            UserError: it is not installed; the message holds the command that installs it.
        """

    @classmethod
    @abstractmethod
    def devices(cls) -> Mapping[str, str]:
        """The available devices, with the name of the provider that drives each."""

    @abstractmethod
    def prepare(self, model: onnx.ModelProto) -> Callable[[], object]:
        """A function that runs ``model`` once, on the same random input each time."""

    def profile(self, model: onnx.ModelProto, runs: int) -> list[Mapping[str, float]] | None:
        """For each run, the milliseconds of each kind of operator; None without a profiler.

        Kinds are named as the runtime names them, except that convolutions are ``Conv 1x1``,
        ``Conv depthwise`` or ``Conv``.
        """
        del model, runs
        return None


def random_inputs(model: onnx.ModelProto) -> Mapping[str, np.ndarray]:
    """The same float32 numbers at each call, for each input by its name.

    Raises:
        UserError: an input has no fixed size.
    """
    rng = np.random.default_rng(0)
    return {
        value.name: rng.standard_normal(_shape(value), dtype=np.float32)
        for value in model.graph.input
    }


def _shape(value: onnx.ValueInfoProto) -> Sequence[int]:
    shape = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
    if not all(shape):
        names = [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        sizes = " x ".join(map(str, names))
        raise UserError(f"input '{value.name}' has no fixed size: {sizes}; export it with one")
    return shape
