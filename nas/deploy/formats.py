"""The formats that ``nas export`` writes, each proven against torch before anything is written."""

from __future__ import annotations

import importlib
import runpy
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import onnx

from nas.architecture import Architecture
from nas.deploy.description import Description
from nas.deploy.quantize import Placement, WeightBits
from nas.errors import UserError

if TYPE_CHECKING:  # torch takes seconds to load, and the names of the formats are options
    from torch import Tensor, nn

    from nas.deploy.export import Examples

ExportFormat = Literal["onnx", "onnx-int8", "openvino", "python", "timm"]

SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "openvino": (".xml", ".bin"),
    "python": (".py", ".safetensors"),
    "timm": (".safetensors",),
}
"""The suffixes of the files that a format writes; ``--out`` names the first file."""


class Rounding(NamedTuple):
    """The needs of an int8 export: images, and where its runtime expects numbers to be rounded."""

    examples: Examples
    placement: Placement


class Exported(NamedTuple):
    """The files of an export, and its ``largest_difference`` from torch or its ``agreement``.

    ``weight_bits`` are those of an int8 network.
    """

    files: Mapping[Path, bytes]
    relative_difference: float | None = None
    agreement: float | None = None
    weight_bits: WeightBits | None = None


def files_of(form: ExportFormat, out: Path) -> tuple[Path, ...]:
    """The files that an export writes; raises UserError if ``out`` has a wrong suffix."""
    suffixes = SUFFIXES.get(form)
    if suffixes is None:
        return (out,)
    if out.suffix != suffixes[0]:
        others = "".join(f", with a {suffix}" for suffix in suffixes[1:])
        raise UserError(f"{out}: --format {form} writes a {suffixes[0]} file{others}")
    return tuple(out.with_suffix(suffix) for suffix in suffixes)


def export_network(
    architecture: Architecture,
    network: nn.Module,
    form: ExportFormat,
    out: Path,
    rounding: Rounding | None = None,
    *,
    description: Description | None = None,
    dynamic_batch: bool = False,
) -> Exported:
    """Export a network in evaluation mode; raises UserError unless the export computes the same.

    ``description`` is what the file says of the network; by default what the architecture tells.
    """
    from nas.deploy.export import (
        describe,
        require_finite_weights,
        require_parity,
        to_checked_int8,
        to_checked_onnx,
    )

    require_finite_weights(network)
    paths, shape = files_of(form, out), architecture.input_shape
    description = description or Description.of(architecture)
    if dynamic_batch and not form.startswith("onnx"):
        raise UserError(f"export: --dynamic-batch is for ONNX files, got --format {form}")
    if form == "python":
        files, loaded = _python(architecture, network, description)
        difference = require_parity(loaded, network, shape)
        return Exported(dict(zip(paths, files, strict=True)), difference)
    if form == "timm":
        data, loaded = _timm(architecture, network, description)
        return Exported({out: data}, require_parity(loaded, network, shape))
    model, difference = to_checked_onnx(network, shape, dynamic_batch=dynamic_batch)
    if form == "openvino":
        files = _to_openvino(model)
        difference = require_parity(_load_openvino(files), network, shape)
        return Exported(dict(zip(paths, files, strict=True)), difference)
    if form == "onnx-int8":
        assert rounding is not None
        model, share = to_checked_int8(model, network, *rounding)
        describe(model, description)
        bits = rounding.placement.weight_bits
        return Exported({out: model.SerializeToString()}, agreement=share, weight_bits=bits)
    describe(model, description)
    return Exported({out: model.SerializeToString()}, difference)


def import_openvino() -> Any:  # noqa: ANN401 - it is there or not
    """The module ``openvino``; raises UserError if it is not installed."""
    try:
        return importlib.import_module("openvino")
    except ImportError:
        raise UserError(
            "runtime 'openvino' is not installed; to install it: pip install \"slimnas[openvino]\""
        ) from None


def _to_openvino(model: onnx.ModelProto) -> tuple[bytes, bytes]:
    """OpenVINO's ``.xml`` of the model and the ``.bin`` beside it, in full precision."""
    openvino = import_openvino()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        converted = openvino.Core().read_model(model.SerializeToString(), b"")
        openvino.save_model(converted, str(path), compress_to_fp16=False)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def _load_openvino(files: tuple[bytes, bytes]) -> Callable[[Tensor], Tensor]:
    """The network of files from ``_to_openvino``, computing in float32: images to logits."""
    import torch

    core = import_openvino().Core()
    precision = {"INFERENCE_PRECISION_HINT": "f32"}  # its default is bfloat16
    compiled = core.compile_model(core.read_model(*files), "CPU", precision)
    return lambda images: torch.from_numpy(np.asarray(compiled([images.numpy()])[0]))


def _timm(
    architecture: Architecture, network: nn.Module, description: Description
) -> tuple[bytes, nn.Module]:
    """Weights by timm's names, which ``timm.create_model`` takes, and a network of them alone.

    It is timm's own where timm runs here. Raises UserError if timm has no such network.
    """
    from safetensors.torch import save

    from nas.deploy.timm import load_in_timm, load_timm_state_dict, name_in_timm, to_timm_state_dict
    from nas.deploy.weights import with_metadata
    from nas.network import build

    name = name_in_timm(architecture)
    if name is None:
        raise UserError(
            f"{architecture.name or 'the architecture'}: timm has no network of these layers, and "
            "could not load its weights; --format python writes a file that needs torch only"
        )
    state = to_timm_state_dict(network, architecture)
    loaded = load_in_timm(name, architecture, state)
    if loaded is None:
        loaded = build(architecture)
        load_timm_state_dict(loaded, architecture, state)
    told = {"architecture": name, "num_classes": str(architecture.classes)}
    return with_metadata(save(state), {**told, **description.metadata()}), loaded.eval()


def _python(
    architecture: Architecture, network: nn.Module, description: Description
) -> tuple[tuple[bytes, bytes], nn.Module]:
    """The source and the weights, and the network made of these alone."""
    from nas.deploy.standalone import source_file
    from nas.deploy.weights import save_weights

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "network.py"
        source.write_text(source_file(architecture), encoding="utf-8")
        save_weights(network, source.with_suffix(".safetensors"), description)
        loaded: nn.Module = runpy.run_path(str(source))["load"]()
        return (source.read_bytes(), source.with_suffix(".safetensors").read_bytes()), loaded
