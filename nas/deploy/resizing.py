"""Weights for another input size: attention biases, one for each offset, are interpolated."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional

from nas.architecture import Architecture
from nas.errors import UserError
from nas.network import build

BIASES = ".bias.biases"
"""How the names of attention biases end, (heads, dy, dx)."""


def resize_attention_biases(
    state_dict: Mapping[str, torch.Tensor],
    from_architecture: Architecture,
    to_architecture: Architecture,
) -> dict[str, torch.Tensor]:
    """The weights of a network, for the same layers on images of another size.

    Biases are interpolated linearly between offsets: that of a pixel to itself and that from one
    corner of a map to the opposite one stay as they are. Where maps, or windows, keep their size,
    and for all other tensors, the result holds the tensors given. Networks should be trained on
    afterwards: no interpolation gives what training at that size would have.

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
