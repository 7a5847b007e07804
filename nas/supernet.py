"""The supernet: one set of weights that all architectures of a space share.

For each slot and kind a supernet owns the tensors of the widest variant, and a copy of each norm
for each of its widths, unless the space shares norms (slimmable networks: Yu et al. 2019, arXiv
1812.08928, section 3.2). Architectures run on views into these tensors.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn
from torch.func import functional_call

from nas.architecture import Architecture
from nas.errors import UserError
from nas.families import Layer, Shape
from nas.network import Network, build, make_module
from nas.space import SearchSpace, Slot

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
PATH_LOGITS = "path_logits"
"""The end of the name of each vector of path logits."""


@runtime_checkable
class HasLogicalShapes(Protocol):
    """A module in which one axis of some tensors holds several elastic dimensions."""

    def logical_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each such tensor with an axis for each dimension, by the tensor's name."""


class Crop(NamedTuple):
    """Where one tensor of a layer lies in the supernet: a leading corner of the tensor ``key``.

    It is taken of the logical shape, in which each elastic dimension has its own axis, and is then
    laid out as ``shape``. Along a kernel's axes it lies in the middle, not at the start.
    """

    name: str
    key: str
    logical: tuple[int, ...]
    corner: tuple[slice, ...]
    shape: torch.Size

    def take(self, whole: torch.Tensor) -> torch.Tensor:
        """The corner of ``whole``: a view wherever the tensor's shape is its logical shape."""
        if whole.shape == self.shape:
            return whole
        if whole.shape == self.logical:
            return whole[self.corner]
        return whole.view(self.logical)[self.corner].reshape(self.shape)


class PlainLayer(NamedTuple):
    """An ordinary module on the meta device, and the crops that hold its tensors."""

    module: nn.Module
    crops: tuple[Crop, ...]


