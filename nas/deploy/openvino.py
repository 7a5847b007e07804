"""Networks in OpenVINO's own format (https://docs.openvino.ai): a topology and its weights."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from nas.errors import UserError


class OpenVinoFiles(NamedTuple):
    """The contents of the ``.xml`` and of the ``.bin`` beside it."""

    topology: bytes
    weights: bytes


def import_openvino() -> Any:  # noqa: ANN401 - it is there or not
    """The module ``openvino``.

    Raises:
        UserError: it is not installed; the message holds the command that installs it.
    """
    try:
        return importlib.import_module("openvino")
    except ImportError:
        raise UserError(
            "runtime 'openvino' is not installed; to install it: pip install \"nas[openvino]\""
        ) from None


def to_openvino(model: onnx.ModelProto) -> OpenVinoFiles:
    """The model in OpenVINO's format; all weights keep their precision."""
    openvino = import_openvino()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        converted = openvino.Core().read_model(model.SerializeToString(), b"")
        openvino.save_model(converted, str(path), compress_to_fp16=False)
        return OpenVinoFiles(path.read_bytes(), path.with_suffix(".bin").read_bytes())


class OpenVinoNetwork:
    """A network of files from ``to_openvino``, computing in float32."""

    def __init__(self, files: OpenVinoFiles) -> None:
        core = import_openvino().Core()
        self.compiled = core.compile_model(
            core.read_model(files.topology, files.weights),
            "CPU",
            {"INFERENCE_PRECISION_HINT": "f32"},  # its default is bfloat16
        )

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(self.compiled([images])[0])
