"""Networks in OpenVINO's own format (https://docs.openvino.ai): a topology and its weights."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from nas.errors import UserError

if TYPE_CHECKING:  # torch takes seconds to load
    from torch import Tensor


def import_openvino() -> Any:  # noqa: ANN401 - it is there or not
    """The module ``openvino``; raises UserError if it is not installed."""
    try:
        return importlib.import_module("openvino")
    except ImportError:
        raise UserError(
            "runtime 'openvino' is not installed; to install it: pip install \"nas[openvino]\""
        ) from None


def to_openvino(model: onnx.ModelProto) -> tuple[bytes, bytes]:
    """The ``.xml`` of the model and the ``.bin`` beside it; all weights keep their precision."""
    openvino = import_openvino()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        converted = openvino.Core().read_model(model.SerializeToString(), b"")
        openvino.save_model(converted, str(path), compress_to_fp16=False)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def load_openvino(files: tuple[bytes, bytes]) -> Callable[[Tensor], Tensor]:
    """The network of files from ``to_openvino``, computing in float32: images to logits."""
    import torch

    core = import_openvino().Core()
    precision = {"INFERENCE_PRECISION_HINT": "f32"}  # its default is bfloat16
    compiled = core.compile_model(core.read_model(*files), "CPU", precision)
    return lambda images: torch.from_numpy(np.asarray(compiled([images.numpy()])[0]))
