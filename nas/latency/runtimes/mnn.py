"""MNN (https://github.com/alibaba/MNN) on the CPU: written for ARM."""

from __future__ import annotations

from nas.latency.runtimes.base import RunnerRuntime


class Mnn(RunnerRuntime):
    """Computes in float32; it takes no ONNX in int8."""

    name = "mnn"
    works_in_caller = frozenset({"cpu"})
