"""The choices of a search space, and the layers that may stand in each of its slots."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from nas.families import NAME, Layer, Shape
from nas.families.limits import MOST_LAYERS
from nas.parsing import Location
from nas.space.document import IDENTITY, LayerSpec, Option, Slot, Stage, as_tuple

if TYPE_CHECKING:
    import numpy as np

Role = Literal["input_size", "width", "kind", "field"]
Variant = tuple[Layer | None, Shape, int]
"""A layer that may stand in a slot, its input shape, and the width that it must make."""
WIDTH_STEP = 4
"""Runtimes lay channels out in blocks of at least 4; widths between cost up to 78 % extra."""
MOST_VARIANTS = 50_000
"""Of all slots; the largest space here has 5,161, and a table takes as many measurements."""


@dataclass(frozen=True)
class Choice:
    """One decision of a search space, and its options from the cheapest to the most expensive.

    ``role`` is its subject: the side of the images, the width of a stage, the kind of layer in a
    slot, or a field of the layers in a slot. ``stage`` counts from 0 and is None for the input
    size, the stem and the head. ``kind`` is None where the kinds of a slot share the choice.
    """

    role: Role
    options: tuple[Option, ...]
    stage: int | None = None
    slot: str | None = None
    kind: str | None = None
    field: str | None = None

    @property
    def name(self) -> str:
        """The name in files and for people, such as ``stage3.block2.ffn.expansion``."""
        return f"{self.part}.{self.label}" if self.label else self.part

    @property
    def part(self) -> str:
        """The part of the network: ``input_size``, ``stem``, ``stage3``, ``head``."""
        if self.stage is not None:
            return f"stage{self.stage + 1}"
        return self.slot or self.role

    @property
    def module(self) -> str:
        """The slot within its stage, such as ``block2.ffn``, or an empty text."""
        return (self.slot or "").partition(".")[2]

    @property
    def label(self) -> str:
        """The name within ``part``: ``width``, ``block2.ffn.kind``; empty for the input size."""
        if self.role == "input_size":
            return ""
        last = self.field or self.role
        return ".".join(word for word in (self.module, self.kind, last) if word)

    @property
    def is_optional(self) -> bool:
        """Whether its first option leaves the slot out."""
        return self.role == "kind" and self.options[0] == IDENTITY

    def concerns(self, slot: Slot) -> bool:
        """Whether the layer in ``slot``, or its input shape, may depend on the choice."""
        if self.role == "width":
            return self.stage == slot.stage or (slot.enters and self.stage == slot.stage - 1)
        return self.role == "input_size" or self.slot == slot.name

    def is_field_of(self, slot: Slot, spec: LayerSpec) -> bool:
        """Whether it decides a field of ``spec``, if that is chosen in ``slot``."""
        return (
            self.role == "field"
            and self.slot == slot.name
            and self.kind in (None, spec.kind)
            and self.field in elastic_fields(spec)
        )


def named_choice(name: str, options: Sequence[Option]) -> Choice:
    """Returns the choice with a name from a file; raises ValueError if it is no such name."""
    pattern = (
        r"(?P<size>input_size)|stage(?P<stage>[1-9]\d*)\.width"
        r"|(?P<slot>stem|head|stage(?P<within>[1-9]\d*)\.(downsample|block\d+\.\w+))"
        r"\.((?P<kinds>kind)|((?P<kind>\w+)\.)?(?P<field>\w+))"
    )
    found = re.fullmatch(pattern, name)
    if found is None:
        raise ValueError(f"'{name}' is the name of no choice")
    number = found["stage"] or found["within"]
    stage = int(number) - 1 if number else None
    role: Role = "input_size" if found["size"] else "width" if found["stage"] else "field"
    if found["kinds"]:
        role = "kind"
    return Choice(role, tuple(options), stage, found["slot"], found["kind"], found["field"])


def compile_choices(
    input_size: int | tuple[int, ...], stages: Sequence[Stage], slots: Iterable[Slot]
) -> Iterator[Choice]:
    """Yields all choices: the input size, then stage by stage its width and its slots."""
    if isinstance(input_size, tuple):
        yield Choice("input_size", input_size)
    for number, stage in enumerate(stages):
        if isinstance(stage.width, tuple):
            yield Choice("width", stage.width, stage=number)
        for slot in slots:
            if slot.stage == number:
                yield from _slot_choices(slot)


def _slot_choices(slot: Slot) -> Iterator[Choice]:
    """Yields the choices of a slot: its kind, then the fields; kinds of equal options share one."""
    stage = slot.stage if slot.position in ("downsample", "block") else None
    if slot.is_path_choice:
        yield Choice("kind", tuple(spec.kind for spec in slot.candidates), stage, slot.name)
    elastic = [
        (spec.kind, field, options)
        for spec in slot.candidates
        for field, options in elastic_fields(spec).items()
    ]
    offers = Counter(field for field, _ in {(field, options) for _, field, options in elastic})
    yield from dict.fromkeys(
        Choice("field", options, stage, slot.name, kind if offers[field] > 1 else None, field)
        for kind, field, options in elastic
    )


def sample_options(choices: Iterable[Choice], rng: np.random.Generator) -> tuple[int, ...]:
    """Returns a random option of each choice, see ``SearchSpace.sample``."""
    share = rng.uniform()

    def sample(choice: Choice) -> int:
        count, optional = len(choice.options), int(choice.is_optional)
        if choice.role != "kind":
            return int(rng.binomial(count - 1, share))
        if optional and not rng.binomial(1, share):
            return 0
        return int(rng.integers(optional, count)) if count > optional + 1 else optional

    return tuple(sample(choice) for choice in choices)


def scale_options(
    choices: Iterable[Choice], slots: Iterable[Slot], share: float
) -> tuple[int, ...]:
    """Returns the same share of the options of each choice, see ``SearchSpace.uniform``."""
    keys = {slot.name: slot.key for slot in slots}
    counts: Counter[tuple[int | None, str]] = Counter()

    def scale(choice: Choice) -> int:
        last = len(choice.options) - 1
        if choice.role != "kind" or choice.slot is None:
            return math.floor(last * share + 0.5)
        group = choice.stage, keys[choice.slot]
        before = math.floor(counts[group] * share + 1e-9)
        counts[group] += 1
        return last if math.floor(counts[group] * share + 1e-9) > before else 0

    return tuple(scale(choice) for choice in choices)


def elastic_fields(spec: LayerSpec) -> dict[str, tuple[Option, ...]]:
    """Returns the fields of which a candidate lists several options, with these."""
    return {name: value for name, value in _own_fields(spec) if isinstance(value, tuple)}


def fillings(slot: Slot) -> Iterator[tuple[LayerSpec, dict[str, Option]]]:
    """Yields each candidate with each combination of its own choices."""
    for spec in slot.candidates:
        elastic = elastic_fields(spec)
        for options in itertools.product(*elastic.values()):
            yield spec, dict(zip(elastic, options, strict=True))


def count_variants(slot: Slot, input_sizes: int) -> int:
    """Returns how many layers may stand in a slot, each counted once for each input shape."""
    fields = (elastic_fields(spec).values() for spec in slot.candidates)
    combined = sum(math.prod(map(len, options)) for options in fields)
    return input_sizes * combined * slot.count_width_pairs()


def make_layer(
    slot: Slot, spec: LayerSpec, fields: Mapping[str, Option], before: int, after: int, classes: int
) -> Layer | None:
    """Returns a candidate as a layer with these fields and widths; None for identity."""
    made = spec.layer
    if made is None:
        return None
    widths = {"channels": after, "in_channels": before, "out_channels": after, "classes": classes}
    fixed = {name: value for name, value in _own_fields(spec) if not isinstance(value, tuple)}
    filled = {name: value for name, value in widths.items() if name in made.model_fields}
    return made.model_validate({"slot": slot.name, **filled, **fixed, **fields})


def largest_layer(slot: Slot, spec: LayerSpec, classes: int) -> Layer | None:
    """Returns a candidate with the most expensive option of each field, at the largest widths."""
    fields = {field: options[-1] for field, options in elastic_fields(spec).items()}
    return make_layer(slot, spec, fields, slot.before[-1], slot.after[-1], classes)


def stage_complaints(stages: Sequence[Stage]) -> Iterator[tuple[Location, str]]:
    """Yields the errors in stages and their widths, with their locations in the file."""
    slots = sum(it.repeat * len(it.__pydantic_extra__ or ()) for one in stages for it in one.blocks)
    if slots > MOST_LAYERS:
        yield ("stages",), f"a network may have {MOST_LAYERS:,} layers, this space has {slots:,}"
    last: int | tuple[int, ...] | None = None
    for number, stage in enumerate(stages):
        place: Location = ("stages", number, "width")
        for index, width in enumerate(as_tuple(stage.width)):
            if width % WIDTH_STEP:
                at = (*place, index) if isinstance(stage.width, tuple) else place
                yield at, f"must be a multiple of {WIDTH_STEP}, got {width}"
        yield from disorder(place, stage.width)
        is_fixed = isinstance(stage.width, int) and stage.width == last
        if number and stage.downsample is None and not is_fixed:
            widths = " or ".join(" ".join(map(str, as_tuple(it))) for it in (last, stage.width))
            yield (
                place,
                (
                    f"nothing leads from the width before to this one ({widths}); add a layer that "
                    "does to the stage, such as downsample: {kind: conv_downsample}"
                ),
            )
        last = stage.width


def slot_complaints(slot: Slot) -> Iterator[tuple[Location, str]]:
    """Yields the errors in the candidates of a slot, with their locations in the file."""
    if not re.fullmatch(NAME, slot.key):
        yield slot.location, f"a slot's name must be in lower case ({NAME}), got {slot.key}"
    kinds = [spec.kind for spec in slot.candidates]
    if len(set(kinds)) < len(kinds):
        yield slot.location, f"each kind may stand once, got {', '.join(kinds)}"
    if IDENTITY in kinds[1:]:
        yield slot.location, "must list identity first: options go from cheapest to most expensive"
    for index, spec in enumerate(slot.candidates):
        place = (*slot.location, index) if slot.is_path_choice else slot.location
        for field, value in _own_fields(spec):
            descending = spec.layer is not None and field in spec.layer.descending
            yield from disorder((*place, field), value, descending=descending)


def slot_misfits(slot: Slot, variants: Iterable[Variant]) -> Iterator[tuple[Location, str]]:
    """Yields the errors in the maps that the variants of a slot make, with their locations."""
    maps: dict[tuple[int, ...], tuple[int, ...]] = {}
    try:
        for layer, shape, after in variants:
            width, *made = layer.output_shape(shape) if layer is not None else shape
            if slot.position == "head":
                if tuple(made) != (1, 1) or layer is None:
                    kind = layer.kind if layer else IDENTITY
                    yield slot.location, f"must be a classifier, got {kind}"
                    return
                continue
            known = maps.setdefault(shape[1:], tuple(made))
            if known != tuple(made):
                message = f"kinds make maps of different sizes, {known} and {tuple(made)}"
                yield slot.location, message
            if width != after:
                kind = layer.kind if layer else IDENTITY
                message = f"leads from width {shape[0]} to {after}, but {kind} makes {width}"
                yield slot.location, message
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        where = ".".join(map(str, detail["loc"]))
        yield slot.location, f"{where}: {detail['msg']}" if where else detail["msg"]
    except ValueError as error:
        yield slot.location, str(error)


def disorder(
    location: Location, value: object, *, descending: bool = False
) -> Iterator[tuple[Location, str]]:
    """Yields the error in the order of a choice's options, if there is one."""
    if not isinstance(value, tuple):
        return
    listed = ", ".join(map(str, value))
    if len(set(value)) < len(value):
        yield location, f"lists an option twice, got {listed}"
    elif all(isinstance(option, int | float) for option in value) and list(value) != sorted(
        value, reverse=descending
    ):
        order = "descending" if descending else "ascending"
        yield location, f"must go from cheapest to most expensive ({order}), got {listed}"


def _own_fields(spec: LayerSpec) -> Iterator[tuple[str, Any]]:
    for name in type(spec).model_fields:
        if name != "kind":
            yield name, getattr(spec, name)
