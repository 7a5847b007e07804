"""The grammar of a search-space file: layers whose fields may be lists, blocks, stages, slots."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar, Union

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    SerializeAsAny,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    create_model,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from nas.documents import Value
from nas.families import CONTEXT_FIELDS, LAYERS, Layer
from nas.families.limits import MOST_CHANNELS, MOST_LAYERS, MOST_PIXELS
from nas.families.own import pick
from nas.parsing import Location

T = TypeVar("T")
Option = int | float | str | bool
MOST_OPTIONS = 100
"""Of one choice; widths of 4 to 400 in steps of 4."""
Width = Annotated[int, Field(gt=0, le=MOST_CHANNELS)]
Widths = Width | Annotated[tuple[Width, ...], Field(min_length=1, max_length=MOST_OPTIONS)]
Pixels = Annotated[int, Field(gt=0, le=MOST_PIXELS)]
Sides = Pixels | Annotated[tuple[Pixels, ...], Field(min_length=1, max_length=MOST_OPTIONS)]
IDENTITY = "identity"
"""The kind that leaves a slot out."""


class LayerSpec(Value):
    """A layer in a file, of which any field may be a list: then the field is a choice."""

    layer: ClassVar[type[Layer] | None] = None
    """The class of the layers that the spec makes; None where it leaves the slot out."""

    kind: str


class IdentitySpec(LayerSpec):
    """The candidate that leaves its slot out of the architecture."""

    kind: Literal["identity"]

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [{"const": "identity"}, handler.resolve_ref_schema(handler(schema))]}


@cache  # equal specs have one class
def spec_of(layer: type[Layer]) -> type[LayerSpec]:
    """Returns the spec of a layer class: its own fields, most of which take a value or a list."""
    fields: dict[str, Any] = {}
    for name, info in layer.model_fields.items():
        if name == "kind":
            fields[name] = (info.annotation, ...)
        elif name not in CONTEXT_FIELDS:
            value: Any = info.annotation
            if info.metadata:
                value = Annotated[(value, *info.metadata)]
            several = Field(min_length=1, max_length=MOST_OPTIONS)
            options: Any = Annotated[tuple[value, ...], several]
            given = value if name in layer.fixed else value | options
            fields[name] = (given, ... if info.is_required() else info.default)
    spec = create_model(
        f"{layer.__name__}Spec", __base__=LayerSpec, __doc__=layer.__doc__, **fields
    )
    spec.layer = layer
    return spec


SPECS: dict[str, type[LayerSpec]] = {
    "identity": IdentitySpec,
    **{kind: spec_of(layer) for kind, layer in LAYERS.items()},
}


def _spell_out(data: object) -> object:
    """``identity`` is short for ``{kind: identity}``."""
    return {"kind": data} if isinstance(data, str) else data


def _spec(data: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> object:
    return pick(data, handler, info, spec_of, SPECS)


if TYPE_CHECKING:
    AnySpec = LayerSpec
else:
    AnySpec = SerializeAsAny[
        Annotated[
            Union[tuple(SPECS.values())],  # noqa: UP007 - made from a tuple
            Field(discriminator="kind"),
            WrapValidator(_spec),
            BeforeValidator(_spell_out),
        ]
    ]

Candidates = AnySpec | Annotated[tuple[AnySpec, ...], Field(min_length=1, max_length=MOST_OPTIONS)]


class Block(Value):
    """Slots that follow each other, by name; ``repeat`` stands for that many such blocks."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Candidates]

    repeat: Annotated[int, Field(gt=0, le=MOST_LAYERS)] = 1


class Stage(Value):
    """Blocks of one width and map size, after an optional downsampling."""

    width: Widths
    downsample: Candidates | None = None
    blocks: tuple[Block, ...] = ()


class Slot(NamedTuple):
    """A place for a layer, with its candidates and its location in the file.

    ``stage`` counts from 0; the stem lies in the first and the head in the last. ``key`` is the key
    in the file. ``before`` and ``after`` are the possible widths of the map around the slot.
    """

    name: str
    key: str
    position: Literal["stem", "downsample", "block", "head"]
    stage: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    candidates: tuple[LayerSpec, ...]
    location: Location

    @property
    def enters(self) -> bool:
        """Whether the slot leads from the width of the stage before to that of its own."""
        return self.position == "downsample" and self.stage > 0

    @property
    def is_path_choice(self) -> bool:
        """Whether the slot may vary in kind or be left out."""
        return len(self.candidates) > 1

    def width_pairs(self) -> list[tuple[int, int]]:
        """Returns the possible pairs of a width before the slot and a width after it."""
        if self.enters or self.position == "stem":
            return list(itertools.product(self.before, self.after))
        return [(width, width) for width in self.after]

    def count_width_pairs(self) -> int:
        """Returns the number of ``width_pairs``."""
        leads = self.enters or self.position == "stem"
        return len(self.before) * len(self.after) if leads else len(self.after)


def lay_out(
    channels: int, stem: LayerSpec, stages: tuple[Stage, ...], head: LayerSpec
) -> Iterator[Slot]:
    """Yields all slots of a space, in the order in which images pass them."""
    last = width = as_tuple(stages[0].width)
    yield Slot("stem", "stem", "stem", 0, (channels,), width, (stem,), ("stem",))
    for number, stage in enumerate(stages):
        location: Location = ("stages", number)
        name, last, width = f"stage{number + 1}", width, as_tuple(stage.width)
        if stage.downsample is not None:
            key = "downsample"
            own = as_tuple(stage.downsample), (*location, key)
            yield Slot(f"{name}.{key}", key, "downsample", number, last, width, *own)
        count = 0
        for index, block in enumerate(stage.blocks):
            for _ in range(block.repeat):
                count += 1
                for key, candidates in (block.__pydantic_extra__ or {}).items():
                    own = as_tuple(candidates), (*location, "blocks", index, key)
                    slot = f"{name}.block{count}.{key}"
                    yield Slot(slot, key, "block", number, width, width, *own)
    yield Slot("head", "head", "head", len(stages) - 1, width, width, (head,), ("head",))


def as_tuple(value: T | tuple[T, ...]) -> tuple[T, ...]:
    """Returns the options of a value that may or may not be a choice."""
    return value if isinstance(value, tuple) else (value,)
