"""OpenVINO (https://docs.openvino.ai) on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx

from nas.deploy.formats import import_openvino
from nas.deploy.quantize import FUSED_OPERATORS
from nas.latency import runner
from nas.latency.runtimes.base import RunnerRuntime, random_inputs


class OpenVino(RunnerRuntime):
    """Operators that are not quantized compute in float32."""

    name = "openvino"
    works_in_caller = frozenset({"cpu"})
    int8 = {"cpu": FUSED_OPERATORS}

    @classmethod
    def engine(cls) -> runner.Engine:
        import_openvino()  # says how to install it
        return super().engine()

    def request(self, model: onnx.ModelProto, options: Mapping[str, object]) -> Any:  # noqa: ANN401
        """The model compiled, with random inputs: an openvino.InferRequest."""
        content, inputs = model.SerializeToString(), random_inputs(model)
        return runner.openvino_request(content, inputs, self.provider, self.threads, options)
