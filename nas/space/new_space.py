"""A search space around a given network: the network is its largest, and all else is smaller.

Widths, expansions and heads go down in a few steps, and blocks may be left out, such that the
smallest network has about a quarter of the multiply-accumulates.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from nas.architecture import Architecture
from nas.documents import parse_document
from nas.errors import UserError
from nas.families import CONTEXT_FIELDS, Layer
from nas.families.layer import ResidualLayer
from nas.printing import command, readable
from nas.space.document import IDENTITY
from nas.space.search_space import SearchSpace

EXAMPLE = ("--weights", "FILE", "--data", "folder:photos")

PLAIN_TEXT = r"(?!(?i:null|true|false)$)[A-Za-z][A-Za-z0-9_. -]*"
"""What YAML reads as this text; all else stands in quotes."""

SMALLEST = 0.25
"""Multiply-accumulates of the smallest network, as a share of the given one's."""

SHARES = tuple(share / 100 for share in range(90, 20, -5))
"""Of widths and expansions at the least: the first with which ``SMALLEST`` is reached holds."""

WIDTH_OPTIONS, FIELD_OPTIONS = 4, 3
STEP, SMALL_STEP, SMALL_WIDTH = 8, 4, 32
"""Widths are multiples of 8, which vector units like; those up to 32 are multiples of 4."""

ELASTIC = ("expansion", "features", "dim", "heads")
"""Fields that become choices: numbers of channels, or of what channels depend on."""


def write_space(
    architecture: Architecture, macs: Callable[[Architecture], int], *, name: str | None = None
) -> str:
    """The YAML of a space around a network; ``macs`` counts a network's multiply-accumulates.

    Raises UserError if no space holds the network: its slots have gaps, or its layers do not fit.
    """
    name = name or f"{architecture.name or 'network'}_{architecture.input_size}px"
    whole, found = macs(architecture), ""
    for share in SHARES:
        found = Sketch(architecture, name, share).text(whole)
        space = _load(found, architecture)
        if macs(space.smallest()) <= SMALLEST * whole:
            break
    return found


def _load(text: str, architecture: Architecture) -> SearchSpace:
    space = SearchSpace.from_document(parse_document(text, "the space"))
    if space.largest() != architecture:
        raise UserError(
            f"{architecture.name or 'the architecture'}: no space has it as its largest network; "
            "slots must be called stem, stage1.downsample, stage1.block1.NAME, ..., head"
        )
    return space


@dataclass(frozen=True)
class Sketch:
    """The space around ``architecture`` whose least widths are the ``share`` of its own."""

    architecture: Architecture
    name: str
    share: float

    def text(self, macs: int) -> str:
        """The file, with comments; ``macs`` are the network's."""
        stem, *body, head = self.architecture.layers
        stages = list(_stages(body))
        given = self.architecture.name or "a given network"
        file = f"{self.name}.yaml"
        lines = [
            f"# Around {readable(given)}, the largest network here, with {macs / 1e6:,.0f} million",
            f"# multiply-accumulates at {self.architecture.input_size} px. A list is a choice,",
            "# cheapest option first; all else is fixed. Widths are channels of stages, expansions",
            "# multiply them inside a block, and identity leaves a block out.",
            f"#   {readable(command('nas', 'show', file))}",
            f"#   {readable(command('nas', 'build-lut', '--space', file, '--device', 'cpu'))}",
            f"#   {readable(command('nas', 'train-supernet', '--space', file, *EXAMPLE))}",
            f"name: {_text(self.name)}",
            f"description: {_text(f'around {given} at {self.architecture.input_size} px')}",
            f"input_size: {self.architecture.input_size}",
            f"classes: {self.architecture.classes}",
        ]
        if self.architecture.input_shape[0] != 3:
            lines.append(f"channels: {self.architecture.input_shape[0]}")
        seen = self.architecture.preprocessing.model_dump(mode="json", exclude_defaults=True)
        if seen:
            lines.append("# how the network's weights want to see pictures")
            lines.append(f"preprocessing: {_flow(seen)}")
        lines += [f"stem: {_flow(_spec(stem))}", "stages:"]
        widths = self._widths(stages)
        for number, (stage, width) in enumerate(zip(stages, widths, strict=True), 1):
            lines.append(f"  - width: {_flow(width)}  # stage {number}")
            lines += self._stage(stage)
        lines.append(f"head: {_flow(self._elastic(head))}")
        return "\n".join(lines) + "\n"

    def _stage(self, stage: Stage) -> Iterator[str]:
        if stage.downsample is not None:
            yield f"    downsample: {_flow(self._elastic(stage.downsample))}"
        if not stage.blocks:
            return
        yield "    blocks:"
        texts = []
        for place, block in enumerate(stage.blocks):
            may_vanish = place > 0 or (stage.downsample is not None and len(stage.blocks) == 1)
            texts.append(
                [
                    f"{key}: {self._candidates(layer, may_vanish=may_vanish)}"
                    for key, layer in block.items()
                ]
            )
        for text, repeated in itertools.groupby(texts):
            count = len(list(repeated))
            rows = [f"repeat: {count}", *text] if count > 1 else text
            yield f"      - {rows[0]}"
            for row in rows[1:]:
                yield f"        {row}"

    def _candidates(self, layer: Layer, *, may_vanish: bool) -> str:
        text = _flow(self._elastic(layer))
        can_vanish = may_vanish and isinstance(layer, ResidualLayer)
        return f"[{IDENTITY}, {text}]" if can_vanish else text

    def _elastic(self, layer: Layer) -> dict[str, Any]:
        """The layer's fields, lists where they are elastic and the layer takes all options."""
        spec = _spec(layer)
        for name in ELASTIC:
            if name not in spec or name in layer.fixed or isinstance(spec[name], str):
                continue
            options = [
                option for option in self._options(name, spec[name]) if _takes(layer, name, option)
            ]
            spec[name] = options if len(options) > 1 else spec[name]
        return spec

    def _options(self, name: str, value: float) -> Sequence[float]:
        """Numbers from the share of a value up to the value."""
        if name == "heads":
            return sorted({max(1, round(value * self.share)), int(value)})
        if name in ("features", "dim"):
            return _spaced(int(value), self.share, FIELD_OPTIONS)
        parts = FIELD_OPTIONS - 1
        shares = [self.share + (1 - self.share) * part / parts for part in range(parts)]
        grain = 0.5 if value > 2 else 0.25
        rounded = {max(grain, round(value * share / grain) * grain) for share in shares}
        return [*sorted(it for it in rounded if it < value), value]

    def _widths(self, stages: Sequence[Stage]) -> list[int | list[int]]:
        """The options of each stage's width, or the one width that its layers take."""
        given, found = _given_widths(self.architecture, stages), list[int | list[int]]()
        fixed = {place for place, stage in enumerate(stages) if stage.keeps_width}
        fixed |= {place - 1 for place in fixed}
        for place, (stage, width) in enumerate(zip(stages, given, strict=True)):
            options = [
                option
                for option in _spaced(width, self.share, WIDTH_OPTIONS)
                if all(_takes(layer, "channels", option) for layer in stage.layers)
            ]
            found.append(width if place in fixed or len(options) < 2 else options)
        return found


