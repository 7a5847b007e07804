"""Networks and layers as ONNX, and the proof that they compute what torch computes."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
import onnx.utils
import torch
from torch import nn

from nas.deploy.description import Description
from nas.deploy.quantize import Placement, cpu_session, quantize
from nas.errors import UserError
from nas.families import Shape
from nas.network import fold

OPSET = 20
"""The first opset with Gelu as one operator (https://onnx.ai/onnx/operators/onnx__Gelu.html)."""

INPUT, OUTPUT, BATCH = "images", "logits", "batch"

PARITY_BOUND = 1e-4
"""Largest difference from torch, relative to the largest output, that counts as rounding."""

ROUNDING_MARGIN = 4
"""Times torch's own error in float32 that an export may have where that is above the bound."""

DYNAMIC_BATCHES = (1, 3)
"""The numbers of images that prove a model of an open batch size."""

MOST_ROUNDING = 1e-2
"""An error above which no float32 result shows what a network computes."""

IN_TORCH, EXPORTED = "the network in torch", "the exported network"
"""The sides of a proof, for messages."""

LEAST_AGREEMENT = 0.8
"""Share of images for which an int8 network must predict the class of the float32 network."""


def to_onnx(
    module: nn.Module, input_shape: Shape, *, dynamic_batch: bool = False
) -> onnx.ModelProto:
    """The module for one image, in float32; initializers have the names of ``fold(module)``.

    With ``dynamic_batch`` for any number of images at once.
    """
    if dynamic_batch:
        return _export(fold(module), [input_shape], [INPUT], [OUTPUT], dynamic_batch=True)
    return export_folded(fold(module), input_shape)


def export_folded(module: nn.Module, input_shape: Shape) -> onnx.ModelProto:
    """``to_onnx`` of a module whose norms are folded already."""
    return _export(module, [input_shape], [INPUT], [OUTPUT])


def export_together(
    modules: Sequence[nn.Module], input_shapes: Sequence[Shape]
) -> list[onnx.ModelProto]:
    """``export_folded`` of several modules in one go, which saves seconds for each of them."""
    inputs, outputs = (
        [f"{name}_{index}" for index in range(len(modules))] for name in (INPUT, OUTPUT)
    )
    model = _export(_SideBySide(modules), input_shapes, inputs, outputs)
    extractor = onnx.utils.Extractor(model)
    found = []
    for index, ends in enumerate(zip(inputs, outputs, strict=True)):
        part = extractor.extract_model([ends[0]], [ends[1]])
        _rename(part, {ends[0]: INPUT, ends[1]: OUTPUT}, prefix=f"modules_.{index}.")
        found.append(part)
    return found


class _SideBySide(nn.Module):
    """Modules that each have an input and an output of their own."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.modules_ = nn.ModuleList(modules)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(module(x) for module, x in zip(self.modules_, inputs, strict=True))


def _rename(model: onnx.ModelProto, names: Mapping[str, str], *, prefix: str) -> None:
    """Rename values, and take a prefix off all others."""

    def renamed(name: str) -> str:
        return names.get(name, name.removeprefix(prefix))

    graph = model.graph
    for node in graph.node:
        node.input[:] = map(renamed, node.input)
        node.output[:] = map(renamed, node.output)
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = renamed(value.name)


def _export(
    module: nn.Module,
    input_shapes: Sequence[Shape],
    inputs: list[str],
    outputs: list[str],
    *,
    dynamic_batch: bool = False,
) -> onnx.ModelProto:
    images = 2 if dynamic_batch else 1  # a size of 1 would be taken for a fixed one
    # a named size is held to what the tracer deduces of it, which is false for attention over
    # several heads: torch.onnx.export then fixes the size without a word
    batch = {0: torch.export.Dim.DYNAMIC}
    with _silence():
        program = torch.onnx.export(
            module.float().cpu(),
            tuple(torch.zeros(images, *shape) for shape in input_shapes),
            dynamic_shapes=tuple(batch for _ in input_shapes) if dynamic_batch else None,
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
            input_names=inputs,
            output_names=outputs,
        )
    assert program is not None
    model = program.model_proto
    if dynamic_batch:
        _open_batch(model)
    del model.graph.value_info[:]  # shapes between the nodes: the runtime infers them
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces of the exporter, with paths of this machine
        node.doc_string = ""
        for attribute in node.attribute:
            # the two differ for results of one pixel only, and onnxruntime's blocked layout, which
            # halves the time, supports half_pixel
            if attribute.s == b"pytorch_half_pixel":
                attribute.s = b"half_pixel"
    return model


def _open_batch(model: onnx.ModelProto) -> None:
    """Call the number of images ``batch``; raises UserError if the exporter has fixed it."""
    for value in (*model.graph.input, *model.graph.output):
        size = value.type.tensor_type.shape.dim[0]
        if not size.dim_param:
            raise UserError(
                f"--dynamic-batch: torch {torch.__version__} exports this network for "
                f"{size.dim_value} images at once only; leave it out"
            )
        size.dim_param = BATCH


def describe(model: onnx.ModelProto, description: Description) -> None:
    """Write into a model's metadata what a user needs to feed it and to read its logits."""
    onnx.helper.set_model_props(model, description.metadata())


class Examples(NamedTuple):
    """Images (N, C, H, W), normalised: some to calibrate an int8 network, others to judge it."""

    calibration: torch.Tensor
    judged: torch.Tensor


class OnnxNetwork(nn.Module):
    """A model as a module: images (N, C, H, W) to logits (N, classes), whatever its batch size.

    Raises UserError, which names it by ``name``, if it does not run.
    """

    def __init__(
        self, model: onnx.ModelProto, *, threads: int = 1, name: str = "the model"
    ) -> None:
        super().__init__()
        self.session, self.name = cpu_session(model, threads=threads), name
        entry, *_ = self.session.get_inputs()
        self.input_name, (self.batch, *_) = entry.name, entry.shape

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.float().cpu().contiguous().numpy()
        size = self.batch if isinstance(self.batch, int) else len(pixels)  # an open one is a name
        # a model of a fixed batch size takes its own, the last one filled up
        padding = np.zeros((-len(pixels) % size, *pixels.shape[1:]), np.float32)
        padded = np.concatenate([pixels, padding]) if len(padding) else pixels
        try:
            logits = [
                self.session.run(None, {self.input_name: padded[start : start + size]})[0]
                for start in range(0, len(padded), size)
            ]
        except Exception as error:  # noqa: BLE001 - onnxruntime raises many types
            reason = str(error).splitlines()[0]
            raise UserError(f"{self.name}: onnxruntime does not run it: {reason}") from None
        return torch.from_numpy(np.concatenate(logits)[: len(pixels)])


def to_checked_onnx(
    module: nn.Module, input_shape: Shape, *, dynamic_batch: bool = False
) -> tuple[onnx.ModelProto, float]:
    """``to_onnx`` and its ``require_parity``."""
    model = to_onnx(module, input_shape, dynamic_batch=dynamic_batch)
    sizes = DYNAMIC_BATCHES if dynamic_batch else (1,)
    return model, require_parity(OnnxNetwork(model), module, input_shape, sizes)


def to_checked_int8(
    model: onnx.ModelProto, module: nn.Module, examples: Examples, placement: Placement
) -> tuple[onnx.ModelProto, float]:
    """The model in int8 and its ``agreement``; raises UserError below ``LEAST_AGREEMENT``."""
    found = quantize(model, examples.calibration.numpy(), placement)
    share = agreement(OnnxNetwork(found), module, examples.judged)
    if not share >= LEAST_AGREEMENT:
        raise UserError(
            f"int8 network predicts the class of the float32 network for {100 * share:.1f} % of "
            f"{len(examples.judged)} images, fewer than {100 * LEAST_AGREEMENT:g} %"
        )
    return found, share


def agreement(network: nn.Module, module: nn.Module, images: torch.Tensor) -> float:
    """The share of images, in [0, 1], for which both predict the same class."""
    module = copy.deepcopy(module).float().cpu().eval()
    with torch.no_grad():
        same = []
        for batch in torch.split(images.float(), 64):
            found = _finite(EXPORTED, network(batch)).argmax(1)
            same.append(found == _finite(IN_TORCH, module(batch)).argmax(1))
    return float(torch.cat(same).float().mean())


def require_parity(
    run: Callable[[torch.Tensor], torch.Tensor],
    module: nn.Module,
    input_shape: Shape,
    batches: Sequence[int] = (1,),
) -> float:
    """The ``largest_difference``; raises UserError if rounding does not explain it.

    Above ``PARITY_BOUND`` float64 decides: where a network magnifies the rounding of float32,
    torch's own result is as far from the exact one as the export's.
    """
    difference = largest_difference(run, module, input_shape, batches=batches)
    if difference <= PARITY_BOUND:
        return difference
    reference = copy.deepcopy(module).float().cpu().eval()

    def from_exact(found: Callable[[torch.Tensor], torch.Tensor]) -> float:
        return largest_difference(found, module, input_shape, dtype=torch.float64, batches=batches)

    rounding, error = from_exact(reference), from_exact(run)
    if not error <= min(ROUNDING_MARGIN * rounding, MOST_ROUNDING):
        raise UserError(
            f"exported network differs from torch's by {difference:.1e} of the largest logit, "
            f"more than {PARITY_BOUND:.0e}, and by {error:.1e} from the result in float64, of "
            f"which torch misses {rounding:.1e}"
        )
    return difference


def largest_difference(
    run: Callable[[torch.Tensor], torch.Tensor],
    module: nn.Module,
    input_shape: Shape,
    *,
    dtype: torch.dtype = torch.float32,
    batches: Sequence[int] = (1,),
) -> float:
    """Largest difference of ``run`` from ``module`` in ``dtype``, over the largest output.

    Each batch size sees three batches of random images. Raises UserError if one of them gives a
    number that is not finite, which equals nothing.
    """
    module = copy.deepcopy(module).to(dtype).cpu().eval()
    generator = torch.Generator().manual_seed(0)
    difference = scale = 0.0
    for images in [size for size in batches for _ in range(3)]:
        x = torch.randn(images, *input_shape, generator=generator)
        with torch.no_grad():
            expected, result = module(x.to(dtype)), run(x)
        if result.shape != expected.shape:
            raise ValueError(
                f"output of shape {tuple(result.shape)}, expected {tuple(expected.shape)}"
            )
        expected, result = _finite(IN_TORCH, expected), _finite(EXPORTED, result)
        difference = max(difference, float((result - expected).abs().max()))
        scale = max(scale, float(expected.abs().max()))
    return difference / scale if scale else difference


def require_finite_weights(network: nn.Module) -> None:
    """Raise UserError, naming the tensor, if a weight is NaN or infinite.

    What a network computes need not show it: an input may never reach that weight.
    """
    for name, tensor in network.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise UserError(f"{IN_TORCH} has numbers in '{name}' that are not finite")


def _finite(side: str, numbers: torch.Tensor) -> torch.Tensor:
    if not bool(numbers.isfinite().all()):
        raise UserError(f"{side} gives numbers that are not finite (NaN or infinity)")
    return numbers


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Hide the exporter's progress and its warnings of its own use of torch."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
