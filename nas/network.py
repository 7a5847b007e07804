"""``build`` makes an ordinary PyTorch network of an architecture."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from nas.architecture import Architecture
from nas.blocks import make_module
from nas.layers import Layer, Shape


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


def build(architecture: Architecture) -> Network:
    """An ordinary network with fresh weights; in evaluation it gives logits (N, classes)."""
    return Network(
        [(layer.slot, make_module(layer, shape)) for layer, shape in architecture.placed()]
    )


@runtime_checkable
class Foldable(Protocol):
    """A module that can say itself more cheaply for inference."""

    def fold(self) -> nn.Module:
        """A module that computes the same in evaluation, or this one, changed to do so."""


def fold(module: nn.Module) -> nn.Module:
    """A copy for inference: norms, scales and averaged heads folded into their neighbours."""
    return _fold(copy.deepcopy(module).eval()).eval()


def _fold(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        setattr(module, name, _fold(child))
    return module.fold() if isinstance(module, Foldable) else module


class Size(NamedTuple):
    """Trainable parameters (norms counted, nothing folded), and multiply-accumulates of one image.

    Convolutions, linear layers and attention's matrix products count; biases, norms, activations
    and interpolation do not.
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
    counter = _FlopCounter()
    with torch.device("meta"), torch.no_grad():
        module = make_module(layer, input_shape).eval()
        with counter:
            module(torch.empty(1, *input_shape))
    params = sum(parameter.numel() for parameter in module.parameters())
    return Size(params, counter.flops // 2)


class _FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """torch's own formulas, without the tries at decomposition of its counter: 3 times as fast."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: tuple[type, ...],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result
