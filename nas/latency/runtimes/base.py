"""The interface of a runtime whose networks can be measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np
import onnx

from nas.deploy.quantize import Placement
from nas.errors import UserError


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


def random_inputs(model: onnx.ModelProto) -> Mapping[str, np.ndarray]:
    """The same float32 numbers at each call, for each input by its name, which has a fixed size."""
    rng = np.random.default_rng(0)
    found = {}
    for value in model.graph.input:
        sizes = value.type.tensor_type.shape.dim
        shape = [size.dim_value for size in sizes]
        if not all(shape):
            text = " x ".join(str(size.dim_param or size.dim_value) for size in sizes)
            raise UserError(f"input '{value.name}' has no fixed size: {text}; export it with one")
        found[value.name] = rng.standard_normal(shape, dtype=np.float32)
    return found
