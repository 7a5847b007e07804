"""``build`` makes an ordinary PyTorch network of an architecture."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple, Protocol, overload, runtime_checkable

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from nas.architecture import Architecture
from nas.errors import UserError
from nas.families import LAYERS, Layer, Shape


class Network(nn.Module):
    """Layers applied one after the other; each is a submodule at the path of its slot."""

    def __init__(self, modules: Sequence[tuple[str, nn.Module]]) -> None:
        super().__init__()
        self.slots = tuple(slot for slot, _ in modules)
        for slot, module in modules:
            parent: nn.Module = self
            *path, name = slot.split(".")
            for part in path:
                if part not in dict(parent.named_children()):
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            parent.add_module(name, module)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, channels, H, W) to logits (N, classes)."""
        x = images
        for slot in self.slots:
            x = self.get_submodule(slot)(x)
        return x


class Backbone(Network):
    """A network without its head, which returns feature maps of ``strides`` and ``channels``.

    The state dict of the classifier loads, with ``strict`` too; its head is left out.
    """

    def __init__(
        self, modules: Sequence[tuple[str, nn.Module]], *, maps: Sequence[FeatureMap], head: str
    ) -> None:
        super().__init__(modules)
        self.taken = frozenset(taken.slot for taken in maps)
        self.strides = tuple(taken.stride for taken in maps)
        self.channels = tuple(taken.channels for taken in maps)
        self.head_slot = head
        self.register_load_state_dict_pre_hook(_drop_head)  # type: ignore[no-untyped-call]

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:  # type: ignore[override]
        """Images (N, channels, H, W) to maps (N, channels, H / stride, W / stride), rounded up."""
        x, maps = images, []
        for slot in self.slots:
            x = self.get_submodule(slot)(x)
            if slot in self.taken:
                maps.append(x)
        return maps


class FeatureMap(NamedTuple):
    """A map that a backbone returns: the slot that makes it, its stride and its channels."""

    slot: str
    stride: int
    channels: int


@overload
def build(architecture: Architecture, *, features: Literal[False] = False) -> Network: ...
@overload
def build(architecture: Architecture, *, features: Literal[True]) -> Backbone: ...
def build(architecture: Architecture, *, features: bool = False) -> Network:
    """An ordinary network with fresh weights; with ``features`` its ``Backbone``."""
    modules = [(layer.slot, make_module(layer, shape)) for layer, shape in architecture.placed()]
    if not features:
        return Network(modules)
    *body, (head, _) = modules
    return Backbone(body, maps=feature_maps(architecture), head=head)


def make_module(layer: Layer, input_shape: Shape) -> nn.Module:
    """The module of a layer on feature maps of ``input_shape``, with fresh weights.

    Raises UserError if a user's own module fails, or makes another shape than ``output_shape``.
    """
    if LAYERS.get(layer.kind) is not type(layer):
        problem = _problem(layer.model_copy(update={"slot": "any"}), input_shape)
        if problem:
            where = layer.origin.path if layer.origin else type(layer).__name__
            raise UserError(f"{where}: {layer.slot}: {layer.signature} on {input_shape}: {problem}")
    return layer.module(input_shape)()


@lru_cache(maxsize=4096)  # a layer's module is made many times
def _problem(layer: Layer, input_shape: Shape) -> str | None:
    """The reason why a user's own layer cannot be used, found on the meta device."""
    try:
        call: object = layer.module(input_shape)
        if not isinstance(call, partial):
            wanted = "functools.partial(MODULE_CLASS, ARGUMENTS...)"
            return f"module must return {wanted}, got {type(call).__name__}"
        with torch.device("meta"), torch.no_grad():
            made = tuple(call().eval()(torch.empty(2, *input_shape)).shape[1:])
    except Exception as error:  # noqa: BLE001 - whatever the user's code raises
        return f"its module fails: {type(error).__name__}: {str(error).splitlines()[0]}"
    expected = layer.output_shape(input_shape)
    if (*made, 1, 1)[:3] != expected:  # a head returns logits (N, classes)
        return f"its module makes {made}, output_shape says {expected}"
    return None