class MetaPath(nn.Module):
    """The sum of weight times candidate(x) over a slot's candidates (arXiv 2206.01191)."""

    def __init__(self, candidates: Sequence[nn.Module]) -> None:
        super().__init__()
        self.candidates = nn.ModuleList(candidates)

    def forward(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        pairs = zip(weights.unbind(), self.candidates, strict=True)
        return torch.stack([weight * candidate(x) for weight, candidate in pairs]).sum(0)


class Supernet(nn.Module):
    """Shared weights of all architectures of ``space``, also on images of other ``resolutions``.

    Larger resolutions than the space's own add attention biases, for their larger offsets. In one
    that is ``anchored`` norms of the largest network keep their statistics, to which those of all
    others are relative (``nas/training/relative.py``). Raises UserError if the variants of a slot
    are not corners of one widest variant.
    """

    def __init__(
        self, space: SearchSpace, resolutions: Sequence[int] = (), *, anchored: bool = False
    ) -> None:
        super().__init__()
        self.space, self.anchored = space, anchored
        self.resolutions = tuple(sorted({*space.input_sizes, *resolutions}))
        self._plain_layers: dict[tuple[Layer, Shape], PlainLayer] = {}
        self._mixed: dict[int, list[tuple[str, PlainLayer]]] = {}
        self._logical: dict[str, tuple[int, ...]] = {}
        for slot in space.slots:
            self._own(slot)
        for name, candidates in space.paths.items():
            self.register_parameter(_path_key(name), nn.Parameter(torch.zeros(len(candidates))))

    def forward(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        """Returns logits (N, classes) of ``architecture`` for images (N, channels, H, W).

        Raises ValueError if the images are of another size, or a layer is not in the space.
        """
        if images.shape[1:] != architecture.input_shape:
            found, wanted = tuple(images.shape[1:]), architecture.input_shape
            raise ValueError(f"{self.space.name}: takes images of {wanted}, got {found}")
        x = images
        for layer, shape in architecture.placed():
            plain = self._plain_layer(layer, shape)
            plain.module.train(self.training)
            views = {crop.name: crop.take(self._tensor(crop.key)) for crop in plain.crops}
            x = functional_call(plain.module, views, (x,), strict=True)
        return x

    def mixture(self, images: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Returns logits (N, classes) at the largest widths, with candidates mixed in each slot.

        ``weights`` holds, for each slot of ``space.paths``, a vector with each candidate's weight.
        Gradients reach these vectors only, and norms in training keep their statistics.
        """
        x = images
        for slot, plain in self._mixed_layers(images.shape[-1]):
            plain.module.train(self.training and not self.anchored)
            views = {crop.name: self._constant(crop) for crop in plain.crops}
            inputs = (x, weights[slot]) if slot in self.space.paths else (x,)
            x = functional_call(plain.module, views, inputs, strict=True)
        return x

    @property
    def path_logits(self) -> Mapping[str, torch.Tensor]:
        """For each slot of ``space.paths`` a vector over its candidates; zeros at the start."""
        return {slot: self._tensor(_path_key(slot)) for slot in self.space.paths}

    def plain_modules(self, architecture: Architecture) -> Mapping[str, nn.Module]:
        """The module on the meta device that ``forward`` calls in each slot."""
        placed = architecture.placed()
        return {layer.slot: self._plain_layer(layer, shape).module for layer, shape in placed}

    def extract(self, architecture: Architecture) -> Network:
        """Returns an ordinary network with a copy of the architecture's weights."""
        with torch.device("meta"):
            network = build(architecture)
        state = {
            f"{layer.slot}.{crop.name}": crop.take(self._tensor(crop.key)).detach().clone()
            for layer, shape in architecture.placed()
            for crop in self._plain_layer(layer, shape).crops
        }
        network.load_state_dict(state, strict=True, assign=True)
        return network.requires_grad_(True).train(self.training)

    @torch.no_grad()
    def absorb(self, network: nn.Module, architecture: Architecture) -> None:
        """Take over a network's weights: the inverse of ``extract``.

        Private norms of narrower widths begin as the first channels of the network's. Raises
        ValueError if a layer is not in the space.
        """
        given = network.state_dict()
        for layer, shape in architecture.placed():
            for crop in self._plain_layer(layer, shape).crops:
                value = given[f"{layer.slot}.{crop.name}"]
                corner = self._tensor(crop.key).view(crop.logical)[crop.corner]
                corner.copy_(value.reshape(corner.shape))
                shared, at, width = crop.key.partition("@")
                for key in self._logical if at else ():
                    narrower = key.removeprefix(f"{shared}@")
                    if narrower != key and value.dim() and int(narrower) < int(width):
                        self._tensor(key).copy_(value[: int(narrower)])

    def module_of(self, layer: Layer, shape: Shape) -> nn.Module:
        """Returns a module, in evaluation, on views of a layer's weights, without gradients.

        ``shape`` is the layer's input shape. Raises ValueError if the layer is not in the space.
        """
        plain = self._plain_layer(layer, shape)
        module = copy.deepcopy(plain.module)  # faster than making a module
        state = {crop.name: self._constant(crop) for crop in plain.crops}
        module.load_state_dict(state, strict=True, assign=True)
        return module.requires_grad_(False).eval()

    def _own(self, slot: Slot) -> None:
        """Make the tensors of which the variants of a slot take corners."""
        kinds: dict[str, list[tuple[Layer, Shape]]] = {}
        for layer, shape in self.space.variants(slot, self.resolutions):
            if layer is not None:
                kinds.setdefault(layer.kind, []).append((layer, shape))
        for kind, variants in kinds.items():
            owners, norm_widths = _survey(slot, kind, variants)
            for owner in dict.fromkeys(owners.values()):
                module = make_module(*owner)
                norms = self._private_norms(module)
                logical = _logical_shapes(module)
                for name, tensor in module.state_dict(keep_vars=True).items():
                    path = name.rpartition(".")[0]
                    if owners[name] != owner:
                        continue
                    key = _key(slot.name, kind, name)
                    if path not in norms:
                        self._register(key, tensor, logical[name])
                        continue
                    for width in sorted(norm_widths[path]):
                        part = (tensor[:width] if tensor.dim() else tensor).detach().clone()
                        copied = nn.Parameter(part) if isinstance(tensor, nn.Parameter) else part
                        self._register(f"{key}@{width}", copied, tuple(part.shape))

    def _private_norms(self, module: nn.Module) -> Mapping[str, int]:
        return dict(_norms(module)) if self.space.norms == "private" else {}

    def _register(self, key: str, tensor: torch.Tensor, logical: tuple[int, ...]) -> None:
        self._logical[key] = logical
        if isinstance(tensor, nn.Parameter):
            self.register_parameter(key, tensor)
        else:
            self.register_buffer(key, tensor)

    def _tensor(self, key: str) -> torch.Tensor:
        tensor = self._parameters[key] if key in self._parameters else self._buffers[key]
        assert tensor is not None
        return tensor

    def _plain_layer(self, layer: Layer, shape: Shape) -> PlainLayer:
        if (layer, shape) not in self._plain_layers:
            with torch.device("meta"):
                module = make_module(layer, shape)
            crops = tuple(self._crops(layer, module))
            self._plain_layers[layer, shape] = PlainLayer(module, crops)
        return self._plain_layers[layer, shape]

    def _mixed_layers(self, pixels: int) -> Sequence[tuple[str, PlainLayer]]:
        """Each slot of the largest network with its layer, or with a MetaPath of all candidates."""
        if pixels not in self._mixed:
            largest, paths = self.space.largest(), self.space.paths_at(pixels)
            placed = largest.with_input_size(pixels).placed()
            fixed = {layer.slot: (layer, shape) for layer, shape in placed}
            self._mixed[pixels] = [
                (name, self._meta_path(paths[name]))
                if name in paths
                else (name, self._plain_layer(*fixed[name]))
                for name in (slot.name for slot in self.space.slots)
                if name in paths or name in fixed
            ]
        return self._mixed[pixels]

    def _meta_path(self, candidates: Iterable[tuple[Layer, Shape] | None]) -> PlainLayer:
        modules: list[nn.Module] = []
        crops: list[Crop] = []
        for index, placed in enumerate(candidates):
            if placed is None:
                modules.append(nn.Identity())
            else:
                plain = self._plain_layer(*placed)
                modules.append(plain.module)
                crops += [it._replace(name=f"candidates.{index}.{it.name}") for it in plain.crops]
        return PlainLayer(MetaPath(modules), tuple(crops))

    def _constant(self, crop: Crop) -> torch.Tensor:
        """The crop of a weight as a view without gradient; of a buffer, as a copy."""
        view = crop.take(self._tensor(crop.key)).detach()
        return view.clone() if crop.key in self._buffers else view

    def _crops(self, layer: Layer, module: nn.Module) -> Iterator[Crop]:
        norms = self._private_norms(module)
        shapes = _logical_shapes(module)
        kernels = {
            f"{path}.weight" if path else "weight": child.kernel_size
            for path, child in module.named_modules()
            if isinstance(child, CONVOLUTIONS)
        }
        for name, tensor in module.state_dict(keep_vars=True).items():
            key = _key(layer.slot, layer.kind, name)
            path = name.rpartition(".")[0]
            if path in norms:
                key += f"@{norms[path]}"
            if key not in self._logical:
                raise ValueError(f"{layer.slot}: {layer.signature} is not in {self.space.name}")
            part, whole = shapes[name], self._logical[key]
            if len(part) != len(whole) or any(p > w for p, w in zip(part, whole, strict=True)):
                rule = f"a corner of {part} does not fit into the supernet's {whole}"
                raise ValueError(f"{layer.slot}.{name}: {rule}")
            corner = _corner(part, whole, len(kernels.get(name, ())))
            yield Crop(name, key, whole, corner, tensor.shape)


def _key(slot: str, kind: str, name: str) -> str:
    return f"{slot}:{kind}:{name}".replace(".", "/")  # torch allows no dots in names


def _path_key(slot: str) -> str:
    return f"{slot}:{PATH_LOGITS}".replace(".", "/")


def _corner(part: Sequence[int], whole: Sequence[int], kernel_axes: int) -> tuple[slice, ...]:
    """The leading corner, but the middle along the last axes, which are a kernel's."""
    firsts = [0] * (len(part) - kernel_axes)
    firsts += [(w - p) // 2 for p, w in zip(part, whole, strict=True)][len(firsts) :]
    return tuple(slice(first, first + side) for first, side in zip(firsts, part, strict=True))


def _norms(module: nn.Module) -> Iterator[tuple[str, int]]:
    """The path and the width of each norm inside ``module``."""
    for path, child in module.named_modules():
        if isinstance(child, NORMS):
            yield path, next(child.parameters()).shape[0]


def _survey(
    slot: Slot, kind: str, variants: Sequence[tuple[Layer, Shape]]
) -> tuple[dict[str, tuple[Layer, Shape]], dict[str, set[int]]]:
    """The widest variant for each tensor, which owns the tensor; and the widths of each norm."""
    owners: dict[str, tuple[Layer, Shape]] = {}
    largest: dict[str, tuple[int, ...]] = {}
    widest: dict[str, tuple[int, ...]] = {}
    norm_widths: dict[str, set[int]] = {}
    groups: dict[str, tuple[int, ...]] = {}
    for variant in variants:
        form = _form(*variant)
        for path, group in form.groups:
            if groups.setdefault(path, group) != group:
                raise UserError(
                    f"{slot.name}: '{kind}': channels per group of {path or 'its module'} must be "
                    f"the same at all widths, got {groups[path]} and {group}: with a fixed number "
                    "of groups a narrower one is no corner of a wider one"
                )
        for path, width in form.norms:
            norm_widths.setdefault(path, set()).add(width)
        for name, shape in form.tensors:
            known = widest.get(name, shape)
            widest[name] = tuple(max(pair) for pair in zip(shape, known, strict=True))
            if name not in owners or math.prod(shape) > math.prod(largest[name]):
                owners[name], largest[name] = variant, shape
    for name, shape in widest.items():
        if largest[name] != shape:
            raise UserError(
                f"{slot.name}: no variant of '{kind}' is widest in all axes of {name}: the "
                f"largest is {largest[name]}, others reach {shape}"
            )
    return owners, norm_widths


class _Form(NamedTuple):
    """What a layer's module is made of, by the paths and names inside it."""

    groups: tuple[tuple[str, tuple[int, ...]], ...]
    norms: tuple[tuple[str, int], ...]
    tensors: tuple[tuple[str, tuple[int, ...]], ...]


@lru_cache(maxsize=4096)  # all supernets of a space have the same layers
def _form(layer: Layer, shape: Shape) -> _Form:
    with torch.device("meta"):
        module = make_module(layer, shape)
    tensors = tuple(_logical_shapes(module).items())
    return _Form(tuple(_groups(module)), tuple(_norms(module)), tensors)


def _groups(module: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The path and the channels per group of each module that divides its channels into groups."""
    for path, child in module.named_modules():
        if isinstance(child, CONVOLUTIONS) and child.groups > 1:
            yield path, (child.in_channels // child.groups, child.out_channels // child.groups)
        elif isinstance(child, nn.GroupNorm) and child.num_groups > 1:
            yield path, (child.num_channels // child.num_groups,)
        elif isinstance(child, nn.MultiheadAttention):  # queries, keys, values along one axis
            yield path, (child.embed_dim,)


def elastic_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor with an axis for each elastic dimension, and one for a kernel."""
    kernels = {
        f"{path}.weight" if path else "weight": len(child.kernel_size)
        for path, child in module.named_modules()
        if isinstance(child, CONVOLUTIONS)
    }
    return {
        name: (*shape[: len(shape) - kernels[name]], math.prod(shape[len(shape) - kernels[name] :]))
        if name in kernels
        else shape
        for name, shape in _logical_shapes(module).items()
    }


def _logical_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor, with every elastic dimension on an axis of its own."""
    declared = {
        f"{path}.{name}" if path else name: shape
        for path, child in module.named_modules()
        if isinstance(child, HasLogicalShapes)
        for name, shape in child.logical_shapes().items()
    }
    return {
        name: declared.get(name, tuple(tensor.shape))
        for name, tensor in module.state_dict(keep_vars=True).items()
    }