@dataclass(frozen=True)
class Stage:
    """The layers of a stage: its downsampling, and each block's layers by their keys."""

    downsample: Layer | None
    blocks: Sequence[Mapping[str, Layer]]

    @property
    def layers(self) -> list[Layer]:
        return [layer for block in self.blocks for layer in block.values()]

    @property
    def keeps_width(self) -> bool:
        """Whether the layer in the downsampling's place keeps the width of the stage before."""
        return isinstance(self.downsample, ResidualLayer)


def _stages(body: Sequence[Layer]) -> Iterator[Stage]:
    """The stages of a network, by the names of its slots."""
    found: dict[int, dict[int, dict[str, Layer]]] = {}
    for layer in body:
        stage, _, rest = layer.slot.partition(".")
        block, _, key = rest.partition(".")
        number = 0 if block == "downsample" else int(block.removeprefix("block") or 0)
        blocks = found.setdefault(int(stage.removeprefix("stage")), {})
        blocks.setdefault(number, {})[key or block] = layer
    for number in range(1, max(found, default=0) + 1):
        blocks = dict(found.get(number, {}))
        downsample = blocks.pop(0, {}).get("downsample")
        yield Stage(downsample, [blocks[place] for place in sorted(blocks)])


def _given_widths(architecture: Architecture, stages: Sequence[Stage]) -> list[int]:
    """The width of each stage in the network."""
    outputs = {layer.slot: layer.output_shape(shape)[0] for layer, shape in architecture.placed()}
    width, found = outputs[architecture.layers[0].slot], list[int]()
    for stage in stages:
        last = [*([stage.downsample] if stage.downsample else []), *stage.layers][-1:]
        width = outputs[last[0].slot] if last else width
        found.append(width)
    return found


def _spaced(value: int, share: float, count: int) -> list[int]:
    """Multiples of a hardware-friendly step from the share of a value on, and the value."""
    step = STEP if value > SMALL_WIDTH else SMALL_STEP
    shares = [share + (1 - share) * part / (count - 1) for part in range(count - 1)]
    rounded = {max(step, round(value * it / step) * step) for it in shares}
    return [*sorted(it for it in rounded if it < value), value]


def _takes(layer: Layer, name: str, option: float) -> bool:
    """Whether the layer may have that option of a field."""
    if name not in type(layer).model_fields:
        return True
    try:
        changed = type(layer).model_validate({**layer.model_dump(), name: option})
        if isinstance(changed, ResidualLayer):
            changed.output_shape((changed.channels, 16, 16))
    except (ValidationError, ValueError):
        return False
    return True


def _spec(layer: Layer) -> dict[str, Any]:
    """The fields of a layer as a space states them."""
    fields = layer.model_dump(mode="json", exclude=set(CONTEXT_FIELDS), exclude_defaults=True)
    return {"kind": layer.kind, **{name: it for name, it in fields.items() if name != "kind"}}


def _text(text: str) -> str:
    """A text in YAML, in quotes where it could mean something else."""
    return text if re.fullmatch(PLAIN_TEXT, text) else json.dumps(text, ensure_ascii=False)


def _flow(value: object) -> str:
    """The value as YAML on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(it)}" for key, it in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)
