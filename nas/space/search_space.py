"""A ``SearchSpace``: a YAML file in which a list is a choice and anything else is fixed.

It compiles to an ordered mapping of choices. An assignment is a tuple of option indices, one for
each choice, cheapest first; ``decode`` makes the ``Architecture`` of it.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, model_validator
from pydantic_core import PydanticCustomError

from nas.architecture import BUILT_IN, Architecture, find
from nas.documents import Document, Location, Value, location_text, read_document
from nas.errors import UserError
from nas.families import BlockFile, Layer, MapMisfitError, Shape
from nas.families.own import files_of, placed, with_own_kinds
from nas.space.candidates import (
    choice_names,
    dearest,
    disorder,
    enters,
    fillings,
    make_layer,
    slot_choices,
    slot_complaints,
)
from nas.space.document import AnySpec, Option, Slot, Stage, Widths, as_tuple, slots

Assignment = tuple[int, ...]
_Placed = dict[tuple[int, ...], tuple[Layer, Shape] | None]

DEFAULT_SPACE = "mobile_64px"
WIDTH_STEP = 4
"""Runtimes lay channels out in blocks of at least 4; widths between cost up to 78 % extra."""


class SearchSpace(Value):
    """All architectures that a YAML file describes.

    ``norms``: in a supernet each norm has a private copy for each of its widths, or all widths
    share the leading channels of one. Statistics are calibrated before accuracies count in both,
    and then both are as good, see benchmarks/README.md.

    Raises:
        ValueError: an option does not fit; choices must be listed from cheapest to dearest.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    description: str = ""
    input_size: Widths
    channels: Annotated[int, Field(gt=0)] = 3
    classes: Annotated[int, Field(gt=1)]
    norms: Literal["private", "shared"] = "private"
    blocks: tuple[BlockFile, ...] = ()
    stem: AnySpec
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    head: AnySpec

    @classmethod
    def load(cls, name_or_path: str | Path) -> SearchSpace:
        """A built-in space by its name, or one from a YAML or JSON file.

        Raises:
            UserError: there is no such name or file, or it holds no valid space.
        """
        return cls.from_document(read_document(find(name_or_path, "", (".yaml",), "search space")))

    @classmethod
    def from_document(cls, document: Document) -> SearchSpace:
        """Validate a document; errors name its file, line and column."""
        if not isinstance(document.data, dict) or "layers" in document.data:
            raise document.error((), "a search space is a mapping with 'stages'")
        try:
            return cls.model_validate(placed(document))
        except ValidationError as error:
            raise document.validation_error(error) from None

    def to_json(self) -> str:
        """JSON that ``load`` reads back to an equal space."""
        return json.dumps(self.model_dump(mode="json", exclude_defaults=True), indent=1) + "\n"

    def with_classes(self, classes: int) -> SearchSpace:
        """The same space with another number of classes in its head."""
        return self.model_validate({**self.model_dump(exclude_defaults=True), "classes": classes})

    @property
    def input_sizes(self) -> tuple[int, ...]:
        """The sides that images may have, in pixels, smallest first."""
        return as_tuple(self.input_size)

    @property
    def largest_size(self) -> int:
        """The side of the largest images, in pixels."""
        return self.input_sizes[-1]

    @property
    def stride(self) -> int:
        """What input sizes must be multiples of, in pixels."""
        return next(it for it in range(1, self.largest_size + 1) if self._takes(it))

    def require_input_sizes(self, sizes: Sequence[int]) -> None:
        """Raise UserError unless the strides divide each of ``sizes``, in pixels."""
        for pixels in sizes:
            if not self._takes(pixels):
                raise UserError(
                    f"{self.name}: input sizes must be multiples of {self.stride}, got {pixels}"
                )

    def __hash__(self) -> int:
        return hash(self.to_json())

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """The places for layers, in the order in which images pass them."""
        return slots(self.stem, self.stages, self.head)

    @cached_property
    def choices(self) -> Mapping[str, tuple[Option, ...]]:
        """Each choice with its options, cheapest first."""
        found: dict[str, tuple[Option, ...]] = {}
        if isinstance(self.input_size, tuple):
            found["input_size"] = self.input_size
        for number, stage in enumerate(self.stages):
            if isinstance(stage.width, tuple):
                found[f"stage{number + 1}.width"] = stage.width
            for slot in self.slots:
                if slot.stage == number:
                    found.update(slot_choices(slot))
        return MappingProxyType(found)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of options of each choice."""
        return tuple(len(options) for options in self.choices.values())

    @property
    def cardinality(self) -> int:
        """The number of assignments; some decode to the same architecture."""
        return math.prod(self.sizes)

    def decode(self, assignment: Sequence[int]) -> Architecture:
        """The architecture of an assignment.

        Raises:
            ValueError: the assignment has another length, or an index beyond its options.
        """
        values, pixels, widths = self._values(assignment)
        chosen = (self._chosen(slot, values, widths) for slot in self.slots)
        layers = tuple(layer for layer in chosen if layer is not None)
        return Architecture(
            name=self.name,
            input_shape=(self.channels, pixels, pixels),
            blocks=files_of(layers),
            layers=layers,
        )

    def placed(self, assignment: Assignment) -> Iterator[tuple[Layer, Shape]]:
        """What ``decode(assignment).placed()`` gives, some ten times as fast.

        A layer is made and checked once for each combination of the choices that decide it.
        """
        if len(assignment) != len(self.choices):
            raise self._wrong_length(assignment)
        for slot, places, known in self._deciding:
            key = tuple([assignment[place] for place in places])
            if key not in known:
                values, pixels, widths = self._values(assignment)
                layer = self._chosen(slot, values, widths)
                shape = (self._before(slot, widths), *self._maps(pixels)[slot.name])
                known[key] = (layer, shape) if layer else None
            found = known[key]
            if found:
                yield found

    def canonical(self, assignment: Assignment) -> Assignment:
        """The assignment with the first option wherever another choice makes it pointless.

        Such as the expansion of a block that is left out; the architecture stays the same.
        """
        settled = list(assignment)
        for choice, idle in self._idle:
            for other in idle[assignment[choice]]:
                settled[other] = 0
        return tuple(settled)

    def largest(self) -> Architecture:
        """The architecture with the dearest option everywhere."""
        return self.decode([size - 1 for size in self.sizes])

    def smallest(self) -> Architecture:
        """The architecture with the cheapest option everywhere."""
        return self.decode([0] * len(self.sizes))

    def sample(self, rng: np.random.Generator) -> Architecture:
        """A random architecture; sizes spread evenly between the smallest and the largest.

        Independent uniform choices would almost all be of middling size. So a share is drawn
        first, and each option index is binomial around it. A kind is no size: with that share as
        its probability a slot is not left out, and all kinds are then as likely.
        """
        return self.decode(self.sample_assignment(rng))

    def sample_assignment(self, rng: np.random.Generator) -> Assignment:
        """The assignment of ``sample``."""
        share = rng.uniform()
        return tuple(
            _sample_kind(options, share, rng)
            if name.endswith(".kind")
            else int(rng.binomial(len(options) - 1, share))
            for name, options in self.choices.items()
        )

    def uniform(self, share: float) -> Assignment:
        """Uniform scaling: the same share, in [0, 1], of each width, expansion, depth and size.

        A kind is no size: of the slots of one name in a stage that share, evenly spread, has the
        dearest kind as in the largest network, and the others the cheapest, which often is to be
        left out. So each stage keeps its part of the depth, and the design stays the largest's.
        """
        indices = []
        groups: dict[str, int] = {}
        for name, options in self.choices.items():
            if name.endswith(".kind"):
                stage, _, slot = name.removesuffix(".kind").partition(".")
                group = f"{stage}.{slot.rpartition('.')[2]}"
                count = groups[group] = groups.get(group, 0) + 1
                kept = math.floor(count * share + 1e-9) > math.floor((count - 1) * share + 1e-9)
                indices.append((len(options) - 1) if kept else 0)
            else:
                indices.append(math.floor((len(options) - 1) * share + 0.5))
        return tuple(indices)

    def variants(
        self, slot: Slot, input_sizes: Sequence[int] = ()
    ) -> Iterator[tuple[Layer | None, Shape]]:
        """Every layer that may stand in ``slot``, with its input shape; None for leaving it out.

        Images are of each of ``input_sizes``, by default of the space's.
        """
        here = as_tuple(self.stages[slot.stage].width)
        if slot.name == "stem":
            widths = [(self.channels, width) for width in here]
        elif enters(slot):
            widths = list(itertools.product(as_tuple(self.stages[slot.stage - 1].width), here))
        else:
            widths = [(width, width) for width in here]
        for pixels in input_sizes or self.input_sizes:
            map_size = self._maps(pixels)[slot.name]
            for spec, fields in fillings(slot):
                for before, after in widths:
                    layer = make_layer(slot, spec, fields, before, after, self.classes)
                    yield layer, (before, *map_size)

    @cached_property
    def paths(self) -> Mapping[str, tuple[tuple[Layer, Shape] | None, ...]]:
        """Each slot that is a path choice: its candidates at the largest widths and input size.

        They stand in the order of the choice ``SLOT.kind``, each with its input shape; None is
        leaving the slot out.
        """
        return self.paths_at(self.largest_size)

    def paths_at(self, pixels: int) -> Mapping[str, tuple[tuple[Layer, Shape] | None, ...]]:
        """``paths`` for images of another size."""
        widths = [as_tuple(stage.width)[-1] for stage in self.stages]
        found: dict[str, tuple[tuple[Layer, Shape] | None, ...]] = {}
        for slot in self.slots:
            if len(slot.candidates) > 1:
                before, after = self._before(slot, widths), widths[slot.stage]
                shape = (before, *self._maps(pixels)[slot.name])
                layers = [
                    make_layer(slot, spec, dearest(spec), before, after, self.classes)
                    for spec in slot.candidates
                ]
                found[slot.name] = tuple((layer, shape) if layer else None for layer in layers)
        return MappingProxyType(found)

    def layers(self) -> Mapping[tuple[str, Shape], Layer]:
        """One layer for each distinct signature and input shape: the rows of a latency table."""
        found: dict[tuple[str, Shape], Layer] = {}
        for slot in self.slots:
            for layer, shape in self.variants(slot):
                if layer is not None:
                    found.setdefault((layer.signature, shape), layer)
        return MappingProxyType(found)

    def _values(self, assignment: Sequence[int]) -> tuple[dict[str, Option], int, list[int]]:
        """The option of each choice, the side of the images, the width of each stage."""
        if len(assignment) != len(self.choices):
            raise self._wrong_length(assignment)
        values: dict[str, Option] = {}
        for (name, options), index in zip(self.choices.items(), assignment, strict=True):
            if not 0 <= index < len(options):
                raise ValueError(f"{self.name}: {name}: {len(options)} options, got {index}")
            values[name] = options[index]
        widths = [
            int(values.get(f"stage{number + 1}.width", as_tuple(stage.width)[0]))
            for number, stage in enumerate(self.stages)
        ]
        return values, int(values.get("input_size", self.largest_size)), widths

    def _wrong_length(self, assignment: Sequence[int]) -> ValueError:
        return ValueError(f"{self.name}: {len(self.choices)} choices, got {len(assignment)}")

    @cached_property
    def _deciding(self) -> tuple[tuple[Slot, tuple[int, ...], _Placed], ...]:
        """For each slot the places of the choices that decide its layer, and what is known."""
        places = {name: place for place, name in enumerate(self.choices)}
        found: list[tuple[Slot, tuple[int, ...], _Placed]] = []
        for slot in self.slots:
            stages = [slot.stage, slot.stage + 1] if enters(slot) else [slot.stage + 1]
            names = ["input_size", *(f"stage{number}.width" for number in stages)]
            names += slot_choices(slot)
            found.append((slot, tuple(places[name] for name in names if name in places), {}))
        return tuple(found)

    def _chosen(
        self, slot: Slot, values: Mapping[str, Option], widths: Sequence[int]
    ) -> Layer | None:
        kind = values.get(f"{slot.name}.kind", slot.candidates[0].kind)
        spec = next(spec for spec in slot.candidates if spec.kind == kind)
        names = choice_names(slot)[spec.kind]
        fields = {field: values[name] for field, name in names.items()}
        before, after = self._before(slot, widths), widths[slot.stage]
        key = (slot.name, kind, tuple(fields.items()), before, after)
        if key not in self._made:
            self._made[key] = make_layer(slot, spec, fields, before, after, self.classes)
        return self._made[key]

    @cached_property
    def _idle(self) -> tuple[tuple[int, tuple[tuple[int, ...], ...]], ...]:
        """For each choice of a kind, and each kind, the choices that it makes pointless."""
        places = {name: place for place, name in enumerate(self.choices)}
        found = []
        for slot in self.slots:
            if len(slot.candidates) > 1:
                used = [set(names.values()) for names in choice_names(slot).values()]
                every = set().union(*used)
                idle = tuple(tuple(sorted(places[it] for it in every - own)) for own in used)
                found.append((places[f"{slot.name}.kind"], idle))
        return tuple(found)

    @cached_property
    def _made(self) -> dict[Any, Layer | None]:
        return {}

    def _before(self, slot: Slot, widths: Sequence[int]) -> int:
        """The channels that enter a slot, given the width of each stage."""
        if slot.name == "stem":
            return self.channels
        return widths[slot.stage - 1] if enters(slot) else widths[slot.stage]

    def _maps(self, pixels: int) -> dict[str, tuple[int, int]]:
        """Height and width of the map that each slot sees, for square images of that size."""
        if pixels not in self._map_cache:
            widths = [as_tuple(stage.width)[-1] for stage in self.stages]
            shape: Shape = (self.channels, pixels, pixels)
            maps = {}
            for slot in self.slots:
                maps[slot.name] = shape[1:]
                spec, fields = list(fillings(slot))[-1]
                before = self._before(slot, widths)
                layer = make_layer(slot, spec, fields, before, widths[slot.stage], self.classes)
                if layer is not None and slot.name != "head":
                    try:
                        shape = (widths[slot.stage], *layer.output_shape(shape)[1:])
                    except MapMisfitError:
                        raise
                    except ValueError:
                        continue  # channels that do not fit; ``_misfits`` says where
            self._map_cache[pixels] = maps
        return self._map_cache[pixels]

    def _takes(self, pixels: int) -> bool:
        try:
            self._maps(pixels)
        except MapMisfitError:
            return False
        return True

    @cached_property
    def _map_cache(self) -> dict[int, dict[str, tuple[int, int]]]:
        return {}

    @model_validator(mode="wrap")
    @classmethod
    def _with_own_kinds(cls, data: object, handler: ValidatorFunctionWrapHandler) -> SearchSpace:
        return with_own_kinds(cls, data, handler)

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        for location, message in self._complaints():
            raise PydanticCustomError(
                "misfit",
                "{place}: {message}",
                {"place": location_text(location), "location": location, "message": message},
            )
        return self

    def _complaints(self) -> Iterator[tuple[Location, str]]:
        yield from disorder(("input_size",), self.input_size)
        for number, stage in enumerate(self.stages):
            place: Location = ("stages", number, "width")
            for index, width in enumerate(as_tuple(stage.width)):
                if width % WIDTH_STEP:
                    at = (*place, index) if isinstance(stage.width, tuple) else place
                    yield at, f"must be a multiple of {WIDTH_STEP}, got {width}"
            yield from disorder(place, stage.width)
        for slot in self.slots:
            yield from slot_complaints(slot)
        for pixels in self.input_sizes:
            try:
                self._maps(pixels)
            except MapMisfitError as error:
                yield ("input_size",), f"{pixels} px do not fit: {error}"
        for slot in self.slots:
            yield from self._misfits(slot)

    def _misfits(self, slot: Slot) -> Iterator[tuple[Location, str]]:
        maps: dict[tuple[int, ...], tuple[int, ...]] = {}
        try:
            for layer, shape in self.variants(slot):
                made = layer.output_shape(shape) if layer is not None else shape
                if slot.name != "head" and maps.setdefault(shape[1:], made[1:]) != made[1:]:
                    yield (
                        slot.location,
                        (f"kinds make maps of different sizes, {maps[shape[1:]]} and {made[1:]}"),
                    )
                width = self.stages[slot.stage].width
                if slot.name != "head" and made[0] not in as_tuple(width):
                    yield slot.location, f"a slot that changes the width cannot be {made}"
        except ValueError as error:
            yield slot.location, _first_line(error)


def built_in_spaces() -> list[str]:
    """The names of the spaces that come with the package."""
    return sorted(file.stem for file in BUILT_IN.glob("*.yaml"))


def built_in_architectures() -> list[str]:
    """The names of the published architectures that come with the package."""
    return sorted(file.stem for file in (BUILT_IN / "published").glob("*.json"))


def _sample_kind(kinds: Sequence[Option], share: float, rng: np.random.Generator) -> int:
    optional = int(kinds[0] == "identity")
    if optional and not rng.binomial(1, share):
        return 0
    return int(rng.integers(optional, len(kinds))) if len(kinds) > optional + 1 else optional


def _first_line(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        detail = error.errors(include_url=False)[0]
        where = ".".join(map(str, detail["loc"]))
        return f"{where}: {detail['msg']}" if where else detail["msg"]
    return str(error)