def feature_maps(architecture: Architecture) -> tuple[FeatureMap, ...]:
    """The last map of each resolution before the head, the largest first, from stride 4 on.

    Norms at the start of a head or a downsampling, as in PVT v2, are not applied.
    """
    stride, maps = 1, {}
    for layer, (channels, _, _) in list(architecture.placed())[:-1]:
        # on a side that all strides divide; sides that are rounded up would hide them
        given, side, _ = layer.output_shape((channels, 256, 256))
        stride *= 256 // side
        maps[stride] = FeatureMap(layer.slot, stride, given)
    return tuple(found for found in maps.values() if found.stride >= 4)


def _drop_head(module: Backbone, state_dict: dict[str, Any], prefix: str, *_: object) -> None:
    for key in [key for key in state_dict if key.startswith(f"{prefix}{module.head_slot}.")]:
        del state_dict[key]


@runtime_checkable
class Foldable(Protocol):
    """A module with a cheaper form for inference."""

    def fold(self) -> nn.Module:
        """A module that computes the same in evaluation, or this one, changed to do so."""


def fold(module: nn.Module) -> nn.Module:
    """A copy for inference: norms, scales and averaged heads folded into their neighbours."""
    return fold_in_place(copy.deepcopy(module).eval()).eval()


def fold_in_place(module: nn.Module, only: type[Foldable] | None = None) -> nn.Module:
    """The module, changed in place, or its replacement; ``only`` modules of that type fold."""
    for name, child in module.named_children():
        setattr(module, name, fold_in_place(child, only))
    return module.fold() if isinstance(module, only or Foldable) else module


class Size(NamedTuple):
    """Trainable parameters, norms included, and multiply-accumulates of one image.

    Convolutions, linear layers and attention's matrix products count; all else does not.
    """

    params: int
    macs: int


def measure_size(architecture: Architecture) -> Size:
    """Count without allocating: the network is built and run on the meta device."""
    sizes = [layer_size(layer, shape) for layer, shape in architecture.placed()]
    return Size(sum(size.params for size in sizes), sum(size.macs for size in sizes))


def layer_size(layer: Layer, input_shape: Shape) -> Size:
    """The size of one layer on one input shape."""
    return _size(layer.model_copy(update={"slot": "any"}), input_shape)


@lru_cache(maxsize=4096)  # counting takes 3 ms, and slots do not change it
def _size(layer: Layer, input_shape: Shape) -> Size:
    counter = _FlopCounter()  # type: ignore[no-untyped-call]
    with torch.device("meta"), torch.no_grad():
        module = make_module(layer, input_shape).eval()
        with counter:
            module(torch.empty(1, *input_shape))
    params = sum(parameter.numel() for parameter in module.parameters())
    return Size(params, counter.flops // 2)


_SHAPES_KEPT = {
    torch.ops.aten.native_batch_norm: 3,
    torch.ops.aten.native_layer_norm: 3,
    torch.ops.aten.native_group_norm: 3,
    torch.ops.aten.gelu: 1,
    torch.ops.aten.hardswish: 1,
    torch.ops.aten.hardtanh: 1,
    torch.ops.aten.silu: 1,
}
"""Results of what keeps its input's shape and is not counted: torch takes long to find it."""


class _FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """torch's own formulas, without the tries at decomposition of its counter: 3 times as fast."""

    flops = 0

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: tuple[type, ...],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if results := _SHAPES_KEPT.get(func._overloadpacket):
            return args[0] if results == 1 else (args[0],) * results
        result = func(*args, **kwargs)
        if formula := flop_registry.get(func._overloadpacket):
            self.flops += formula(*args, **kwargs, out_val=result)
        return result
