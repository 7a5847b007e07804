"""onnxruntime (https://onnxruntime.ai) with all graph optimisations."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from nas.deploy.quantize import INTEGER_OPERATORS
from nas.errors import UserError
from nas.latency.runtimes.base import Runtime, random_inputs


class OnnxRuntime(Runtime):
    """Any execution provider that is installed: ``CUDAExecutionProvider`` is the device cuda."""

    works_in_caller = frozenset({"cpu"})
    int8 = {"cpu": INTEGER_OPERATORS}

    @classmethod
    def version(cls) -> str:
        return str(onnxruntime.__version__)

    @classmethod
    def devices(cls) -> Mapping[str, str]:
        names = {
            provider.removesuffix("ExecutionProvider").lower(): provider
            for provider in onnxruntime.get_available_providers()
        }
        names.pop("azure", None)  # a service that the wheels list and cannot call
        return names

    def prepare(self, model: onnx.ModelProto) -> Callable[[], object]:
        session = self._session(model, self._options())
        inputs = dict(random_inputs(model))
        return lambda: session.run(None, inputs)

    def profile(self, model: onnx.ModelProto, runs: int) -> list[Mapping[str, float]] | None:
        if self.provider != "CPUExecutionProvider":
            return None  # other providers return before their kernels have run
        options = self._options()
        options.enable_profiling = True
        with tempfile.TemporaryDirectory() as folder:
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = self._session(model, options)
            inputs = dict(random_inputs(model))
            for _ in range(runs):
                session.run(None, inputs)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return _by_run(events)

    def operators(self, model: onnx.ModelProto) -> Counter[str]:
        """How often each operator occurs in the graph that is executed, after all fusions."""
        options = self._options()
        with tempfile.TemporaryDirectory() as folder:
            path = options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
            self._session(model, options)
            return Counter(node.op_type for node in onnx.load(path).graph.node)

    def _options(self) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors are raised
        # threads that spin for work starve the other open sessions
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def _session(
        self, model: onnx.ModelProto, options: onnxruntime.SessionOptions
    ) -> onnxruntime.InferenceSession:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=[self.provider]
        )
        if self.provider not in session.get_providers():  # it falls back to the CPU in silence
            raise UserError(f"onnxruntime lists {self.provider}, but cannot start it here")
        return session


def _by_run(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, float]]:
    """The kernels of each run, summed by kind, in ms; the event of a run follows its kernels."""
    found: list[Mapping[str, float]] = []
    kinds: Counter[str] = Counter()
    for event in sorted(events, key=lambda it: int(it["ts"]) + int(it["dur"])):
        if event["name"] == "model_run":
            found.append({kind: us / 1000 for kind, us in kinds.items()})
            kinds = Counter()
        elif event["name"].endswith("_kernel_time"):
            kinds[_kind(event["args"])] += int(event["dur"])
    return found


def _kind(arguments: Mapping[str, Any]) -> str:
    kind = str(arguments["op_name"])
    if not kind.endswith("Conv"):
        return kind
    (image,), (weight,) = (shape.values() for shape in arguments["input_type_shape"][:2])
    if weight[1] == 1 < image[1]:  # (out, in per group, height, width)
        return "Conv depthwise"
    return "Conv 1x1" if weight[2:] == [1, 1] else "Conv"
