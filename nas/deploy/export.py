"""Networks and layers as ONNX, and the proof that they compute the same."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from nas.errors import UserError
from nas.layers import Shape
from nas.network import fold

OPSET = 20
"""The first opset with Gelu as one operator (https://onnx.ai/onnx/operators/onnx__Gelu.html)."""

INPUT, OUTPUT = "images", "logits"

PARITY_BOUND = 1e-4
"""Largest difference from torch, relative to the largest output, that counts as rounding."""


def to_onnx(module: nn.Module, input_shape: Shape) -> onnx.ModelProto:
    """The module for inference on one image of ``input_shape``: float32, norms folded.

    The input is called ``images``, the output ``logits``; the initializers are named as the tensors
    of ``fold(module)``. Weights are inside the file.
    """
    return export_folded(fold(module), input_shape)


def export_folded(module: nn.Module, input_shape: Shape) -> onnx.ModelProto:
    """``to_onnx`` of a module that is folded already."""
    with _silence():
        program = torch.onnx.export(
            module.float().cpu(),
            (torch.zeros(1, *input_shape),),
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
        )
    assert program is not None
    model = program.model_proto
    del model.graph.value_info[:]  # shapes between the nodes: the runtime infers them
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces of the exporter, with paths of this machine
        node.doc_string = ""
        for attribute in node.attribute:
            # they differ for results of one pixel only, and onnxruntime's blocked layout, which
            # halves the time, knows one of them
            if attribute.s == b"pytorch_half_pixel":
                attribute.s = b"half_pixel"
    return model


def to_checked_onnx(module: nn.Module, input_shape: Shape) -> tuple[onnx.ModelProto, float]:
    """``to_onnx`` and its ``parity``.

    Raises:
        UserError: the parity is above ``PARITY_BOUND``.
    """
    model = to_onnx(module, input_shape)
    difference = parity(model, module, input_shape)
    if not difference <= PARITY_BOUND:
        raise UserError(
            f"exported network differs from torch's by {difference:.1e} of the largest logit, "
            f"more than {PARITY_BOUND:.0e}"
        )
    return model, difference


def parity(
    model: onnx.ModelProto, module: nn.Module, input_shape: Shape, *, seed: int = 0, images: int = 3
) -> float:
    """Largest difference between ``model`` and the unfolded ``module``, over the largest output.

    Both run in float32 on ``images`` random inputs; 1e-4 and less is rounding.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    module = copy.deepcopy(module).float().cpu().eval()
    generator = torch.Generator().manual_seed(seed)
    difference = scale = 0.0
    for _ in range(images):
        x = torch.randn(1, *input_shape, generator=generator)
        with torch.no_grad():
            expected = module(x).numpy()
        (result,) = session.run(None, {model.graph.input[0].name: x.numpy()})
        if result.shape != expected.shape:
            raise ValueError(f"output of shape {result.shape}, expected {expected.shape}")
        difference = max(difference, float(np.abs(result - expected).max()))
        scale = max(scale, float(np.abs(expected).max()))
    return difference / scale if scale else difference


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The exporter prints progress, and warns of its own use of torch; neither is for users."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
