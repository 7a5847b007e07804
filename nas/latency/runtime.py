"""Runtimes that execute ONNX models, and the target that a latency was measured on.

A further runtime is one class with ``version``, ``devices`` and ``prepare``, and its line in
``RUNTIMES``.
"""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import onnx
import onnxruntime
from pydantic import Field

from nas.documents import Value, did_you_mean
from nas.errors import UserError

Statistic = Literal["thread_cpu_quartile", "wall_median"]

# fmt: off
RELEVANT_FLAGS = (
    "avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
    "amx_tile", "amx_int8", "amx_bf16",
    "neon", "asimd", "asimddp", "fphp", "sve", "sve2", "i8mm", "bf16",
)
# fmt: on
"""CPU features that choose among a runtime's kernels."""


class Target(Value):
    """What a latency holds for: change any of these and the milliseconds change."""

    device: str
    cpu_model: str
    cpu_flags: tuple[str, ...]
    runtime: str
    runtime_version: str
    provider: str
    threads: Annotated[int, Field(gt=0)]
    precision: Literal["float32"] = "float32"
    batch: Literal[1] = 1
    statistic: Statistic

    def difference(self, other: Target) -> list[str]:
        """Each field that differs, as ``threads: 1 here, 2 there``; ``other`` is there."""
        return [
            f"{name}: {_text(getattr(self, name))} here, {_text(getattr(other, name))} there"
            for name in type(self).model_fields
            if getattr(self, name) != getattr(other, name)
        ]


class Runtime(ABC):
    """Something that executes ONNX models on a device."""

    def __init__(self, provider: str, threads: int) -> None:
        self.provider, self.threads = provider, threads

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """The installed version."""

    @classmethod
    @abstractmethod
    def devices(cls) -> Mapping[str, str]:
        """The devices that it can use here, with the name of the provider that drives each."""

    @abstractmethod
    def prepare(self, model: onnx.ModelProto) -> Callable[[], object]:
        """A function that runs ``model`` once, on the same random input each time."""


class OnnxRuntime(Runtime):
    """onnxruntime with all graph optimisations."""

    _providers: ClassVar[Mapping[str, str]] = {
        "cpu": "CPUExecutionProvider",
        "cuda": "CUDAExecutionProvider",
    }

    @classmethod
    def version(cls) -> str:
        return str(onnxruntime.__version__)

    @classmethod
    def devices(cls) -> Mapping[str, str]:
        installed = onnxruntime.get_available_providers()
        return {name: it for name, it in cls._providers.items() if it in installed}

    def prepare(self, model: onnx.ModelProto) -> Callable[[], object]:
        session = self._session(model, self._options())
        binding = session.io_binding()
        rng = np.random.default_rng(0)
        for value in model.graph.input:
            shape = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
            binding.bind_cpu_input(value.name, rng.standard_normal(shape, dtype=np.float32))
        for value in model.graph.output:
            binding.bind_output(value.name)
        return lambda: session.run_with_iobinding(binding)

    def operators(self, model: onnx.ModelProto) -> Counter[str]:
        """How often each operator stands in the graph that is executed, after all fusions."""
        options = self._options()
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "optimised.onnx")
            options.optimized_model_filepath = path
            self._session(model, options)
            return Counter(node.op_type for node in onnx.load(path).graph.node)

    def _options(self) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # it warns of optimised graphs that it writes itself
        # threads that spin for work starve the other open sessions: 11.8 ms instead of 0.85
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def _session(
        self, model: onnx.ModelProto, options: onnxruntime.SessionOptions
    ) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=[self.provider]
        )


RUNTIMES: Mapping[str, type[Runtime]] = {"onnxruntime": OnnxRuntime}


def make_runtime(target: Target) -> Runtime:
    """The runtime of a target, with its provider and threads."""
    return RUNTIMES[target.runtime](target.provider, target.threads)


def detect_target(device: str = "cpu", *, runtime: str = "onnxruntime", threads: int = 1) -> Target:
    """The target that measurements on this machine hold for.

    Raises:
        UserError: no such runtime, or no such device on this machine; lists those there are.
    """
    if runtime not in RUNTIMES:
        hint = did_you_mean(runtime, RUNTIMES)
        raise UserError(f"runtime '{runtime}' is not known{hint}; known: {', '.join(RUNTIMES)}")
    adapter = RUNTIMES[runtime]
    devices = adapter.devices()
    if device not in devices:
        raise UserError(
            f"device '{device}' is not available to {runtime} {adapter.version()} here; "
            f"available: {', '.join(devices)}"
        )
    cores = _usable_cores()
    if not 1 <= threads <= cores:
        raise UserError(f"threads: must be 1 to {cores}, the cores of this machine, got {threads}")
    return Target(
        device=device,
        cpu_model=cpu_model(),
        cpu_flags=cpu_flags(),
        runtime=runtime,
        runtime_version=adapter.version(),
        provider=devices[device],
        threads=threads,
        statistic="thread_cpu_quartile" if _clock_fits(device, threads) else "wall_median",
    )


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    name = _cpuinfo().get("model name", "")
    if not name and platform.system() == "Darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return name or platform.processor() or platform.machine()


def cpu_flags() -> tuple[str, ...]:
    """Those of ``RELEVANT_FLAGS`` that this processor has; the architecture's name first."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return (platform.machine(), *(flag for flag in RELEVANT_FLAGS if flag in flags))


def _cpuinfo() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _clock_fits(device: str, threads: int) -> bool:
    """Whether the calling thread does all the work, and its CPU clock can tell microseconds.

    With one thread its CPU time is the latency without pre-emption.
    """
    return device == "cpu" and threads == 1 and time.get_clock_info("thread_time").resolution < 1e-6


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
