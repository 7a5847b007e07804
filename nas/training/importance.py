"""The order of channels and heads of a network by importance: a subnet keeps the first ones.

Which axes of which tensors hold the same channels is found by making each layer again with one
option changed: axes that change alike belong together, and those that change with a stage's width
hold the channels that its residual sum ties together. A group is reordered only if that leaves the
network's outputs as they are.

Importance of a channel: the sum over tensors and batches of |sum of weight times gradient| over its
weights, the first-order change of the loss without it (Molchanov et al. 2019, arXiv 1906.10771), or
its weights' magnitude.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.data.images import Images
from nas.families import Layer, Shape
from nas.network import Network, make_module
from nas.space import SearchSpace, Slot
from nas.supernet import elastic_shapes
from nas.training.settings import Importance
from nas.training.step import keeping_statistics

BATCHES, BATCH_SIZE = 50, 32
"""Of Taylor importance, as Isomorphic Pruning takes (Fang et al. 2024, arXiv 2407.04616)."""

SAME = 1e-6
"""The largest difference of a reordered network's outputs in float64, over the largest output."""


@dataclass
class Group:
    """Channels that are kept or dropped together: their axes in the tensors of a network."""

    name: str
    size: int
    axes: list[tuple[str, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Channels:
    """The groups of a space's largest network, and the shapes in which they have axes."""

    groups: Sequence[Group]
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, space: SearchSpace) -> Channels:
        """Find the groups."""
        groups: dict[object, Group] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, slot, variants in _variants(space):
            found = [(_elastic_shapes(*it), _widths(*it)) for it in variants]
            own, _ = found[0]
            # an option that takes tensors away, as a depth does, tells nothing of their axes
            made, sides = zip(*(it for it in found if it[0].keys() == own.keys()), strict=True)
            streams = dict(zip(zip(*sides, strict=True), _streams(slot), strict=True))
            for name, shape in made[0].items():
                shapes[f"{layer.slot}.{name}"] = shape
                for axis, size in enumerate(shape):
                    sizes = tuple(shapes_of[name][axis] for shapes_of in made)
                    if len(set(sizes)) == 1:
                        continue
                    key = streams.get(sizes, (layer.slot, sizes))
                    group = groups.setdefault(key, Group(_text(key), size))
                    group.axes.append((f"{layer.slot}.{name}", axis))
        return cls(list(groups.values()), shapes)

    def scores(self, group: Group, values: Mapping[str, Tensor]) -> Tensor:
        """For each channel the sum over tensors of |sum of its values|, (size,)."""
        total = torch.zeros(group.size)
        for name, axis in group.axes:
            if name in values:
                tensor = values[name].reshape(self.shapes[name])
                total += tensor.movedim(axis, 0).reshape(group.size, -1).sum(1).abs()
        return total

    def reordered(
        self, state: Mapping[str, Tensor], orders: Iterable[tuple[Group, Tensor]]
    ) -> dict[str, Tensor]:
        """The tensors with the channels of some groups in other orders."""
        found = dict(state)
        for group, order in orders:
            for name, axis in group.axes:
                tensor = found[name]
                elastic = tensor.reshape(self.shapes[name]).index_select(axis, order)
                found[name] = elastic.reshape(tensor.shape)
        return found


def sort_channels(
    network: Network,
    space: SearchSpace,
    images: Images,
    *,
    importance: Importance,
    seed: int = 0,
) -> Network:
    """A copy of the largest network of ``space`` with the most important channels first.

    It computes what ``network`` does. Norms keep their statistics while gradients are taken.
    """
    if importance == "none":
        return copy.deepcopy(network)
    channels = Channels.of(space)
    groups = exchangeable(channels, network, space)
    if importance == "magnitude":
        values = {name: it.detach() ** 2 for name, it in network.named_parameters()}
        scores = [channels.scores(group, values) for group in groups]
    else:
        scores = [torch.zeros(group.size) for group in groups]
        for values in _taylor(network, images, seed):
            for place, group in enumerate(groups):
                scores[place] += channels.scores(group, values)
    orders = [score.argsort(descending=True, stable=True) for score in scores]
    return _with_state(
        network, channels.reordered(network.state_dict(), zip(groups, orders, strict=True))
    )


def exchangeable(channels: Channels, network: Network, space: SearchSpace) -> list[Group]:
    """The groups whose channels may change places: outputs stay the same, in float64."""
    exact = copy.deepcopy(network).double().cpu().eval()
    state = exact.state_dict()
    generator = torch.Generator().manual_seed(0)
    shape = space.largest().input_shape
    images = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    found = []
    with torch.inference_mode():
        expected = exact(images)
        for group in channels.groups:
            order = torch.randperm(group.size, generator=generator)
            changed = _with_state(exact, channels.reordered(state, [(group, order)]))
            difference = (changed(images) - expected).abs().max() / expected.abs().max()
            if difference <= SAME:
                found.append(group)
    return found


def _taylor(network: nn.Module, images: Images, seed: int) -> Iterator[dict[str, Tensor]]:
    """Weight times gradient of each parameter, batch by batch."""
    device = next(network.parameters()).device
    network = copy.deepcopy(network).requires_grad_(True).train()
    batches = images.batches(BATCH_SIZE, rng=np.random.default_rng((seed, 4)), drop_last=True)
    for inputs, labels in islice(batches, BATCHES):
        placed = inputs.to(device, memory_format=torch.channels_last)
        with keeping_statistics(network):
            loss = functional.cross_entropy(network(placed), labels.to(device))
        network.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        yield {
            name: (it.detach() * it.grad).cpu()
            for name, it in network.named_parameters()
            if it.grad is not None
        }


def _with_state(network: Network, state: Mapping[str, Tensor]) -> Network:
    made = copy.deepcopy(network)
    made.load_state_dict(dict(state))
    return made


def _variants(space: SearchSpace) -> Iterator[tuple[Layer, Slot, list[tuple[Layer, Shape]]]]:
    """Each layer of the largest network, and before others itself with one option changed."""
    placed = {layer.slot: (layer, shape) for layer, shape in space.largest().placed()}
    for slot in space.slots:
        if slot.name not in placed:
            continue
        layer, shape = placed[slot.name]
        others = [
            (other, given)
            for other, given in space.variants(slot, [space.largest_size])
            if other is not None and other.kind == layer.kind and _changes(layer, other) == 1
        ]
        yield layer, slot, [(layer, shape), *others]


def _changes(one: Layer, other: Layer) -> int:
    """The number of fields in which two layers differ."""
    return sum(getattr(one, name) != getattr(other, name) for name in type(one).model_fields)


def _widths(layer: Layer, shape: Shape) -> tuple[int, int]:
    """Channels before and after a layer."""
    return shape[0], layer.output_shape(shape)[0]


def _streams(slot: Slot) -> tuple[object, object]:
    """The groups of the channels before and after a slot: those of a stage's residual sums."""
    before = slot.stage - 1 if slot.enters else slot.stage
    return ("stage", before), ("stage", slot.stage)


def _elastic_shapes(layer: Layer, shape: Shape) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return elastic_shapes(make_module(layer, shape))


def _text(key: object) -> str:
    assert isinstance(key, tuple)
    return f"stage{key[1] + 1}.width" if key[0] == "stage" else str(key[0])
