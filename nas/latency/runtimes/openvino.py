"""OpenVINO (https://docs.openvino.ai) on the CPU, its default of bfloat16 turned off."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import onnx

from nas.deploy.formats import import_openvino
from nas.deploy.quantize import FUSED_OPERATORS
from nas.latency.runtimes.base import Runtime, random_inputs


class OpenVino(Runtime):
    """One stream; operators that are not quantized compute in float32."""

    works_in_caller = frozenset({"cpu"})
    int8 = {"cpu": FUSED_OPERATORS}

    @classmethod
    def version(cls) -> str:
        # 2026.4.1-22982-e213a147257-releases/2026/4: the rest describes the build
        return str(import_openvino().get_version()).split("-")[0]

    @classmethod
    def devices(cls) -> Mapping[str, str]:
        return {"cpu": "CPU"} if "CPU" in import_openvino().Core().available_devices else {}

    def prepare(self, model: onnx.ModelProto) -> Callable[[], object]:
        infer: Callable[[], object] = self.request(model, {}).infer
        return infer

    def profile(self, model: onnx.ModelProto, runs: int) -> list[Mapping[str, float]] | None:
        request = self.request(model, {"PERF_COUNT": True})
        found: list[Mapping[str, float]] = []
        for _ in range(runs):
            request.infer()
            kinds: defaultdict[str, float] = defaultdict(float)
            for node in request.get_profiling_info():
                kinds[_kind(node)] += node.real_time.total_seconds() * 1000
            found.append({kind: ms for kind, ms in kinds.items() if ms > 0})
        return found

    def request(self, model: onnx.ModelProto, options: Mapping[str, object]) -> Any:  # noqa: ANN401
        """The model compiled, with random inputs: an openvino.InferRequest."""
        openvino = import_openvino()
        core = openvino.Core()
        compiled = core.compile_model(
            core.read_model(model.SerializeToString(), b""),
            self.provider,
            {
                "INFERENCE_PRECISION_HINT": "f32",
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1,
                "INFERENCE_NUM_THREADS": self.threads,
                **options,
            },
        )
        request = compiled.create_inferrequest()
        for name, values in random_inputs(model).items():
            request.set_tensor(name, openvino.Tensor(values))
        return request


def _kind(node: Any) -> str:  # noqa: ANN401
    """Operators that are fused into a node count with it, such as GELU with its convolution."""
    kind = str(node.node_type)
    if kind == "GroupConvolution":
        return "Conv depthwise"
    if kind == "Convolution":
        return "Conv 1x1" if "1x1" in node.exec_type else "Conv"
    return kind
