"""Runtimes that execute ONNX models; a further one is one file and its line in ``RUNTIMES``."""

from __future__ import annotations

from collections.abc import Mapping

from nas.latency.runtimes.base import RunnerRuntime, Runtime
from nas.latency.runtimes.mnn import Mnn
from nas.latency.runtimes.onnxruntime import OnnxRuntime
from nas.latency.runtimes.openvino import OpenVino

RUNTIMES: Mapping[str, type[Runtime]] = {
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "mnn": Mnn,
}

__all__ = ["RUNTIMES", "Mnn", "OnnxRuntime", "OpenVino", "RunnerRuntime", "Runtime"]
