"""A checkpoint: one safetensors file with weights and optimizer, its JSON state in the header.

The one before it is kept as ``previous.safetensors``. Each file carries the hashes of its tensors.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from nas.documents import Value
from nas.errors import UserError, writing
from nas.store.lock import PARTIAL

if TYPE_CHECKING:  # torch takes seconds to load, and a folder can be opened without it
    from torch import Tensor, nn
    from torch.optim import Optimizer

HEADER_KEY = "nas"
"""The only key of the file's metadata: safetensors writes several in random order."""
STATE, MODEL, OPTIMIZER = "state", "model.", "optimizer."
PREVIOUS = "previous.safetensors"


class DamagedError(UserError):
    """A checkpoint cannot be read, or does not hold what was written."""


class State(Value):
    """Where a training stands after ``epoch`` finished epochs.

    ``teacher`` is the accuracy above chance of the network that others learn from;
    ``recipe_sha256`` identifies space, data and settings. Each of the ``setbacks`` has halved the
    learning rate; ``losses`` are those that a spike is judged by, see ``nas/training/loop.py``.
    """

    epoch: int
    teacher: float
    accuracies: dict[str, float]
    recipe_sha256: str
    setbacks: int = 0
    losses: tuple[float, ...] = ()


class Header(Value):
    """The state, and the hashes of it, of the weights and of the optimizer."""

    state: State
    sha256: dict[str, str]


def save_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer, state: State) -> None:
    """Write beside ``path`` and rename: the checkpoint there lasts until this one is complete.

    The old one then becomes ``PREVIOUS``. A kill between the two renames leaves ``PREVIOUS`` alone,
    for ``mend_checkpoint``. Raises UserError if the disk is full or the folder cannot be written.
    """
    from safetensors.torch import save_file

    weights = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    moments = {
        f"{name}.{field}": tensor.cpu().contiguous()
        for name, parameter in model.named_parameters()
        for field, tensor in optimizer.state.get(parameter, {}).items()
    }
    parts = {MODEL: weights, OPTIMIZER: moments}
    header = Header(state=state, sha256=_hashes(state, parts))
    tensors = {
        prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.items()
    }
    temporary = path.with_name(f".{path.name}{PARTIAL}")  # one name: a kill leaves one at most
    try:
        with writing(path):
            temporary.unlink(missing_ok=True)  # it might be a link
            save_file(tensors, temporary, metadata={HEADER_KEY: header.model_dump_json()})
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            if path.exists():
                path.replace(path.with_name(PREVIOUS))
            temporary.replace(path)
    except SafetensorError as error:
        raise UserError(f"{path}: cannot be written: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def mend_checkpoint(path: Path) -> str | None:
    """Put the previous checkpoint in place of one that is damaged or missing.

    Returns a line about the damage, if there was any. Raises UserError if neither is whole.
    """
    previous, warning = path.with_name(PREVIOUS), None
    try:
        if path.exists():
            _require_whole(path)
            return None
        if not previous.exists():
            return None
    except DamagedError as error:
        if not previous.exists():
            raise
        _require_whole(previous)
        warning = f"{error}; going on from the one before, {PREVIOUS}"
    with writing(path):
        previous.replace(path)
    return warning


def read_state(path: Path) -> State:
    """Returns the state of a checkpoint, from its header alone; raises DamagedError."""
    return _read(path)[0]


def load_model(path: Path, model: nn.Module) -> None:
    """Load the weights. Raises UserError if the file holds other tensors than the model."""
    _, tensors = _read(path, MODEL)
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
    import torch

    parameters = dict(model.named_parameters())
    optimized = (parameter for group in optimizer.param_groups for parameter in group["params"])
    indices = {parameter: index for index, parameter in enumerate(optimized)}
    state: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for key, saved in _read(path, OPTIMIZER)[1].items():
        name, _, field = key.rpartition(".")
        parameter = parameters[name]
        fields = state[indices[parameter]]
        fields[field] = saved
        if saved.shape == parameter.shape:  # fused optimizers read both as flat arrays
            fields[field] = torch.empty_like(parameter, requires_grad=False).copy_(saved)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _read(path: Path, prefix: str | None = None) -> tuple[State, dict[str, Tensor]]:
    """The state, and the tensors whose names begin with ``prefix``, if they are as written."""
    import torch

    try:
        with safe_open(path, framework="pt") as file:
            header = Header.model_validate_json((file.metadata() or {}).get(HEADER_KEY, ""))
            tensors = {
                key.removeprefix(prefix): torch.as_tensor(file.get_tensor(key))
                for key in file.keys()  # noqa: SIM118 - no mapping
                if prefix and key.startswith(prefix)
            }
    except ValidationError:
        raise DamagedError(f"{path}: is no checkpoint of nas train-supernet") from None
    except (OSError, SafetensorError) as error:
        raise DamagedError(f"{path}: cannot be read: {error}") from None
    hashes = _hashes(header.state, {prefix: tensors} if prefix else {})
    if hashes.items() - header.sha256.items():
        raise DamagedError(f"{path}: is damaged: it does not hold what was written")
    return header.state, tensors


def _require_whole(path: Path) -> None:
    for prefix in (MODEL, OPTIMIZER):
        _read(path, prefix)


def _hashes(state: State, parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, str]:
    import torch

    hashes = {STATE: hashlib.sha256(state.model_dump_json().encode())}
    for prefix, tensors in parts.items():
        hashes[prefix] = hashlib.sha256()
        for name, tensor in sorted(tensors.items()):
            hashes[prefix].update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            hashes[prefix].update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return {part: found.hexdigest() for part, found in hashes.items()}
