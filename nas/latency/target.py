"""The target that a latency holds for: device, runtime, threads, precision, batch, processor."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import onnx
from pydantic import Field

from nas.deploy.quantize import Placement, Precision, WeightBits, precision_of, quantize
from nas.documents import GrownValue, Value, did_you_mean
from nas.errors import UserError
from nas.latency import runner
from nas.latency.device import Device, reach
from nas.latency.runtimes import RUNTIMES, RunnerRuntime
from nas.latency.runtimes.base import random_inputs

ClockName = Literal["thread_cpu", "wall"]

X86 = ("x86_64", "AMD64", "i686")
VNNI = {"avx_vnni", "avx512_vnni", "amx_int8"}
"""Features of x86 that add products of 8 bits in 32: without one sums of 16 bits may overflow."""

HOW_REACHED = ("python", "workdir")
"""Fields of a target that latencies do not depend on."""


class Target(GrownValue):
    """The conditions of a latency; ``accelerator`` is empty where the CPU does the work.

    ``device``, ``python``, ``workdir`` and ``cores`` are those of ``nas.latency.device.Device``.
    """

    later = frozenset({"cores", "python", "workdir"})

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
    cores: str = ""
    python: str = ""
    workdir: str = ""

    @property
    def place(self) -> Device:
        """Where graphs run."""
        return Device(name=self.device, python=self.python, workdir=self.workdir, cores=self.cores)

    @property
    def hardware(self) -> str:
        """The name of the accelerator, or of the processor where there is none."""
        return self.accelerator or self.cpu_model

    def difference(self, other: Target) -> list[str]:
        """Each field that differs, as ``threads: 1 here, 2 there``; "there" is ``other``."""
        return [
            f"{name}: {_text(getattr(self, name))} here, {_text(getattr(other, name))} there"
            for name in type(self).model_fields
            if name not in HOW_REACHED and getattr(self, name) != getattr(other, name)
        ]


class Facts(Value):
    """What a device tells of itself and of a runtime there."""

    runtime_version: str
    devices: dict[str, str]
    works_in_caller: tuple[str, ...]
    cpu_model: str
    cpu_flags: tuple[str, ...]
    accelerator: str
    cores: tuple[int, ...]
    has_fine_clock: bool


def detect_target(
    device: str | Device = "cpu",
    *,
    runtime: str = "onnxruntime",
    threads: int = 1,
    batch: int = 1,
    precision: Precision = "float32",
) -> Target:
    """The target that a device is; raises UserError if it lacks the runtime, int8 or cores."""
    if runtime not in RUNTIMES:
        hint = did_you_mean(runtime, RUNTIMES)
        raise UserError(f"runtime '{runtime}' is not known{hint}; known: {', '.join(RUNTIMES)}")
    place = Device(name=device) if isinstance(device, str) else device
    facts = ask_facts(place, runtime)
    if place.kind not in facts.devices:
        version, there = facts.runtime_version, ", ".join(facts.devices)
        if place.carrier:
            raise UserError(
                f"device '{place.name}' is not available to {runtime} {version} there; "
                f"available: {there}"
            )
        raise UserError(
            f"device '{place.name}' is not available to {runtime} {version} here; "
            f"available: {there}"
        )
    require_precision(precision, runtime, place)
    if not 1 <= threads <= len(facts.cores):
        most = f"{len(facts.cores)}, the cores at hand"
        raise UserError(f"threads: must be 1 to {most}, got {threads}")
    return Target(
        device=place.name,
        accelerator=facts.accelerator,
        cpu_model=facts.cpu_model,
        cpu_flags=facts.cpu_flags,
        runtime=runtime,
        runtime_version=facts.runtime_version,
        provider=facts.devices[place.kind],
        threads=threads,
        precision=precision,
        batch=batch,
        clock=clock_of(
            threads=threads,
            works_in_caller=place.kind in facts.works_in_caller,
            is_fine=facts.has_fine_clock,
        ),
        cores=place.cores,
        python=place.python,
        workdir=place.workdir,
    )


def require_precision(precision: Precision, runtime: str, place: Device) -> None:
    """Raise UserError unless the runtime computes in it on a device."""
    there = RUNTIMES[runtime].int8
    if precision == "int8" and place.kind not in there:
        raise UserError(
            f"precision 'int8' is not available to {runtime} on device '{place.kind}'; "
            f"available on: {', '.join(there) or 'none'}"
        )


def clock_of(*, threads: int, works_in_caller: bool, is_fine: bool) -> ClockName:
    """The clock that tells latency without pre-emption, if the calling thread does all the work."""
    return "thread_cpu" if threads == 1 and works_in_caller and is_fine else "wall"


def detect_again(target: Target) -> Target:
    """The target of that device now, with the runtime, threads, batch, precision of another."""
    asked = {"runtime", "threads", "batch", "precision"}
    return detect_target(target.place, **target.model_dump(include=asked))


def ask_facts(place: Device, runtime: str) -> Facts:
    """What a device tells; this process's own Python is asked without another process."""
    adapter = RUNTIMES[runtime]
    if not place.is_plain and issubclass(adapter, RunnerRuntime):
        request = {"do": "describe", "runtime": runtime, "device": place.kind, "checks": True}
        told: dict[str, Any] = reach(place).ask(request)
        return Facts(**{name: told[name] for name in Facts.model_fields})
    if not place.is_plain:
        raise UserError(f"runtime '{runtime}' runs on this machine only, in the Python of nas")
    version, devices = adapter.version(), adapter.devices()
    return Facts(
        runtime_version=version,
        devices=dict(devices),
        works_in_caller=tuple(adapter.works_in_caller),
        cpu_model=cpu_model(),
        cpu_flags=cpu_flags(),
        accelerator=accelerator(place.kind) if place.kind in devices else "",
        cores=tuple(runner.usable_cores()),
        has_fine_clock=runner.has_fine_clock(),
    )


def accelerator(device: str) -> str:
    """The name of the GPU behind a device of NVIDIA's; empty for other devices."""
    try:
        return runner.accelerator(device)
    except runner.Refusal as error:
        raise UserError(str(error)) from None


def in_precision(model: onnx.ModelProto, target: Target) -> onnx.ModelProto:
    """The model as the target computes it; a quantized model is returned unchanged."""
    if target.precision == "float32" or precision_of(model) == "int8":
        return model
    (image,) = random_inputs(model).values()  # its values do not matter to latency
    return quantize(model, np.asarray(image), placement(target))


def placement(target: Target, bits: WeightBits | None = None) -> Placement:
    """How the runtime of an int8 target expects numbers to be rounded.

    Without ``bits`` weights have as many as let no sum overflow there; a target that nobody has
    asked yet may be any processor.
    """
    found = RUNTIMES[target.runtime].int8[target.place.kind]
    machine, *flags = target.cpu_flags or X86[:1]
    overflows = machine in X86 and not VNNI & set(flags)
    return found._replace(weight_bits=bits or (7 if overflows else 8))


def cpu_model() -> str:
    """The processor's name as the system reports it."""
    return runner.cpu_model()


def cpu_flags() -> tuple[str, ...]:
    """The features of this processor that matter; the architecture's name first."""
    return tuple(runner.cpu_flags())


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value) or "none"
