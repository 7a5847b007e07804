"""Forward passes of many subnets, each from where its layers part from those that ran before.

Norms calibrate on the statistics of the batch at hand, so what a layer gives in calibration, and
with its calibrated norms on any image, depends on the layers up to it only. Subnets whose first
layers are equal share all that, bit for bit. Feature maps are kept where subnets part, calibrated
layers wherever they are shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nas.architecture import Architecture
from nas.data import Dataset
from nas.data.splits import stratified_order
from nas.layers import Layer, Shape
from nas.network import layer_size
from nas.supernet import Supernet
from nas.training.evaluate import remembering_norms
from nas.training.memory import BoundedMemory

CALIBRATION_IMAGES, CALIBRATION_BATCH = 256, 64
"""For each evaluation of a search; the networks that it delivers are calibrated on more."""
PART = 128
"""Images of the search slice that run at once, at most."""
MODULE_BYTES = 50_000
"""What an ordinary module takes besides its tensors, about; its weights are the supernet's."""


class Part(NamedTuple):
    """Images that run at once: a batch to calibrate on, or a part of the search slice."""

    split: Literal["train", "search"]
    index: int


@dataclass(eq=False)
class Prefix:
    """The layers of some subnets up to ``layer``; without one the images themselves.

    ``is_shared``: subnets part here or further on.
    """

    layer: Layer | None
    input_shape: Shape
    children: dict[Layer, Prefix] = field(default_factory=dict)
    is_shared: bool = False

    @property
    def is_fork(self) -> bool:
        """Whether subnets part right behind it."""
        return len(self.children) > 1


@dataclass(eq=False)
class Subnet:
    """An architecture as its prefixes, from the images on, and its calibrated layers."""

    prefixes: Sequence[Prefix]
    modules: list[nn.Module] = field(default_factory=list)


