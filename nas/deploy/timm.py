"""Weights named as timm names them, loaded into our networks and written from them.

Loading moves timm's numbers to ours; writing finds the way back by moving their positions instead.
Each family states its names and its layouts in its folder.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import nn

from nas.architecture import Architecture
from nas.documents import built_in_architectures
from nas.errors import UserError
from nas.families import FAMILIES
from nas.families.layer import Sizes, TimmNames
from nas.network import build, make_module

INDEX = re.compile(r"attention_biase?_idxs$")
"""timm's integer buffers: which bias belongs to which pair of a query and a key."""
COUNTER = "num_batches_tracked"
"""The end of a norm's number of batches, which says nothing about a finished network."""


def load_timm_state_dict(
    network: nn.Module, architecture: Architecture, state_dict: Mapping[str, torch.Tensor]
) -> None:
    """Load weights named as timm names them into ``build(architecture)``, in place.

    timm's index buffers and the counters of norms may be absent. Raises UserError if another tensor
    is, or one does not fit.
    """
    given = without_indices(state_dict)
    found = timm_places(architecture)
    if misfit := find_misfit(found, given):
        name = architecture.name or "the architecture"
        raise UserError(f"timm weights do not fit {name}: {misfit}{closest(given, architecture)}")
    network.load_state_dict(take_all(found, given))


