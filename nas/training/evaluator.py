"""Evaluates many subnets of a supernet, each from where its layers part from earlier ones.

Subnets share the outputs of equal first layers, in calibration too. Feature maps are kept where
subnets part, or with ``keep_all`` behind each layer; image by image, as races look at other images
at each step. Calibrated layers are kept where they are shared, with norms in their convolutions.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nas.architecture import Architecture
from nas.data import Dataset
from nas.families import Layer, Shape
from nas.families.parts import ConvNorm
from nas.network import fold_in_place, layer_size
from nas.search import Rank, run_race
from nas.search.racing import CONFIDENCE, Hits, Positions
from nas.supernet import Supernet
from nas.training.evaluation import remembering_norms
from nas.training.relative import Anchors, RelativeStatistics, anchoring, modules_of

CACHE_MB = 512  # of feature maps, calibrated layers and hits, at most: benchmarks/evaluations.py
CALIBRATION_IMAGES, CALIBRATION_BATCH = 256, 64  # networks that a search delivers get more
BATCH = 256  # images of the search slice that run at once, at most
READ_AT_ONCE = 32  # images; such batches are decoded side by side where images are not in memory
MODULE_BYTES, MAP_BYTES = 50_000, 1_000  # of a module, and of a kept map, besides their numbers

Kept = TypeVar("Kept")


class BoundedMemory(Generic[Kept]):
    """Values by key, of at most ``capacity`` bytes; the one unused the longest makes room."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = self.peak = 0
        self._kept: OrderedDict[Hashable, tuple[Kept, int]] = OrderedDict()

    def get(self, key: Hashable) -> Kept | None:
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def put(self, key: Hashable, value: Kept, size: int) -> None:
        """Keep a value of ``size`` bytes, unless it alone is larger than the memory."""
        self.used -= self._kept.pop(key, (None, 0))[1]
        if size > self.capacity:
            return
        while self.used + size > self.capacity:
            _, (_, freed) = self._kept.popitem(last=False)
            self.used -= freed
        self._kept[key] = value, size
        self.used += size
        self.peak = max(self.peak, self.used)


@dataclass(eq=False)
class Prefix:
    """The layers of some subnets up to ``layer``; without a layer the images themselves."""

    layer: Layer | None
    input_shape: Shape
    children: dict[Layer, Prefix] = field(default_factory=dict)
    is_shared: bool = False  # subnets part here or further on
    is_kept: bool = False  # some outputs may be in memory


@dataclass(eq=False)
class Subnet:
    """An architecture as its prefixes, from the images on, and its calibrated layers."""

    prefixes: Sequence[Prefix]
    modules: list[nn.Module] = field(default_factory=list)


