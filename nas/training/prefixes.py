"""Forward passes of many subnets, each from where its layers part from those that ran before.

Norms calibrate on the statistics of the batch at hand, so what a layer gives in calibration, and
with its calibrated norms on any image, depends on the layers up to it only. Subnets whose first
layers are equal share all that, bit for bit. Feature maps are kept where subnets part, calibrated
layers wherever they are shared. What is calibrated runs with its norms in its convolutions, which
takes a pass over each map less.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nas.architecture import Architecture
from nas.blocks.norm import ConvNorm
from nas.data import Dataset
from nas.layers import Layer, Shape
from nas.network import fold_in_place, layer_size
from nas.supernet import Supernet
from nas.training.evaluate import remembering_norms
from nas.training.memory import BoundedMemory

CALIBRATION_IMAGES, CALIBRATION_BATCH = 256, 64
"""For each evaluation of a search; the networks that it delivers are calibrated on more."""
BATCH = 256
"""Images of the search slice that run at once, at most."""
READ_AT_ONCE = 32
"""Images; several such batches are decoded side by side where images are not in memory."""
MODULE_BYTES = 50_000
"""What an ordinary module takes besides its tensors, about."""


class Part(NamedTuple):
    """Images that run at once: a batch to calibrate on, or these positions of the search slice."""

    batch: int = 0
    positions: bytes = b""


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


class Judged(NamedTuple):
    """Which images were right, (B,), and by how much the label's logit leads all others, (B,)."""

    hits: NDArray[np.bool_]
    margins: NDArray[np.float64]


@dataclass(eq=False)
class Subnet:
    """An architecture as its prefixes, from the images on, and its calibrated layers."""

    prefixes: Sequence[Prefix]
    modules: list[nn.Module] = field(default_factory=list)


class Prefixes:
    """What subnets make of images, with norms that are calibrated on training images.

    The supernet's weights are read where they lie: they must not change.
    """

    def __init__(self, supernet: Supernet, dataset: Dataset, capacity: int) -> None:
        self.supernet, self.dataset = supernet, dataset
        self.memory: BoundedMemory[Tensor | nn.Module] = BoundedMemory(capacity)
        self._forwarded: Counter[Prefix] = Counter()  # images
        self._batch = min(CALIBRATION_BATCH, len(dataset.train))
        self._labels = dataset.search.labels
        self._device = next(supernet.parameters()).device
        self._roots: dict[Shape, Prefix] = {}

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all that was forwarded so far, calibration included."""
        return sum(
            images * layer_size(prefix.layer, prefix.input_shape).macs
            for prefix, images in self._forwarded.items()
            if prefix.layer is not None
        )

    def subnet(self, architecture: Architecture) -> Subnet:
        """What ``judge`` takes. Of those that are to share layers make all before any runs."""
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
    def judge(self, subnet: Subnet, positions: NDArray[np.int64]) -> Judged:
        """What a subnet makes of the images at these positions of the search slice."""
        key = (subnet.prefixes[-1], "judged")
        kept = self.memory.get(key)
        known = kept if isinstance(kept, Tensor) else torch.full((2, len(self._labels)), torch.nan)
        missing = positions[known[0, torch.from_numpy(positions)].isnan().numpy()]
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            known[:, torch.from_numpy(batch)] = self._judged(subnet, batch)
        self.memory.put(key, known, _size(known))
        hits, margins = known[:, torch.from_numpy(positions)].numpy()
        return Judged(hits > 0, margins.astype(np.float64))

    def _judged(self, subnet: Subnet, positions: NDArray[np.int64]) -> Tensor:
        """Hits as 0 and 1, and margins, (2, B)."""
        if not subnet.modules:
            subnet.modules = self._calibrated(subnet.prefixes)
        logits = self._logits(subnet, Part(positions=positions.tobytes())).float().cpu()
        labels = self._labels[torch.from_numpy(positions)][:, None]
        others = logits.scatter(1, labels, -torch.inf).amax(1)
        hits = logits.argmax(1) == labels[:, 0]
        return torch.stack([hits.float(), logits.gather(1, labels)[:, 0] - others])

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
        parts = [Part(batch=index) for index in range(count)]
        depth, maps = self._resume(prefixes[: len(modules) + 1], parts)
        for prefix in prefixes[depth + 1 :]:
            module = self._module(prefix)
            with remembering_norms(module):
                maps = [self._run(module, prefix, x) for x in maps]
            module = fold_in_place(module, ConvNorm)  # more folds for onnxruntime's sake
            if prefix.is_shared:
                self.memory.put((prefix, "module"), module, MODULE_BYTES + _tensors(module))
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
        self._forwarded[prefix] += len(x)
        found: Tensor = module(x)
        return found

    def _module(self, prefix: Prefix) -> nn.Module:
        assert prefix.layer is not None
        return self.supernet.module_of(prefix.layer, prefix.input_shape)

    def _images(self, shape: Shape, parts: Sequence[Part]) -> list[Tensor]:
        """The images (B, channels, H, W) of all calibration batches, or of a part of the slice."""
        side = max(shape[1:])
        if parts[0].positions:
            positions = np.frombuffer(parts[0].positions, np.int64).copy()
            images = self.dataset.search.subset(positions).at(side)
            found = [torch.cat([inputs for inputs, _ in images.batches(READ_AT_ONCE)])]
        else:
            rng = np.random.default_rng(0)  # the same images for all
            batches = self.dataset.train.at(side).batches(self._batch, rng=rng, drop_last=True)
            found = [inputs for inputs, _ in islice(batches, len(parts))]
        return [it.to(self._device, memory_format=torch.channels_last) for it in found]


def _size(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _tensors(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
