"""Weights named as timm names them, into our networks and out of them.

Both ways follow the same places: what loads moves timm's numbers to ours, and what writes finds out
by moving their positions instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import nn

from nas.architecture import BUILT_IN, Architecture
from nas.deploy.timm_names import EFFICIENTFORMER_V1, family_of
from nas.deploy.timm_places import Place, places
from nas.errors import UserError
from nas.network import build, make_module

INDEX = re.compile(r"attention_biase?_idxs$")
"""timm's integer buffers: which bias belongs to which pair of a query and a key."""


def load_timm_state_dict(
    network: nn.Module, architecture: Architecture, state_dict: Mapping[str, torch.Tensor]
) -> None:
    """Load weights named as timm names them into ``build(architecture)``, in place.

    timm's integer index buffers may be there or not.

    Raises:
        UserError: a tensor is missing, left over, or of another shape; the message names the first,
            and the published architecture that comes closest to the weights.
    """
    given = {key: tensor for key, tensor in state_dict.items() if not INDEX.search(key)}
    found = _places(architecture, network)
    misfit = _misfit(found, given)
    if misfit is not None:
        name = architecture.name or "the architecture"
        hint = _closest(given, but=architecture)
        raise UserError(f"timm weights do not fit {name}: {misfit}{hint}")
    network.load_state_dict({name: place.take(given[place.key]) for name, place in found.items()})


def to_timm_state_dict(network: nn.Module, architecture: Architecture) -> dict[str, torch.Tensor]:
    """The weights of ``build(architecture)`` as timm's network of the same layers takes them.

    MobileViT v3, which timm lacks, goes by the names of its MobileViT v1 and v2.

    Raises:
        UserError: timm has no network with such layers.
    """
    state: dict[str, torch.Tensor] = {}
    own = network.state_dict()
    for name, place in _places(architecture, network).items():
        whole = state.setdefault(place.key, own[name].new_empty(place.shape))
        positions = torch.arange(whole.numel()).reshape(place.shape)
        whole.view(-1)[place.take(positions).flatten()] = own[name].flatten()
        if name.endswith(".bias.biases") and family_of(architecture) is EFFICIENTFORMER_V1:
            # a buffer in timm's files of this family
            key = place.key.replace("attention_biases", "attention_bias_idxs")
            state[key] = _bias_indices(*own[name].shape[1:])
    return state


def _bias_indices(height: int, width: int) -> torch.Tensor:
    """Which bias each pair of a query and a key has, (pixels, pixels)."""
    y, x = torch.arange(height * width) // width, torch.arange(height * width) % width
    return (y[:, None] - y).abs() * width + (x[:, None] - x).abs()


def _places(architecture: Architecture, network: nn.Module) -> dict[str, Place]:
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    return places(architecture, shapes)


def _misfit(found: Mapping[str, Place], given: Mapping[str, torch.Tensor]) -> str | None:
    """What first keeps weights from fitting."""
    for name, place in found.items():
        if place.key not in given:
            return f"'{place.key}' is missing (our '{name}')"
        shape = tuple(given[place.key].shape)
        if shape != place.shape:
            return f"'{place.key}' is {shape}, must be {place.shape}"
    known = {place.key for place in found.values()}
    return next((f"'{key}' has no place in it" for key in given if key not in known), None)


def _closest(given: Mapping[str, torch.Tensor], but: Architecture) -> str:
    """Which published architecture has most tensors in common with the weights, if one has any."""
    shares = {}
    for file in sorted((BUILT_IN / "published").glob("*.json")):
        architecture = Architecture.load(file)
        if architecture != but and _may_fit(architecture, given):
            shares[architecture.name] = _share(architecture, given)
    best = max(shares, key=lambda name: shares[name], default=None)
    if best is None or shares[best] <= _share(but, given):
        return ""
    return f"; they {'are those of' if shares[best] == 1 else 'come closest to'} {best}"


def _may_fit(architecture: Architecture, given: Mapping[str, torch.Tensor]) -> bool:
    """Whether the tensors of the stem are there: quick, where whole networks are not."""
    stem = architecture.layers[0]
    with torch.device("meta"):
        module = make_module(stem, architecture.input_shape)
    shapes = {f"{stem.slot}.{name}": tuple(it.shape) for name, it in module.state_dict().items()}
    return all(place.key in given for place in places(architecture, shapes).values())


def _share(architecture: Architecture, given: Mapping[str, torch.Tensor]) -> float:
    """Tensors that both have, over those that either has, in [0, 1]."""
    with torch.device("meta"):
        network = build(architecture)
    found = {place.key: place.shape for place in _places(architecture, network).values()}
    alike = sum(tuple(tensor.shape) == found.get(key) for key, tensor in given.items())
    return alike / len(found.keys() | given.keys())
