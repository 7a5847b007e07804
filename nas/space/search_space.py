"""A ``SearchSpace``: a YAML file in which a list is a choice and anything else is fixed."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, model_validator
from pydantic_core import PydanticCustomError

from nas import documents
from nas.architecture import COLOURS, Architecture
from nas.errors import UserError
from nas.families import BlockFile, Layer, MapMisfitError, Shape
from nas.families.layer import Classes, Positive
from nas.families.limits import MOST_LAYERS
from nas.families.own import files_of, keep_beside, with_own_kinds
from nas.parsing import Location
from nas.preprocessing import IMAGENET, Preprocessing
from nas.space.choices import (
    MOST_VARIANTS,
    Choice,
    Variant,
    compile_choices,
    count_variants,
    disorder,
    fillings,
    largest_layer,
    make_layer,
    sample_options,
    scale_options,
    slot_complaints,
    slot_misfits,
    stage_complaints,
)
from nas.space.document import AnySpec, Option, Sides, Slot, Stage, as_tuple, lay_out

if TYPE_CHECKING:
    import numpy as np

Assignment = tuple[int, ...]
"""The index of an option of each choice; 0 is the cheapest."""
Placed = tuple[Layer, Shape]
"""A layer and its input shape."""

DEFAULT_SPACE = "mobile_64px"


class SearchSpace(documents.Value):
    """All architectures that a YAML file describes.

    ``norms``: in a supernet each norm has a private copy for each of its widths, or all widths
    share the leading channels of one norm; see benchmarks/README.md. ``preprocessing`` is handed on
    to all architectures.

    Raises ValueError if an option does not fit, or choices are not listed cheapest first.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=100)]
    description: str = ""
    input_size: Sides
    channels: Positive = 3
    classes: Classes
    norms: Literal["private", "shared"] = "private"
    preprocessing: Preprocessing = IMAGENET
    blocks: tuple[BlockFile, ...] = ()
    stem: AnySpec
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, max_length=MOST_LAYERS)]
    head: AnySpec

    @classmethod
    def load(cls, name_or_path: str | Path) -> SearchSpace:
        """Reads a built-in space by its name, or a YAML or JSON file.

        Raises UserError if there is no such name or file, or the file holds no valid space.
        """
        path = documents.find(name_or_path, documents.built_in_spaces(), "search space")
        return cls.from_document(documents.read_document(path))

    @classmethod
    def from_document(cls, document: documents.Document) -> SearchSpace:
        """Returns the space of a document; errors name its file, line and column."""
        if not isinstance(document.data, dict) or "layers" in document.data:
            raise document.error((), "a search space is a mapping with 'stages'")
        return document.validated(cls)

    def to_json(self) -> str:
        """Returns JSON from which ``load`` reads an equal space."""
        return json.dumps(self.model_dump(mode="json", exclude_defaults=True), indent=1) + "\n"

    def save(self, path: Path) -> None:
        """Writes ``to_json`` to ``path``, atomically, and the files of own kinds beside it."""
        keep_beside(self.blocks, path)
        documents.write_atomically(path, self.to_json())

    def with_classes(self, classes: int) -> SearchSpace:
        """Returns the same space with another number of classes."""
        return self.model_validate({**self.model_dump(exclude_defaults=True), "classes": classes})

    def with_input_size(self, pixels: int) -> SearchSpace:
        """Returns the same space for images of one size, named after it where it names its own.

        Raises UserError if the strides do not divide it.
        """
        self.require_input_sizes([pixels])
        name = re.sub(r"_\d+px$", f"_{pixels}px", self.name)
        changed = {"input_size": pixels, "name": name}
        return self.model_validate({**self.model_dump(exclude_defaults=True), **changed})

    def with_preprocessing(self, preprocessing: Preprocessing) -> SearchSpace:
        """Returns the same space for weights that want to see pictures so."""
        changed = {"preprocessing": preprocessing.model_dump()}
        return self.model_validate({**self.model_dump(exclude_defaults=True), **changed})

    @property
    def input_sizes(self) -> tuple[int, ...]:
        """The possible sides of images in pixels, smallest first."""
        return as_tuple(self.input_size)

    @property
    def largest_size(self) -> int:
        return self.input_sizes[-1]

    def require_input_sizes(self, sizes: Sequence[int]) -> None:
        """Raise UserError unless the strides divide each of ``sizes``, in pixels."""
        for pixels in itertools.filterfalse(self._takes, sizes):
            stride = next(filter(self._takes, itertools.count(1)))
            wanted = f"input sizes must be multiples of {stride}"
            raise UserError(f"{self.name}: {wanted}, got {pixels}")

    def _takes(self, pixels: int) -> bool:
        try:
            self._maps(pixels)
        except MapMisfitError:
            return False
        return True

    def __hash__(self) -> int:
        return hash(self.to_json())

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """The places for layers, in the order in which images pass them."""
        return tuple(lay_out(self.channels, self.stem, self.stages, self.head))

    @cached_property
    def typed_choices(self) -> tuple[Choice, ...]:
        """The choices in the order of an assignment's indices."""
        return tuple(compile_choices(self.input_size, self.stages, self.slots))

    @cached_property
    def choices(self) -> Mapping[str, tuple[Option, ...]]:
        """The options of each choice by its name, cheapest first; in the order of an assignment."""
        return MappingProxyType({choice.name: choice.options for choice in self.typed_choices})

    @cached_property
    def kind_choices(self) -> Mapping[str, int]:
        """For each slot that is a path choice the index of its kind among the choices."""
        choices = enumerate(self.typed_choices)
        return {choice.slot: i for i, choice in choices if choice.role == "kind" and choice.slot}

    @cached_property
    def width_choices(self) -> Mapping[int, int]:
        """For each stage (from 0) of several widths the index of its width among the choices."""
        choices = enumerate(self.typed_choices)
        widths = ((choice.stage, i) for i, choice in choices if choice.role == "width")
        return {stage: i for stage, i in widths if stage is not None}

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The numbers of options of the choices."""
        return tuple(len(choice.options) for choice in self.typed_choices)

    @property
    def cardinality(self) -> int:
        """The number of assignments, of which some decode to the same architecture."""
        return math.prod(self.sizes)

    def decode(self, assignment: Sequence[int]) -> Architecture:
        """Returns the architecture of an assignment.

        Raises ValueError for another length, or an index beyond the options.
        """
        self._require_options(assignment)
        layers = tuple(layer for layer, _ in self.placed(assignment))
        pixels = self._pixels(assignment)
        shape = (self.channels, pixels, pixels)
        return Architecture(
            name=self.name,
            input_shape=shape,
            preprocessing=self.preprocessing,
            blocks=files_of(layers),
            layers=layers,
        )

    def placed(self, assignment: Sequence[int]) -> Iterator[Placed]:
        """Yields the layers of ``decode(assignment)`` with their input shapes.

        It is several times faster, as options that were seen together before are not checked.
        """
        if len(assignment) != len(self.typed_choices):
            self._require_options(assignment)
        for slot, indices, known in self._layers:
            key = tuple([assignment[index] for index in indices])
            if key not in known:
                known[key] = self._place(slot, assignment)
            found = known[key]
            if found is not None:
                yield found

    def canonical(self, assignment: Assignment) -> Assignment:
        """Returns the assignment with 0 for each choice without effect, as in a block left out."""
        settled = list(assignment)
        for choice, idle in self._idle.items():
            for other in idle[assignment[choice]]:
                settled[other] = 0
        return tuple(settled)

    def largest(self) -> Architecture:
        return self.decode([size - 1 for size in self.sizes])

    def smallest(self) -> Architecture:
        return self.decode([0] * len(self.sizes))

    def sample(self, rng: np.random.Generator) -> Architecture:
        """Returns a random architecture; sizes spread evenly from the smallest to the largest.

        A share is drawn first, and each option index from a binomial around it, as independent
        uniform choices would make networks of medium size. The share is also the probability that
        a slot is not left out; the remaining kinds of a slot are equally likely.
        """
        return self.decode(self.sample_assignment(rng))

    def sample_assignment(self, rng: np.random.Generator) -> Assignment:
        """Returns the assignment of ``sample``."""
        return sample_options(self.typed_choices, rng)

    def uniform(self, share: float) -> Assignment:
        """Returns the same share, in [0, 1], of each width, expansion, depth and input size.

        Of the slots of one key in a stage that share, evenly spread, has the most expensive kind;
        the others have the cheapest, which often leaves them out.
        """
        return scale_options(self.typed_choices, self.slots, share)

    def variants(
        self, slot: Slot, input_sizes: Sequence[int] = ()
    ) -> Iterator[tuple[Layer | None, Shape]]:
        """Yields each layer that may stand in ``slot``, or None, with its input shape.

        Images are of all ``input_sizes``, by default the space's.
        """
        for layer, shape, _ in self._variants(slot, input_sizes or self.input_sizes):
            yield layer, shape

    def _variants(self, slot: Slot, input_sizes: Sequence[int]) -> Iterator[Variant]:
        for pixels in input_sizes:
            map_size = self._maps(pixels)[slot.name]
            for spec, fields in fillings(slot):
                for before, after in slot.width_pairs():
                    layer = make_layer(slot, spec, fields, before, after, self.classes)
                    yield layer, (before, *map_size), after

    @cached_property
    def paths(self) -> Mapping[str, tuple[Placed | None, ...]]:
        """The candidates of each path choice at the largest widths and size; None is identity."""
        return self.paths_at(self.largest_size)

    def paths_at(self, pixels: int) -> Mapping[str, tuple[Placed | None, ...]]:
        """Returns ``paths`` for images of another size."""
        found: dict[str, tuple[Placed | None, ...]] = {}
        for slot in self.slots:
            if slot.is_path_choice:
                shape = (slot.before[-1], *self._maps(pixels)[slot.name])
                layers = (largest_layer(slot, spec, self.classes) for spec in slot.candidates)
                found[slot.name] = tuple((layer, shape) if layer else None for layer in layers)
        return MappingProxyType(found)

    def layers(self) -> Mapping[tuple[str, Shape], Layer]:
        """Returns a layer for each signature and input shape: the rows of a latency table."""
        found: dict[tuple[str, Shape], Layer] = {}
        for slot in self.slots:
            for layer, shape in self.variants(slot):
                if layer is not None:
                    found.setdefault((layer.signature, shape), layer)
        return MappingProxyType(found)

    def _require_options(self, assignment: Sequence[int]) -> None:
        if len(assignment) != len(self.typed_choices):
            raise ValueError(f"{self.name}: {len(self.sizes)} choices, got {len(assignment)}")
        for choice, size, index in zip(self.typed_choices, self.sizes, assignment, strict=True):
            if not 0 <= index < size:
                raise ValueError(f"{self.name}: {choice.name}: {size} options, got {index}")

    @cached_property
    def _layers(self) -> Sequence[tuple[Slot, Sequence[int], dict[Assignment, Placed | None]]]:
        """For each slot the indices of the choices that concern it, and its layers made so far."""
        return [
            (slot, [i for i, choice in enumerate(self.typed_choices) if choice.concerns(slot)], {})
            for slot in self.slots
        ]

    def _place(self, slot: Slot, assignment: Sequence[int]) -> Placed | None:
        self._require_options(assignment)
        index = self.kind_choices.get(slot.name)
        spec = slot.candidates[0 if index is None else assignment[index]]
        fields = {
            choice.field: choice.options[index]
            for choice, index in zip(self.typed_choices, assignment, strict=True)
            if choice.field is not None and choice.is_field_of(slot, spec)
        }
        before = after = self._width(slot.stage, assignment)
        if slot.position == "stem":
            before = self.channels
        elif slot.enters:
            before = self._width(slot.stage - 1, assignment)
        layer = make_layer(slot, spec, fields, before, after, self.classes)
        map_size = self._maps(self._pixels(assignment))[slot.name]
        return None if layer is None else (layer, (before, *map_size))

    def _pixels(self, assignment: Sequence[int]) -> int:
        # where the size is a choice, it is the first
        return self.input_sizes[assignment[0] if isinstance(self.input_size, tuple) else 0]

    def _width(self, stage: int, assignment: Sequence[int]) -> int:
        index = self.width_choices.get(stage)
        return as_tuple(self.stages[stage].width)[0 if index is None else assignment[index]]

    @cached_property
    def _idle(self) -> Mapping[int, Sequence[Sequence[int]]]:
        """For each choice of a kind, and each of its options, the choices without effect."""
        return {
            self.kind_choices[slot.name]: [
                [
                    index
                    for index, choice in enumerate(self.typed_choices)
                    if choice.role == "field" and choice.slot == slot.name
                    if not choice.is_field_of(slot, spec)
                ]
                for spec in slot.candidates
            ]
            for slot in self.slots
            if slot.is_path_choice
        }

    def _maps(self, pixels: int) -> dict[str, tuple[int, int]]:
        """Returns height and width of the map that each slot sees, for square images."""
        if pixels not in self._map_sizes:
            shape: Shape = (self.channels, pixels, pixels)
            maps = {}
            for slot in self.slots:
                maps[slot.name] = shape[1:]
                layer = largest_layer(slot, slot.candidates[-1], self.classes)
                if layer is not None and slot.position != "head":
                    try:
                        shape = (slot.after[-1], *layer.output_shape(shape)[1:])
                    except MapMisfitError:
                        raise
                    except ValueError:
                        continue  # channels that do not fit; ``slot_misfits`` says where
            self._map_sizes[pixels] = maps
        return self._map_sizes[pixels]

    @cached_property
    def _map_sizes(self) -> dict[int, dict[str, tuple[int, int]]]:
        return {}

    @model_validator(mode="wrap")
    @classmethod
    def _with_own_kinds(cls, data: object, handler: ValidatorFunctionWrapHandler) -> SearchSpace:
        return with_own_kinds(cls, data, handler)

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        for location, message in self._complaints():
            place = documents.location_text(location)
            context = {"place": place, "location": location, "message": message}
            raise PydanticCustomError("misfit", "{place}: {message}", context)
        return self

    def _complaints(self) -> Iterator[tuple[Location, str]]:
        """All errors; each check relies on those before, as the first error ends the reading."""
        if self.channels != COLOURS:
            yield ("channels",), f"pictures are read in colour, must be 3, got {self.channels}"
        yield from disorder(("input_size",), self.input_size)
        yield from stage_complaints(self.stages)
        for slot in self.slots:
            yield from slot_complaints(slot)
        counts = {slot: count_variants(slot, len(self.input_sizes)) for slot in self.slots}
        if sum(counts.values()) > MOST_VARIANTS:
            worst = max(counts, key=lambda slot: counts[slot])
            message = f"{counts[worst]:,} layers may stand in {worst.name}"
            found = f"{message}, {sum(counts.values()):,} in all slots"
            yield worst.location, f"{found}; the most for a table is {MOST_VARIANTS:,}"
        for pixels in self.input_sizes:
            try:
                self._maps(pixels)
            except MapMisfitError as error:
                yield ("input_size",), f"{pixels} px do not fit: {error}"
        for slot in self.slots:
            yield from slot_misfits(slot, self._variants(slot, self.input_sizes))
        for decode in (self.smallest, self.largest):
            try:
                decode()
            except ValidationError as error:
                message = error.errors()[0]["msg"].removeprefix("Value error, ")
                yield (), f"its {decode.__name__} network: {message}"
