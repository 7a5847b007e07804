"""Weights and models on disk: safetensors and ONNX; nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from google.protobuf.message import DecodeError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from nas.documents import write_atomically
from nas.errors import UserError


def save_weights(network: nn.Module, path: Path) -> None:
    """Write the network's state dict, atomically."""
    write_weights(network.state_dict(), path)


def write_weights(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors, atomically."""
    # safetensors refuses views of shared memory
    write_atomically(path, save({name: it.contiguous().clone() for name, it in state.items()}))


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