class Prefixes:
    """Which images subnets get right, with norms that are calibrated on training images.

    ``macs`` counts what was forwarded so far, calibration included. The supernet's weights are
    read where they lie: they must not change.
    """

    def __init__(self, supernet: Supernet, dataset: Dataset, capacity: int) -> None:
        self.supernet, self.dataset = supernet, dataset
        self.memory: BoundedMemory[Tensor | nn.Module] = BoundedMemory(capacity)
        self.macs = 0
        labels = dataset.search.labels.numpy()
        order = stratified_order(labels, np.random.default_rng(0))
        self.parts = np.array_split(order, -(-len(order) // PART))
        self._batch = min(CALIBRATION_BATCH, len(dataset.train))
        self._device = next(supernet.parameters()).device
        self._roots: dict[Shape, Prefix] = {}
        self._next: tuple[Shape, int] | None = None
        self._reader: Iterator[tuple[Tensor, Tensor]] = iter(())

    def subnet(self, architecture: Architecture) -> Subnet:
        """What ``hits`` takes. Of those that are to share layers make all before any runs."""
        shape = architecture.input_shape
        prefixes = [self._roots.setdefault(shape, Prefix(None, shape))]
        for layer, input_shape in architecture.placed():
            children = prefixes[-1].children
            if children and layer not in children:
                for prefix in prefixes:
                    prefix.is_shared = True
            prefixes.append(children.setdefault(layer, Prefix(layer, input_shape)))
        return Subnet(prefixes)

    @torch.no_grad()
    def hits(self, subnet: Subnet, index: int) -> NDArray[np.bool_]:
        """Which images of a part of the search slice a subnet gets right, (B,)."""
        part = Part("search", index)
        key = (subnet.prefixes[-1], "hits", index)
        found = self.memory.get(key)
        if not isinstance(found, Tensor):
            if not subnet.modules:
                subnet.modules = self._calibrated(subnet.prefixes)
            logits = self._logits(subnet, part)
            labels = self.dataset.search.labels[torch.from_numpy(self.parts[index])]
            found = logits.argmax(1).cpu() == labels
            self.memory.put(key, found, _size(found))
        return np.asarray(found.numpy())

    def _calibrated(self, prefixes: Sequence[Prefix]) -> list[nn.Module]:
        """The layers of a subnet, calibrated as ``calibrate`` does, those that are kept as kept."""
        modules: list[nn.Module] = []
        for prefix in prefixes[1:]:
            kept = self.memory.get((prefix, "module"))
            if not isinstance(kept, nn.Module):
                break
            modules.append(kept)
        if len(modules) == len(prefixes) - 1:
            return modules
        count = min(CALIBRATION_IMAGES // CALIBRATION_BATCH, len(self.dataset.train) // self._batch)
        parts = [Part("train", index) for index in range(count)]
        depth, maps = self._resume(prefixes[: len(modules) + 1], parts)
        for prefix in prefixes[depth + 1 :]:
            module = self._module(prefix)
            with remembering_norms(module):
                maps = [self._run(module, prefix, x) for x in maps]
            if prefix.is_shared:
                self.memory.put((prefix, "module"), module, MODULE_BYTES + _buffers(module))
            self._keep(prefix, parts, maps)
            modules[depth:] = [module]
            depth += 1
        return modules

    def _logits(self, subnet: Subnet, part: Part) -> Tensor:
        depth, (x,) = self._resume(subnet.prefixes, [part])
        for prefix, module in zip(
            subnet.prefixes[depth + 1 :], subnet.modules[depth:], strict=True
        ):
            x = self._run(module, prefix, x)
            self._keep(prefix, [part], [x])
        return x

    def _resume(
        self, prefixes: Sequence[Prefix], parts: Sequence[Part]
    ) -> tuple[int, list[Tensor]]:
        """The deepest of these prefixes whose maps are all kept, and the maps behind it."""
        for depth in range(len(prefixes) - 1, -1, -1):
            if all((prefixes[depth], part) in self.memory for part in parts):
                found = [self.memory.get((prefixes[depth], part)) for part in parts]
                return depth, [one for one in found if isinstance(one, Tensor)]
        images = self._images(prefixes[0].input_shape, parts)
        self._keep(prefixes[0], parts, images)
        return 0, images

    def _keep(self, prefix: Prefix, parts: Sequence[Part], maps: Sequence[Tensor]) -> None:
        if prefix.is_fork or (prefix.layer is None and prefix.is_shared):
            for part, x in zip(parts, maps, strict=True):
                self.memory.put((prefix, part), x, _size(x))

    def _run(self, module: nn.Module, prefix: Prefix, x: Tensor) -> Tensor:
        assert prefix.layer is not None
        self.macs += layer_size(prefix.layer, prefix.input_shape).macs * len(x)
        found: Tensor = module(x)
        return found

    def _module(self, prefix: Prefix) -> nn.Module:
        assert prefix.layer is not None
        return self.supernet.module_of(prefix.layer, prefix.input_shape)

    def _images(self, shape: Shape, parts: Sequence[Part]) -> list[Tensor]:
        """The images (B, channels, H, W) of all calibration batches, or of one part of the slice."""
        if parts[0].split == "train":
            images = self.dataset.train.at(max(shape[1:]))
            rng = np.random.default_rng(0)  # the same images for all
            batches = images.batches(self._batch, rng=rng, drop_last=True)
            found = [inputs for inputs, _ in islice(batches, len(parts))]
        else:
            ((_, index),) = parts
            if self._next != (shape, index):
                self._reader = self._search_images(shape, index)
            found = [next(self._reader)[0]]
            self._next = (shape, index + 1)  # reading goes on where it stopped
        return [it.to(self._device, memory_format=torch.channels_last) for it in found]

    def _search_images(self, shape: Shape, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        parts = self.parts[first:]
        images = self.dataset.search.subset(np.concatenate(parts)).at(max(shape[1:]))
        return images.batches([len(part) for part in parts])


def _size(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _buffers(module: nn.Module) -> int:
    return sum(_size(buffer) for buffer in module.buffers())
