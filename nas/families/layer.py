"""Bases of all families: layers as values, and how timm names the weights of their modules."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple, Self, TypeAlias

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from nas.documents import Value
from nas.families.limits import MOST_CHANNELS, MOST_CLASSES, MOST_EXPANSION

if TYPE_CHECKING:
    from torch import nn

ModuleCall: TypeAlias = "partial[nn.Module]"
"""The class of a module with its arguments, which are plain values; calling it makes the module."""

Shape = tuple[int, int, int]
"""Channels, height, width of one image or feature map."""

Activation = Literal["gelu", "relu", "hardswish", "silu"]
Positive = Annotated[int, Field(gt=0, le=MOST_CHANNELS)]
Expansion = Annotated[float, Field(gt=0, le=MOST_EXPANSION)]
"""How many times wider a layer is inside."""
Epsilon = Annotated[float, Field(gt=0, le=1)]
"""The number that norms add to the variance."""
Classes = Annotated[int, Field(gt=1, le=MOST_CLASSES)]
DepthwiseKernel = Literal[3, 5]
"""Side of a depthwise convolution; in shared weights 3x3 is the middle of 5x5."""

NAME = "[a-z][a-z0-9_]*"
"""A part of a slot's name, as a regular expression."""

CONTEXT_FIELDS = frozenset({"slot", "channels", "in_channels", "out_channels", "classes"})
"""Fields that a search space fills in from the place where a layer stands."""

WIDTH_FIELDS = CONTEXT_FIELDS | {"expansion", "dim", "features"}
"""Fields that change the sizes of a layer's weights but not the nodes of its graph."""


class MapMisfitError(ValueError):
    """A feature map whose sides a layer's stride does not divide."""


class BlockFile(Value):
    """A Python file of a user's own layers; in a space's YAML its path alone.

    Runs and architectures record the SHA-256 of its content, and execute no other content.
    """

    path: str
    sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, data: object) -> object:
        return {"path": data} if isinstance(data, str) else data

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string"}, handler.resolve_ref_schema(handler(schema))]}


