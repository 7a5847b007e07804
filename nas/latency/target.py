"""The target that a latency holds for: device, runtime, threads, precision, batch, processor."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import onnx
from pydantic import Field

from nas.deploy.quantize import Placement, Precision, precision_of, quantize
from nas.documents import Value, did_you_mean
from nas.errors import UserError
from nas.latency.runtimes import RUNTIMES, Runtime
from nas.latency.runtimes.base import random_inputs
from nas.machine import usable_cores

ClockName = Literal["thread_cpu", "wall"]

# fmt: off
RELEVANT_FLAGS = (
    "avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
    "amx_tile", "amx_int8", "amx_bf16",
    "neon", "asimd", "asimddp", "fphp", "sve", "sve2", "i8mm", "bf16",
)
# fmt: on
"""CPU features that choose among a runtime's kernels."""

X86 = ("x86_64", "AMD64", "i686")
VNNI = {"avx_vnni", "avx512_vnni", "amx_int8"}
"""Features of x86 that add products of 8 bits in 32: without one sums of 16 bits may overflow."""

NVIDIA_DEVICES = ("cuda", "tensorrt", "nvtensorrtrtx")
"""The devices of onnxruntime's providers for NVIDIA's GPUs."""


class Target(Value):
    """The conditions of a latency; ``accelerator`` is empty where the CPU does the work."""

    device: str
    accelerator: str = ""
    cpu_model: str
    cpu_flags: tuple[str, ...]
    runtime: str
    runtime_version: str
    provider: str
    threads: Annotated[int, Field(gt=0)]
    precision: Precision = "float32"
    batch: Annotated[int, Field(gt=0)] = 1
    clock: ClockName

    @property
    def hardware(self) -> str:
        """The name of the accelerator, or of the processor where there is none."""
        return self.accelerator or self.cpu_model

    def difference(self, other: Target) -> list[str]:
        """Each field that differs, as ``threads: 1 here, 2 there``; "there" is ``other``."""
        return [
            f"{name}: {_text(getattr(self, name))} here, {_text(getattr(other, name))} there"
            for name in type(self).model_fields
            if getattr(self, name) != getattr(other, name)
        ]


def make_runtime(target: Target) -> Runtime:
    """The target's runtime with the target's provider and threads."""
    return RUNTIMES[target.runtime](target.provider, target.threads)


def detect_target(
    device: str = "cpu",
    *,
    runtime: str = "onnxruntime",
    threads: int = 1,
    batch: int = 1,
    precision: Precision = "float32",
) -> Target:
    """This machine's target; raises UserError if it lacks the runtime, device, int8 or cores."""
    if runtime not in RUNTIMES:
        hint = did_you_mean(runtime, RUNTIMES)
        raise UserError(f"runtime '{runtime}' is not known{hint}; known: {', '.join(RUNTIMES)}")
    adapter = RUNTIMES[runtime]
    version, devices = adapter.version(), adapter.devices()
    if device not in devices:
        raise UserError(
            f"device '{device}' is not available to {runtime} {version} here; "
            f"available: {', '.join(devices)}"
        )
    if precision == "int8" and device not in adapter.int8:
        raise UserError(
            f"precision 'int8' is not available to {runtime} on device '{device}'; "
            f"available on: {', '.join(adapter.int8) or 'none'}"
        )
    cores = usable_cores()
    if not 1 <= threads <= cores:
        raise UserError(f"threads: must be 1 to {cores}, the cores at hand, got {threads}")
    in_caller = threads == 1 and device in adapter.works_in_caller
    has_fine_clock = time.get_clock_info("thread_time").resolution < 1e-6  # seconds
    return Target(
        device=device,
        accelerator=accelerator(device),
        cpu_model=cpu_model(),
        cpu_flags=cpu_flags(),
        runtime=runtime,
        runtime_version=version,
        provider=devices[device],
        threads=threads,
        precision=precision,
        batch=batch,
        clock="thread_cpu" if in_caller and has_fine_clock else "wall",
    )


def detect_again(target: Target) -> Target:
    """The target of this machine with the device, runtime, threads, batch, precision of another."""
    asked = {"device", "runtime", "threads", "batch", "precision"}
    return detect_target(**target.model_dump(include=asked))


def accelerator(device: str) -> str:
    """The name of the GPU behind a device of NVIDIA's; empty for other devices."""
    if device not in NVIDIA_DEVICES:
        return ""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
    command = ["nvidia-smi", f"--id={first}", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"device '{device}': nvidia-smi does not report its name: {error}"
        ) from None


def in_precision(model: onnx.ModelProto, target: Target) -> onnx.ModelProto:
    """The model as the target computes it; a quantized model is returned unchanged."""
    if target.precision == "float32" or precision_of(model) == "int8":
        return model
    (image,) = random_inputs(model).values()  # its values do not matter to latency
    return quantize(model, np.asarray(image), placement(target))


def placement(target: Target) -> Placement:
    """How the runtime of an int8 target expects numbers to be rounded; no sum overflows."""
    found = RUNTIMES[target.runtime].int8[target.device]
    machine, *flags = target.cpu_flags
    overflows = machine in X86 and not VNNI & set(flags)
    return found._replace(weight_bits=7) if overflows else found


def cpu_model() -> str:
    """The processor's name as the system reports it."""
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


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value) or "none"
