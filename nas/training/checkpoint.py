"""A checkpoint: one safetensors file with weights and optimizer, its JSON state in the header."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from nas.documents import Value
from nas.errors import UserError

STATE_KEY = "nas"
MODEL, OPTIMIZER = "model.", "optimizer."


class State(Value):
    """Where a training stands. Everything random in an epoch is drawn from (seed, epoch).

    ``epoch`` counts finished epochs; ``teacher`` is what the largest subnet knows, see
    ``distillation_share``; ``recipe_sha256`` identifies space, data and settings.
    """

    epoch: int
    teacher: float
    accuracies: dict[str, float]
    recipe_sha256: str


def save_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer, state: State) -> None:
    """Write beside ``path`` and rename: the previous checkpoint lasts until this one is complete.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    tensors = {MODEL + name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for field, tensor in optimizer.state.get(parameter, {}).items():
            tensors[f"{OPTIMIZER}{name}.{field}"] = tensor.contiguous()
    temporary = path.with_name(f".{path.name}.partial")  # one name: a kill leaves one at most
    try:
        save_file(tensors, temporary, metadata={STATE_KEY: state.model_dump_json()})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"{path}: cannot be written: {reason}") from None
    finally:
        temporary.unlink(missing_ok=True)


def read_state(path: Path) -> State:
    """The state of a checkpoint, from its header alone."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(STATE_KEY, "")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    try:
        return State.model_validate_json(text)
    except ValidationError:
        raise UserError(f"{path}: is no checkpoint of nas train-supernet") from None


def load_model(path: Path, model: nn.Module) -> None:
    """Load the weights.

    Raises:
        UserError: the file holds other tensors than the model.
    """
    tensors = _tensors(path, MODEL)
    expected = model.state_dict()
    for name in (*expected, *tensors):
        if name not in expected or name not in tensors:
            side = "lacks" if name not in tensors else "has an unknown"
            raise UserError(f"{path}: holds the weights of another network: {side} tensor '{name}'")
        if expected[name].shape != tensors[name].shape:
            raise UserError(
                f"{path}: holds the weights of another network: '{name}' must be "
                f"{tuple(expected[name].shape)}, got {tuple(tensors[name].shape)}"
            )
    model.load_state_dict(tensors)


def load_optimizer(path: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Load what ``save_checkpoint`` wrote of an optimizer over the same model."""
    fields: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _tensors(path, OPTIMIZER).items():
        name, _, field = key.rpartition(".")
        fields.setdefault(name, {})[field] = tensor
    names = {parameter: name for name, parameter in model.named_parameters()}
    parameters = [it for group in optimizer.param_groups for it in group["params"]]
    state = {
        index: {
            field: _laid_out_as(parameter, tensor)
            for field, tensor in fields[names[parameter]].items()
        }
        for index, parameter in enumerate(parameters)
        if names[parameter] in fields
    }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _laid_out_as(parameter: Tensor, tensor: Tensor) -> Tensor:
    """In the parameter's memory format: fused optimizers walk through both as through one array."""
    if tensor.shape != parameter.shape:
        return tensor  # a number of steps
    return torch.empty_like(parameter, requires_grad=False).copy_(tensor)


def _tensors(path: Path, prefix: str) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {
                key.removeprefix(prefix): torch.as_tensor(file.get_tensor(key))
                for key in file.keys()  # noqa: SIM118 - no mapping
                if key.startswith(prefix)
            }
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
