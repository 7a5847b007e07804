"""Weights and models on disk as safetensors and ONNX; weights resized for another input size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from google.protobuf.message import DecodeError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn
from torch.nn import functional

from nas.architecture import Architecture
from nas.documents import write_atomically
from nas.errors import UserError
from nas.network import build

TYPES = {"F32": torch.float32, "I64": torch.int64}
"""The types in our files (https://github.com/huggingface/safetensors#format): weights, counters."""


def save_weights(network: nn.Module, path: Path) -> None:
    """Write the network's state dict, atomically."""
    write_weights(network.state_dict(), path)


def write_weights(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors, atomically."""
    # safetensors refuses views of shared memory
    tensors = {name: tensor.contiguous().clone() for name, tensor in state.items()}
    write_atomically(path, save(tensors))


def load_weights(network: nn.Module, path: Path) -> None:
    """Read weights into ``network``, in place.

    Raises:
        UserError: no such file, no safetensors, or weights of another architecture.
    """
    state = read_weights(path)
    own = network.state_dict()
    for name, tensor in own.items():
        if name not in state:
            raise UserError(f"{path}: holds another architecture's weights: no '{name}' in it")
        if state[name].shape != tensor.shape:
            raise UserError(
                f"{path}: holds another architecture's weights: '{name}' is "
                f"{tuple(state[name].shape)}, the architecture takes {tuple(tensor.shape)}"
            )
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
    except (OSError, SafetensorError) as error:
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
    """An ONNX model from a file.

    Raises:
        UserError: no such file, or no valid model.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, DecodeError, onnx.checker.ValidationError) as error:
        raise UserError(f"{path}: is no ONNX model: {str(error).splitlines()[0]}") from None
    return model


def resize_attention_biases(
    state_dict: Mapping[str, torch.Tensor],
    from_architecture: Architecture,
    to_architecture: Architecture,
) -> dict[str, torch.Tensor]:
    """The weights of a network, for the same layers on images of another size.

    Attention biases, one for each offset, are interpolated linearly between offsets: the bias of a
    pixel to itself and the bias from one corner of a map to the opposite one keep their values.
    Where maps, or windows, keep their size, and for all other tensors, the result holds the tensors
    given. The network should be trained on afterwards: no interpolation yields the weights that
    training at that size would have.

    Raises:
        UserError: the architectures differ in more than the input size, or the weights are not
            those of the first.
    """
    if from_architecture.layers != to_architecture.layers:
        raise UserError("resize: the architectures may differ in their input size only")
    before, after = _shapes(from_architecture), _shapes(to_architecture)
    for name, shape in before.items():
        found = tuple(state_dict[name].shape) if name in state_dict else "not there"
        if found != shape:
            raise UserError(
                f"resize: '{name}' must be {shape} at {from_architecture.input_size} px, "
                f"got {found}"
            )
    return {name: _resized(tensor, after.get(name)) for name, tensor in state_dict.items()}


def _resized(biases: torch.Tensor, shape: tuple[int, ...] | None) -> torch.Tensor:
    """Biases (heads, dy, dx) interpolated to ``shape``; the same tensor where it has that shape."""
    if shape is None or biases.shape == shape:
        return biases
    found = functional.interpolate(
        biases.detach().double()[None], size=shape[1:], mode="bilinear", align_corners=True
    )
    return found[0].to(biases.dtype)


def _shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        network = build(architecture)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
