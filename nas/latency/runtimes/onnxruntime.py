"""onnxruntime (https://onnxruntime.ai): any execution provider that is installed."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime

from nas.deploy.quantize import INTEGER_OPERATORS
from nas.latency.runtimes.base import RunnerRuntime


class OnnxRuntime(RunnerRuntime):
    """``CUDAExecutionProvider`` is the device cuda."""

    name = "onnxruntime"
    works_in_caller = frozenset({"cpu"})
    int8 = {"cpu": INTEGER_OPERATORS}

    def operators(self, model: onnx.ModelProto) -> Counter[str]:
        """How often each operator occurs in the graph that is executed, after all fusions."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are raised
        with tempfile.TemporaryDirectory() as folder:
            path = options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
            onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=[self.provider]
            )
            return Counter(node.op_type for node in onnx.load(path).graph.node)