def without_indices(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights without timm's index buffers."""
    return {key: tensor for key, tensor in state_dict.items() if not INDEX.search(key)}


def timm_places(architecture: Architecture) -> dict[str, Place]:
    """The place of each tensor of ``build(architecture)``, by its name, in timm's network."""
    with torch.device("meta"):
        network = build(architecture)
    return _places(architecture, _shapes(network))


def take_all(
    places: Mapping[str, Place], given: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Our tensors by their names; counters that are not given are 0."""
    zero = torch.zeros((), dtype=torch.int64)
    return {name: place.take(given.get(place.key, zero)) for name, place in places.items()}


def to_timm_state_dict(network: nn.Module, architecture: Architecture) -> dict[str, torch.Tensor]:
    """The weights of ``build(architecture)`` as timm's network of the same layers takes them.

    MobileViT v3, which timm lacks, goes by the names of its MobileViT v1 and v2. Raises UserError
    if timm has no network with such layers.
    """
    state: dict[str, torch.Tensor] = {}
    own = network.state_dict()
    has_bias_indices = names_of(architecture).has_bias_indices
    for name, place in _places(architecture, _shapes(network)).items():
        whole = state.setdefault(place.key, own[name].new_empty(place.shape))
        positions = torch.arange(whole.numel()).reshape(place.shape)
        whole.view(-1)[place.take(positions).flatten()] = own[name].flatten()
        if name.endswith(".bias.biases") and has_bias_indices:
            key = place.key.replace("attention_biases", "attention_bias_idxs")
            state[key] = _bias_indices(*own[name].shape[1:])
    return state


def name_in_timm(architecture: Architecture) -> str | None:
    """The name in timm of the network of these layers, whatever its classes and its input size.

    None if it has none: another depth or width is another network, which timm cannot make.
    """
    for known in _published():
        if known.with_classes(architecture.classes).layers == architecture.layers:
            return names_of(known).network(known.name)
    return None


def load_in_timm(
    name: str, architecture: Architecture, state: Mapping[str, torch.Tensor]
) -> nn.Module | None:
    """The network of that name in timm with these weights, loaded strictly; None without timm.

    Raises UserError if this version of timm does not take them.
    """
    try:
        timm = importlib.import_module("timm")
    except Exception:  # noqa: BLE001 - it is not installed, or its torchvision is of another torch
        return None
    options: dict[str, object] = {"num_classes": architecture.classes}
    try:
        network = timm.create_model(name, img_size=architecture.input_size, **options)
    except TypeError:  # its networks of convolutions take any size
        network = timm.create_model(name, **options)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"timm {timm.__version__} does not take the weights: {reason}") from None
    found: nn.Module = network.eval()
    return found


def names_of(architecture: Architecture) -> TimmNames:
    """The names of the family with this stem and head; raises UserError if it lacks a layer."""
    first, *_, last = architecture.layers
    names = max(
        (family.timm for family in FAMILIES if family.timm is not None),
        key=lambda timm: (isinstance(first, timm.layers), isinstance(last, timm.layers)),
    )
    for layer in architecture.layers:
        if not isinstance(layer, names.layers):
            raise UserError(
                f"{architecture.name or 'the architecture'}: timm's {names.family} has no layer "
                f"such as {layer.slot} ({layer.kind})"
            )
    return names


class Place(NamedTuple):
    """Where one of our tensors, of shape ``own``, lies in timm's tensor of that key and shape.

    Along ``axis`` are equal groups; in each, this tensor's share follows those of the tensors
    before it, whose sizes add up to ``start``.
    """

    key: str
    shape: Sizes
    own: Sizes
    axis: int
    groups: int
    start: int
    order: tuple[int, Sequence[int]] | None

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        """Our tensor, made of timm's by moving numbers alone."""
        if not self.own:
            return tensor
        sizes, axis = tensor.shape, self.axis
        groups = tensor.reshape(*sizes[:axis], self.groups, -1, *sizes[axis + 1 :])
        start, size = self.start // self.groups, self.own[axis] // self.groups
        part = groups.narrow(axis + 1, start, size).reshape(self.own)
        if self.order is None:
            return part
        ordered_axis, order = self.order
        return part.index_select(ordered_axis, torch.tensor(order))


def _shapes(module: nn.Module, prefix: str = "") -> dict[str, Sizes]:
    return {prefix + name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _places(architecture: Architecture, shapes: Mapping[str, Sizes]) -> dict[str, Place]:
    """The place of each of our tensors, given by name and shape, in timm's network."""
    timm = names_of(architecture)
    keys = _keys(architecture, timm, shapes)
    siblings: dict[str, list[str]] = {}
    for name, key in keys.items():
        siblings.setdefault(key, []).append(name)
    found = {}
    for name, key in keys.items():
        layer = next(layer for layer in architecture.layers if name.startswith(f"{layer.slot}."))
        names, own, axis = siblings[key], shapes[name], timm.axis(name)
        sizes = [shapes[other][axis] for other in names] if own else []
        whole = (*own[:axis], sum(sizes), *own[axis + 1 :]) if own else ()
        if name.endswith(".bias.biases"):  # (heads, dy, dx); timm flattens the offsets
            whole = whole[0], whole[1] * whole[2]
        found[name] = Place(
            key,
            timm.shape(layer, whole),
            own=own,
            axis=axis,
            groups=timm.groups(layer, name),
            start=sum(sizes[: names.index(name)]),
            order=timm.order(architecture.layers, name) if own else None,
        )
    return found


def _keys(architecture: Architecture, timm: TimmNames, names: Iterable[str]) -> dict[str, str]:
    """The name in timm of each of our tensors; several of ours may be parts of one there."""

    def renumbered(found: re.Match[str]) -> str:
        stage = f"stages.{int(found[1]) - timm.first_stage}."
        if found[2] is None:
            return stage
        block = timm.block_index(architecture.layers, int(found[1]), int(found[2]))
        return f"{stage}blocks.{block}."

    found = {}
    for name in names:
        key = name
        for pattern, replacement in timm.rules:
            key = re.sub(pattern, replacement, key)
        found[name] = re.sub(r"^stages\.(\d+)\.(?:blocks\.(\d+)\.)?", renumbered, key)
    return found


def _bias_indices(height: int, width: int) -> torch.Tensor:
    """The index of the bias that each pair of a query and a key has, (pixels, pixels)."""
    y, x = torch.arange(height * width) // width, torch.arange(height * width) % width
    return (y[:, None] - y).abs() * width + (x[:, None] - x).abs()


def find_misfit(found: Mapping[str, Place], given: Mapping[str, torch.Tensor]) -> str | None:
    """The first reason why weights do not fit."""
    for name, place in found.items():
        if place.key not in given:
            if name.endswith(COUNTER):
                continue
            return f"'{place.key}' is missing (our '{name}')"
        shape = tuple(given[place.key].shape)
        if shape != place.shape:
            return f"'{place.key}' is {shape}, must be {place.shape}"
    known = {place.key for place in found.values()}
    return next((f"'{key}' has no place in it" for key in given if key not in known), None)


def closest(given: Mapping[str, torch.Tensor], but: Architecture) -> str:
    """Words about the published architecture that has most tensors in common with the weights."""
    given = {key: tensor for key, tensor in given.items() if not key.endswith(COUNTER)}
    shares = {
        architecture.name: _share(architecture, given)
        for architecture in _published()
        if architecture != but and _stem_keys(architecture) <= given.keys()  # quick, for most fail
    }
    best = max(shares, key=lambda name: shares[name], default=None)
    if best is None or shares[best] <= _share(but, given):
        return ""
    return f"; they {'are those of' if shares[best] == 1 else 'come closest to'} {best}"


@cache
def _published() -> tuple[Architecture, ...]:
    return tuple(Architecture.load(name) for name in built_in_architectures())


@cache
def _stem_keys(architecture: Architecture) -> frozenset[str]:
    stem = architecture.layers[0]
    with torch.device("meta"):
        module = make_module(stem, architecture.input_shape)
    shapes = _shapes(module, f"{stem.slot}.")
    places = _places(architecture, shapes).values()
    return frozenset(place.key for place in places if not place.key.endswith(COUNTER))


def _share(architecture: Architecture, given: Mapping[str, torch.Tensor]) -> float:
    """Tensors that both have, over those that either has, in [0, 1]."""
    found = _timm_shapes(architecture)
    alike = sum(tuple(tensor.shape) == found.get(key) for key, tensor in given.items())
    return alike / len(found.keys() | given.keys())


@cache
def _timm_shapes(architecture: Architecture) -> Mapping[str, Sizes]:
    places = timm_places(architecture).values()
    return {place.key: place.shape for place in places if not place.key.endswith(COUNTER)}