class Evaluator:
    """Accuracies on the search slice with inherited weights, of a supernet that must not change."""

    def __init__(
        self,
        supernet: Supernet,
        dataset: Dataset,
        *,
        cache_mb: int = CACHE_MB,
        confidence: float = CONFIDENCE,
    ) -> None:
        self.supernet, self.dataset, self.confidence = supernet, dataset, confidence
        self.memory: BoundedMemory[Tensor | nn.Module] = BoundedMemory(cache_mb * 10**6)
        self._forwarded: Counter[Prefix] = Counter()  # images
        self._batch = min(CALIBRATION_BATCH, len(dataset.train))
        self._batches = min(
            CALIBRATION_IMAGES // CALIBRATION_BATCH, len(dataset.train) // self._batch
        )
        self._anchors: dict[Shape, list[Anchors]] = {}
        self._labels = dataset.search.labels
        self._device = next(supernet.parameters()).device
        self._roots: dict[Shape, Prefix] = {}

    @property
    def macs(self) -> int:
        """Multiply-accumulates forwarded so far, calibration included."""
        return sum(
            images * layer_size(prefix.layer, prefix.input_shape).macs
            for prefix, images in self._forwarded.items()
            if prefix.layer is not None
        )

    def accuracy(self, architecture: Architecture) -> float:
        """The share of the search slice that the architecture gets right, in [0, 1]."""
        hits, _ = self.predict(self.subnet(architecture), np.arange(len(self._labels)))
        return int(hits.sum()) / len(hits)

    def race(
        self, current: Architecture, candidates: Sequence[Architecture], rank: Rank
    ) -> list[float]:
        """The candidates' accuracies, estimated for those that lost early: see ``run_race``."""
        # all before any runs: it must be known where they part
        first, *subnets = [self.subnet(network) for network in (current, *candidates)]
        hits, margins = self.predict(first, np.arange(len(self._labels)))
        rng = np.random.default_rng(0)

        def look(candidate: int, part: Positions, is_finalist: bool) -> Hits:
            return self.predict(subnets[candidate], part, keep_all=is_finalist)[0]

        return run_race(
            look, len(candidates), hits, np.abs(margins), rank, rng=rng, confidence=self.confidence
        )

    def subnet(self, architecture: Architecture) -> Subnet:
        """The input of ``predict``. Make all subnets that are to share layers before any runs."""
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
    def predict(
        self, subnet: Subnet, positions: NDArray[np.int64], *, keep_all: bool = False
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Whether each image at these positions is right, and its label's lead in logits."""
        kept = self.memory.get(key := (subnet.prefixes[-1], "predictions"))
        known = kept if isinstance(kept, Tensor) else torch.full((2, len(self._labels)), torch.nan)
        missing = positions[known[0, torch.from_numpy(positions)].isnan().numpy()]
        if len(missing) and not subnet.modules:
            subnet.modules = self._calibrated(subnet.prefixes)
        for start in range(0, len(missing), BATCH):
            order, logits = self._logits(subnet, missing[start : start + BATCH].tolist(), keep_all)
            logits, labels = logits.float().cpu(), self._labels[order, None]
            others = logits.scatter(1, labels, -torch.inf).amax(1)
            finite = logits.isfinite().all(1)  # what is not has no order, and hits nothing
            known[0, order] = (finite & (logits.argmax(1) == labels[:, 0])).float()
            leads = logits.gather(1, labels)[:, 0] - others
            known[1, order] = torch.where(finite, leads, 0.0)
        self.memory.put(key, known, known.untyped_storage().nbytes())
        hits, margins = known[:, torch.from_numpy(positions)].numpy()
        return hits > 0, margins.astype(np.float64)

    def _calibrated(self, prefixes: Sequence[Prefix]) -> list[nn.Module]:
        """The layers of a subnet, calibrated as by ``calibrate``, or from memory."""
        modules: list[nn.Module] = []
        for prefix in prefixes[1:]:
            kept = self.memory.get((prefix, "module"))
            if not isinstance(kept, nn.Module):
                break
            modules.append(kept)
        if len(modules) == len(prefixes) - 1:
            return modules
        depth, maps = self._resume(prefixes[: len(modules) + 1], self._batches)
        for prefix in prefixes[depth + 1 :]:
            assert prefix.layer is not None
            module = self.supernet.module_of(prefix.layer, prefix.input_shape)
            maps = self._calibrate(module, prefix, maps, prefixes[0].input_shape)
            module = fold_in_place(module, ConvNorm)  # more folds for onnxruntime's sake
            if prefix.is_shared:
                tensors = sum(x.nbytes for x in (*module.parameters(), *module.buffers()))
                self.memory.put((prefix, "module"), module, MODULE_BYTES + tensors)
            self._keep_batches(prefix, maps)
            modules[depth:] = [module]
            depth += 1
        return modules

    def _calibrate(
        self, module: nn.Module, prefix: Prefix, maps: Sequence[Tensor], images: Shape
    ) -> list[Tensor]:
        """Set the norms of a layer by what they see of these batches; returns its outputs."""
        if not self.supernet.anchored:
            with remembering_norms(module):
                return [self._run(module, prefix, x) for x in maps]
        assert prefix.layer is not None
        modules = {f"{prefix.layer.slot}:{prefix.layer.kind}": module}
        statistics, outputs = RelativeStatistics(modules), []
        for x, anchors in zip(maps, self._anchors_of(images), strict=True):
            with statistics.batch(anchors):
                outputs.append(self._run(module, prefix, x))
        statistics.store()
        return outputs

    def _anchors_of(self, images: Shape) -> Sequence[Anchors]:
        """What norms of the largest network see of each calibration batch."""
        if images not in self._anchors:
            largest = self.supernet.space.largest().with_input_size(max(images[1:]))
            network = self.supernet.extract(largest).to(self._device).eval()
            modules = modules_of(largest, network.get_submodule)
            self._anchors[images] = []
            for x in self._calibration_images(images):
                with anchoring(modules) as anchors:
                    network(x)
                self._anchors[images].append(anchors)
        return self._anchors[images]

    def _resume(self, prefixes: Sequence[Prefix], count: int) -> tuple[int, list[Tensor]]:
        """The depth of the last prefix behind which all calibration batches are kept, and these."""
        for depth in range(len(prefixes) - 1, -1, -1):
            kept = [self.memory.get((prefixes[depth], "batch", index)) for index in range(count)]
            maps = [x for x in kept if isinstance(x, Tensor)]
            if len(maps) == count:
                return depth, maps
        maps = self._calibration_images(prefixes[0].input_shape)
        self._keep_batches(prefixes[0], maps)
        return 0, maps

    def _calibration_images(self, shape: Shape) -> list[Tensor]:
        """The batches that calibrate all subnets for images of a shape."""
        rng = np.random.default_rng(0)
        images = self.dataset.train.at(max(shape[1:]))
        batches = islice(images.batches(self._batch, rng=rng, drop_last=True), self._batches)
        return [self._placed(inputs) for inputs, _ in batches]

    def _keep_batches(self, prefix: Prefix, maps: Sequence[Tensor]) -> None:
        if len(prefix.children) > 1 or (prefix.layer is None and prefix.is_shared):
            for index, x in enumerate(maps):
                size = MAP_BYTES + x.untyped_storage().nbytes()
                self.memory.put((prefix, "batch", index), x, size)

    def _logits(
        self, subnet: Subnet, positions: Sequence[int], keep_all: bool
    ) -> tuple[list[int], Tensor]:
        """The positions in another order, and their logits (B, classes), each from its last map."""
        prefixes, last = subnet.prefixes, len(subnet.prefixes) - 1
        joining = self._kept(prefixes, positions)
        first = min(joining)
        order, x = list(joining[first]), _stacked(joining[first].values())
        for depth in range(first + 1, last + 1):
            x = self._run(subnet.modules[depth - 1], prefixes[depth], x)
            if depth < last and (keep_all or len(prefixes[depth].children) > 1):
                self._keep(prefixes[depth], order, x)
            if depth in joining:
                order += joining[depth]
                x = torch.cat([x, _stacked(joining[depth].values())])
        return order, x

    def _kept(
        self, prefixes: Sequence[Prefix], positions: Sequence[int]
    ) -> dict[int, dict[int, Tensor]]:
        """The deepest map of each position, by the depth of its prefix, or its image, by 0."""
        found: dict[int, dict[int, Tensor]] = {}
        missing = []
        depths = [depth for depth, prefix in enumerate(prefixes) if prefix.is_kept][::-1]
        for position in positions:
            for depth in depths:
                kept = self.memory.get((prefixes[depth], position))
                if isinstance(kept, Tensor):
                    found.setdefault(depth, {})[position] = kept
                    break
            else:
                missing.append(position)
        if missing:
            side = max(prefixes[0].input_shape[1:])
            batches = self.dataset.search.subset(missing).at(side).batches(READ_AT_ONCE)
            images = self._placed(torch.cat([inputs for inputs, _ in batches]))
            found.setdefault(0, {}).update(zip(missing, _apart(images), strict=True))
            if prefixes[0].is_shared:
                self._keep(prefixes[0], missing, images)
        return found

    def _keep(self, prefix: Prefix, positions: Sequence[int], maps: Tensor) -> None:
        prefix.is_kept = True
        for position, x in zip(positions, _apart(maps), strict=True):
            # a copy: a view would keep its whole batch in memory
            self.memory.put((prefix, position), x.clone(), MAP_BYTES + x.nbytes)

    def _run(self, module: nn.Module, prefix: Prefix, x: Tensor) -> Tensor:
        self._forwarded[prefix] += len(x)
        return module(x)  # type: ignore[no-any-return]

    def _placed(self, images: Tensor) -> Tensor:
        return images.to(self._device, memory_format=torch.channels_last)


def _apart(batch: Tensor) -> Iterable[Tensor]:
    """Views (H, W, C) of the maps of a batch (B, C, H, W), in their order in memory."""
    return batch.permute(0, 2, 3, 1).unbind()


def _stacked(maps: Iterable[Tensor]) -> Tensor:
    """(B, C, H, W) of maps (H, W, C), channels last."""
    return torch.stack(list(maps)).permute(0, 3, 1, 2)
