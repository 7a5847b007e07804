"""Weights and models on disk as safetensors and ONNX; weights resized for another input size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn
from torch.nn.functional import interpolate

from nas.architecture import Architecture
from nas.deploy.description import Description
from nas.documents import write_atomically
from nas.errors import UserError
from nas.network import build

TYPES = {"F32": torch.float32, "I64": torch.int64}
"""The types in our files (https://github.com/huggingface/safetensors#format): weights, counters."""


def save_weights(network: nn.Module, path: Path, description: Description | None = None) -> None:
    """Write the network's state dict, atomically, and what the file shall say of the network."""
    write_weights(network.state_dict(), path, description)


def write_weights(
    state: Mapping[str, torch.Tensor], path: Path, description: Description | None = None
) -> None:
    """Write tensors, atomically."""
    # safetensors refuses views of shared memory
    tensors = {name: tensor.contiguous().clone() for name, tensor in state.items()}
    write_atomically(
        path, with_metadata(save(tensors), description.metadata() if description else {})
    )


def with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with metadata; ``save`` would write them in random order."""
    if not metadata:
        return content
    start = 8 + int.from_bytes(content[:8], "little")
    header = {"__metadata__": dict(metadata), **json.loads(content[8:start])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers behind it are aligned
    return len(text).to_bytes(8, "little") + text + content[start:]


def load_weights(network: nn.Module, path: Path) -> None:
    """Read weights into ``network``, in place.

    Raises UserError if they are not its own, or not finite.
    """
    state, own = read_weights(path), network.state_dict()
    problem = f"{path}: holds another architecture's weights:"
    for name, tensor in own.items():
        if name not in state:
            raise UserError(f"{problem} no '{name}' in it")
        if (shape := tuple(state[name].shape)) != (taken := tuple(tensor.shape)):
            raise UserError(f"{problem} '{name}' is {shape}, the architecture takes {taken}")
        if not bool(state[name].float().isfinite().all()):
            raise UserError(f"{path}: '{name}' holds numbers that are not finite")
    for name in state:
        if name not in own:
            raise UserError(f"{path}: '{name}' has no place in the architecture")
    network.load_state_dict(state)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, SafetensorError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path}: is no safetensors file: {error}") from None


# Needs torch alone: its definition goes into standalone source files.
def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file: the header's length, a JSON header, then the numbers."""
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        numbers = content[start + first : start + last]
        tensors[name] = torch.frombuffer(numbers, dtype=TYPES[entry["dtype"]]).view(entry["shape"])
    return tensors


def read_onnx(path: Path) -> onnx.ModelProto:
    """An ONNX model in its binary form, with weights that lie beside it, from a file.

    Raises UserError if there is none, or no valid one.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        model = onnx.load(path, format="protobuf")  # whatever the suffix promises
        onnx.checker.check_model(model)
    except MemoryError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: is no ONNX model: {reason}") from error
    return model


def resize_attention_biases(
    state_dict: Mapping[str, torch.Tensor],
    from_architecture: Architecture,
    to_architecture: Architecture,
) -> dict[str, torch.Tensor]:
    """The weights of a network, for the same layers on images of another size, to be trained on.

    Attention biases, one for each offset, are interpolated linearly between offsets: those of the
    least and the greatest offset keep their values. Raises UserError if the architectures differ in
    more than the input size, or the weights are not those of the first.
    """
    if from_architecture.layers != to_architecture.layers:
        raise UserError("resize: the architectures may differ in their input size only")
    before, after = _shapes(from_architecture), _shapes(to_architecture)
    for name, shape in before.items():
        given = tuple(state_dict[name].shape) if name in state_dict else "not there"
        if given != shape:
            raise UserError(
                f"resize: '{name}' must be {shape} at {from_architecture.input_size} px, "
                f"got {given}"
            )
    resized = dict(state_dict)
    for name, biases in state_dict.items():
        size = after.get(name, biases.shape)
        if biases.shape != size:  # (heads, dy, dx)
            exact = biases.detach().double()[None]
            found = interpolate(exact, size=size[1:], mode="bilinear", align_corners=True)
            resized[name] = found[0].to(biases.dtype)
    return resized


def _shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        network = build(architecture)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
