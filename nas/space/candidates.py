"""What may stand in a slot: its candidates' choices, their layers, and what is wrong with them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from nas.documents import Location
from nas.families import NAME, Layer
from nas.space.document import LayerSpec, Option, Slot


def enters(slot: Slot) -> bool:
    """Whether the slot leads from the width of the stage before into its own."""
    return slot.name.endswith(".downsample") and slot.stage > 0


def _own_fields(spec: LayerSpec) -> Iterator[tuple[str, Any]]:
    for name in type(spec).model_fields:
        if name != "kind":
            yield name, getattr(spec, name)


def choice_names(slot: Slot) -> Mapping[str, Mapping[str, str]]:
    """For each kind of a slot the name of the choice behind each of its fields that is one.

    Kinds that offer the same options for a field share one choice, ``SLOT.FIELD``. Where they offer
    others, each has its own, ``SLOT.KIND.FIELD``.
    """
    elastic = {spec.kind: _choices(spec) for spec in slot.candidates}
    offers: dict[str, set[tuple[Option, ...]]] = {}
    for own in elastic.values():
        for field, options in own.items():
            offers.setdefault(field, set()).add(options)
    return {
        kind: {
            field: f"{slot.name}.{field}"
            if len(offers[field]) == 1
            else f"{slot.name}.{kind}.{field}"
            for field in own
        }
        for kind, own in elastic.items()
    }


def slot_choices(slot: Slot) -> dict[str, tuple[Option, ...]]:
    """The choices of a slot with their options: its kind, then what its kinds offer."""
    found: dict[str, tuple[Option, ...]] = {}
    if len(slot.candidates) > 1:
        found[f"{slot.name}.kind"] = tuple(spec.kind for spec in slot.candidates)
    names = choice_names(slot)
    for spec in slot.candidates:
        found.update({names[spec.kind][field]: it for field, it in _choices(spec).items()})
    return found


def fillings(slot: Slot) -> Iterator[tuple[LayerSpec, dict[str, Option]]]:
    """Each candidate with each combination of its own choices."""
    for spec in slot.candidates:
        elastic = _choices(spec)
        for options in itertools.product(*elastic.values()):
            yield spec, dict(zip(elastic, options, strict=True))


def dearest(spec: LayerSpec) -> dict[str, Option]:
    """The last option of each choice that a candidate has of its own."""
    return {name: options[-1] for name, options in _choices(spec).items()}


def _choices(spec: LayerSpec) -> dict[str, tuple[Option, ...]]:
    """The fields of which a candidate lists several options."""
    return {name: value for name, value in _own_fields(spec) if isinstance(value, tuple)}


def make_layer(
    slot: Slot, spec: LayerSpec, fields: Mapping[str, Option], before: int, after: int, classes: int
) -> Layer | None:
    """A candidate as a layer, its place's widths and chosen fields filled in; None for identity."""
    made = spec.layer
    if made is None:
        return None
    context = {
        "channels": after,
        "in_channels": before,
        "out_channels": after,
        "classes": classes,
    }
    fixed = {name: value for name, value in _own_fields(spec) if not isinstance(value, tuple)}
    filled = {name: value for name, value in context.items() if name in made.model_fields}
    return made.model_validate({"slot": slot.name, **filled, **fixed, **fields})


def slot_complaints(slot: Slot) -> Iterator[tuple[Location, str]]:
    """What is wrong with the candidates of a slot, each with the place in the file."""
    last = slot.name.rpartition(".")[2]
    if not re.fullmatch(NAME, last):
        yield slot.location, f"a slot's name must be in lower case ({NAME}), got {last}"
    kinds = [spec.kind for spec in slot.candidates]
    if len(set(kinds)) < len(kinds):
        yield slot.location, f"each kind may stand once, got {', '.join(kinds)}"
    if "identity" in kinds[1:]:
        yield slot.location, "must list identity first: options go from cheapest to dearest"
    for index, spec in enumerate(slot.candidates):
        place = (*slot.location, index) if len(slot.candidates) > 1 else slot.location
        for field, value in _own_fields(spec):
            descending = spec.layer is not None and field in spec.layer.descending
            yield from disorder((*place, field), value, descending=descending)


def disorder(
    location: Location, value: object, *, descending: bool = False
) -> Iterator[tuple[Location, str]]:
    """What is wrong with the order of a choice's options."""
    if not isinstance(value, tuple):
        return
    listed = ", ".join(map(str, value))
    if len(set(value)) < len(value):
        yield location, f"lists an option twice, got {listed}"
    elif all(isinstance(option, int | float) for option in value) and list(value) != sorted(
        value, reverse=descending
    ):
        order = "descending" if descending else "ascending"
        yield location, f"must go from cheapest to dearest ({order}), got {listed}"
