"""Where each tensor of our networks is in timm's tensors, of which some hold several of ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from nas.architecture import Architecture
from nas.deploy.timm_names import timm_names
from nas.families import Layer
from nas.families.efficientformer_v1.layers import MetaBlock3D
from nas.families.efficientvit.timm import channel_orders, reordered
from nas.families.mobilevit.layers import MobileViTV2Block, MobileViTV3SeparableBlock

Sizes = tuple[int, ...]


class Place(NamedTuple):
    """Timm's tensor of that key and shape, and what takes ours, which only moves numbers."""

    key: str
    shape: Sizes
    take: Callable[[torch.Tensor], torch.Tensor]


def places(architecture: Architecture, shapes: Mapping[str, Sizes]) -> dict[str, Place]:
    """The place of each of our tensors, given by name and shape, in timm's network.

    Raises:
        UserError: timm has no network with such layers.
    """
    keys = timm_names(architecture, shapes)
    orders = channel_orders(architecture.layers)
    siblings: dict[str, list[str]] = {}
    for name, key in keys.items():
        siblings.setdefault(key, []).append(name)
    found = {}
    for name, key in keys.items():
        names = siblings[key]
        own = shapes[name]
        axis = 1 if re.search(r"\.(first|second)\.", name) else 0  # the halves of what is fused
        sizes = [shapes[other][axis] for other in names] if own else []
        whole = (*own[:axis], sum(sizes), *own[axis + 1 :]) if own else ()
        layer = _layer_of(name, architecture)
        part = _Part(
            axis=axis,
            groups=layer.heads if isinstance(layer, MetaBlock3D) and len(names) > 1 else 1,
            start=sum(sizes[: names.index(name)]),
            own=own,
        )
        found[name] = Place(key, _layout(name, whole, layer), _taker(name, part, orders))
    return found


class _Part(NamedTuple):
    """Of each of ``groups`` equal groups along an axis the part behind ``start`` groups' sizes.

    timm's fused qkv of EfficientFormer has q, k and v of one head, then those of the next; others
    have one group.
    """

    axis: int
    groups: int
    start: int
    own: Sizes

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        if not self.own:
            return tensor
        sizes, axis = tensor.shape, self.axis
        groups = tensor.reshape(*sizes[:axis], self.groups, -1, *sizes[axis + 1 :])
        start, size = self.start // self.groups, self.own[axis] // self.groups
        return groups.narrow(axis + 1, start, size).reshape(self.own)


def _taker(
    name: str, part: _Part, orders: Mapping[int, torch.Tensor]
) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: reordered(name, part.take(tensor), orders)


def _layout(name: str, shape: Sizes, layer: Layer) -> Sizes:
    """Timm flattens the offsets of biases, and its separable attention has 1x1 convolutions."""
    if name.endswith(".bias.biases"):
        return shape[0], shape[1] * shape[2]
    separable = isinstance(layer, MobileViTV2Block | MobileViTV3SeparableBlock)
    return (*shape, 1, 1) if separable and len(shape) == 2 else shape


def _layer_of(name: str, architecture: Architecture) -> Layer:
    return next(it for it in architecture.layers if name.startswith(f"{it.slot}."))