class Layer(Value):
    """A residual module, downsampling, stem or head, as a value.

    Layers with equal signatures and equal input shapes cost the same, wherever they stand.
    """

    descending: ClassVar[frozenset[str]] = frozenset()
    """Fields of which a larger value is cheaper, such as an attention's stride."""

    fixed: ClassVar[frozenset[str]] = frozenset()
    """Fields that cannot be a choice: no corner of one option's weights is another option."""

    origin: ClassVar[BlockFile | None] = None
    """The file of a user's own layers that defines this one."""

    published_drop_path: ClassVar[tuple[tuple[int, float], ...]] = ()
    """The rates of drop path that the networks with this layer were published with: pairs of the
    number of parameters with 1,000 classes, ascending, and the rate."""

    slot: Annotated[str, Field(pattern=rf"^{NAME}(\.{NAME})*$")]
    kind: str

    @model_validator(mode="after")
    def _is_wide_inside(self) -> Self:
        if self.origin is None and getattr(self, "hidden", 1) < 1:
            raise ValueError(f"{self.slot}: its expansion leaves no channel inside of it")
        return self

    def output_shape(self, input_shape: Shape) -> Shape:
        """The shape of the layer's output. Raises ValueError where the input does not fit."""
        raise NotImplementedError

    @staticmethod
    def module_class() -> type[nn.Module]:
        """The class of a built-in layer's module; torch is loaded with it."""
        raise NotImplementedError

    def module(self, input_shape: Shape) -> ModuleCall:
        """The call that makes this layer's module; ``nas.network.make_module`` calls it.

        The parameters of ``module_class`` have the names of fields and properties here; but ``act``
        is the activation, and ``map_size`` are the sides of the input.
        """
        make = self.module_class()
        values = {"act": getattr(self, "activation", None), "map_size": input_shape[1:]}
        args: list[object] = []
        kwargs: dict[str, object] = {}
        for parameter in inspect.signature(make).parameters.values():
            value = values[key] if (key := parameter.name) in values else getattr(self, key)
            if parameter.kind is parameter.KEYWORD_ONLY:
                kwargs[key] = value
            else:
                args.append(value)
        return partial(make, *args, **kwargs)

    @cached_property
    def signature(self) -> str:
        """Kind (with its file's version) and fields but defaults: ``conv_ffn channels=32``."""
        fields = type(self).model_fields
        words = [f"{self.kind}@{self.origin.sha256[:8]}" if self.origin else self.kind]
        for name in fields:
            value = getattr(self, name)
            if name not in ("slot", "kind") and value != fields[name].default:
                words.append(f"{name}={_text(value)}")
        return " ".join(words)

    @property
    def structure(self) -> str:
        """All fields but widths, as text. Layers that share it have the same nodes, as a rule."""
        return str(self.model_dump(exclude=set(WIDTH_FIELDS)))

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers of channels: of the feature maps, then inside the layer."""
        names = ("channels", "in_channels", "out_channels", "dim", "features", "hidden")
        return tuple(int(getattr(self, name)) for name in names if hasattr(self, name))

    def strided(self, input_shape: Shape, before: int, after: int, stride: int) -> Shape:
        """The shape behind a stride from ``before`` to ``after`` channels, once that fits."""
        self.require_channels(input_shape, before)
        self.require_divisible(input_shape, stride)
        return after, input_shape[1] // stride, input_shape[2] // stride

    def require_channels(self, input_shape: Shape, channels: int) -> None:
        """Raise ValueError unless ``input_shape`` has that many channels."""
        if input_shape[0] != channels:
            raise ValueError(f"{self.slot}: takes {channels} channels, got {input_shape[0]}")

    def require_divisible(self, input_shape: Shape, stride: int) -> None:
        """Raise MapMisfitError unless both sides of the map are multiples of ``stride``."""
        _, height, width = input_shape
        if height % stride or width % stride:
            raise MapMisfitError(
                f"{self.slot}: the map must be a multiple of {stride}, got {height}x{width}"
            )


class ResidualLayer(Layer):
    """A layer that keeps the shape."""

    channels: Positive

    def output_shape(self, input_shape: Shape) -> Shape:
        self.require_channels(input_shape, self.channels)
        return input_shape


class ExpandingLayer(ResidualLayer):
    """A residual layer that is wider inside by the factor ``expansion``."""

    expansion: Expansion

    @property
    def hidden(self) -> int:
        """Channels inside the layer."""
        return round(self.channels * self.expansion)


class Downsampling(Layer):
    """A layer that changes the number of channels and divides the sides of the map."""

    stride: ClassVar[int] = 2

    in_channels: Positive
    out_channels: Positive

    def output_shape(self, input_shape: Shape) -> Shape:
        return self.strided(input_shape, self.in_channels, self.out_channels, self.stride)


class Head(Layer):
    """A layer that makes logits of a feature map."""

    in_channels: Positive
    classes: Classes

    def output_shape(self, input_shape: Shape) -> Shape:
        self.require_channels(input_shape, self.in_channels)
        return self.classes, 1, 1


Sizes = tuple[int, ...]


@dataclass(frozen=True)
class TimmNames:
    """How timm (Wightman, Apache-2.0) names and lays out the weights of a family's networks.

    ``rules``, applied in turn as regular expressions and replacements, turn our names into timm's,
    but for the numbers of stages and blocks. Tensors of ours that get the same name are parts of
    one tensor there. ``layers`` are those of the family's networks in timm. ``networks`` turn the
    names of our published networks into timm's, likewise; timm lacks those that match ``lacking``.
    """

    family: str
    layers: tuple[type[Layer], ...]
    rules: tuple[tuple[str, str], ...]
    first_stage: int = 1
    """Our number of the stage that timm counts as 0; one that only the stem has is none there."""
    networks: tuple[tuple[str, str], ...] = ()
    lacking: str = "^$"
    has_bias_indices: bool = False
    """Whether timm's files hold the integer buffers that attention looks its biases up with."""

    def network(self, name: str) -> str | None:
        """The name in timm of a published network of ours; None if timm lacks it."""
        if re.search(self.lacking, name):
            return None
        for pattern, replacement in self.networks:
            name = re.sub(pattern, replacement, name)
        return name

    def block_index(self, layers: Sequence[Layer], stage: int, block: int) -> int:
        """The number that timm gives to a block, from our numbers of its stage and of itself."""
        return block - 1

    def axis(self, name: str) -> int:
        """The axis along which timm joins the tensor of that name with others."""
        return 0

    def groups(self, layer: Layer, name: str) -> int:
        """The number of equal groups of which each holds its share of all tensors so joined."""
        return 1

    def shape(self, layer: Layer, shape: Sizes) -> Sizes:
        """The shape in timm of a tensor of ours, which has ``shape`` where timm joins several."""
        return shape

    def order(self, layers: Sequence[Layer], name: str) -> tuple[int, Sequence[int]] | None:
        """An axis, and for each of our channels along it that of timm; None where they agree."""
        return None


class Family(NamedTuple):
    """Layers that were published together, and the names of their weights in timm."""

    layers: tuple[type[Layer], ...]
    timm: TimmNames | None = None


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
