"""An ``Architecture`` is a value: the input shape and a tuple of layer configs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, model_validator

from nas import documents
from nas.errors import UserError
from nas.families import BlockFile, Layer, Shape
from nas.families.layer import Positive
from nas.families.limits import MOST_LAYERS, MOST_PIXELS, least_size, too_large
from nas.families.own import AnyLayer, files_of, keep_beside, with_own_kinds
from nas.preprocessing import IMAGENET, Preprocessing

COLOURS = 3
"""The channels of all pictures as they are read."""
Pixels = Annotated[int, Field(gt=0, le=MOST_PIXELS)]


class Architecture(documents.GrownValue):
    """An image classification network: layers that are applied one after the other.

    ``preprocessing`` is how its weights want to see pictures. ``blocks`` are the Python files that
    define the user's own kinds among the layers. Raises ValueError if a layer does not fit the
    output of the one before, or two have the same slot.
    """

    later = frozenset({"preprocessing"})

    name: str = ""
    input_shape: tuple[Positive, Pixels, Pixels]
    preprocessing: Preprocessing = IMAGENET
    blocks: tuple[BlockFile, ...] = ()
    layers: Annotated[tuple[AnyLayer, ...], Field(min_length=1, max_length=MOST_LAYERS)]

    @model_validator(mode="wrap")
    @classmethod
    def _with_own_kinds(cls, data: object, handler: ValidatorFunctionWrapHandler) -> Architecture:
        return with_own_kinds(cls, data, handler)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        (slot, times), *_ = Counter(layer.slot for layer in self.layers).most_common(1)
        if times > 1:
            raise ValueError(f"slot '{slot}' stands {times} times")
        shape, params, macs = self.input_shape, 0, 0
        for layer in self.layers:
            least = least_size(layer, shape)
            params, macs = params + least[0], macs + least[1]
            shape = layer.output_shape(shape)
        if problem := too_large(params, macs):
            raise ValueError(problem)
        if shape[1:] != (1, 1):
            raise ValueError(f"the last layer must be a classifier, got {self.layers[-1].kind}")
        return self

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.input_shape, self.layers))

    def __eq__(self, other: object) -> bool:
        # name and preprocessing belong to weights: networks with the same layers are equal
        return (
            isinstance(other, Architecture)
            and self.input_shape == other.input_shape
            and self.layers == other.layers
        )

    @property
    def input_size(self) -> int:
        """The longer side of the images, in pixels."""
        return max(self.input_shape[1:])

    @property
    def classes(self) -> int:
        """The number of classes that the head distinguishes."""
        *_, (layer, shape) = self.placed()
        return layer.output_shape(shape)[0]

    def require_colour(self) -> None:
        """Raise UserError unless it takes pictures as they are read: in three colours."""
        if self.input_shape[0] != COLOURS:
            raise UserError(
                f"{self.name or 'architecture'}: pictures are read in {COLOURS} colours, its first "
                f"layer takes {self.input_shape[0]} channels"
            )

    def placed(self) -> Iterator[tuple[Layer, Shape]]:
        """Each layer with its input shape."""
        shape = self.input_shape
        for layer in self.layers:
            yield layer, shape
            shape = layer.output_shape(shape)

    def with_input_size(self, pixels: int) -> Architecture:
        """Returns the same layers for square images of another size.

        Raises UserError if the strides of the layers do not divide ``pixels``.
        """
        try:
            return self._changed(input_shape=(self.input_shape[0], pixels, pixels))
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise UserError(f"{self.name or 'architecture'} at {pixels} px: {message}") from None

    def with_classes(self, classes: int) -> Architecture:
        """Returns the same layers with a head for another number of classes."""
        *body, head = self.layers
        return self._changed(layers=(*body, head.model_copy(update={"classes": classes})))

    def with_preprocessing(self, preprocessing: Preprocessing) -> Architecture:
        """Returns the same layers for weights that want to see pictures so."""
        return self._changed(preprocessing=preprocessing)

    def _changed(self, **update: object) -> Architecture:
        return Architecture.model_validate({**dict(self), **update})

    @classmethod
    def load(cls, name_or_path: str | Path) -> Architecture:
        """Reads a built-in architecture by its name, or an architecture from a JSON file.

        Raises UserError if there is no such name or file, or the file holds no valid architecture.
        """
        path = documents.find(name_or_path, documents.built_in_architectures(), "architecture")
        return cls._from_document(documents.read_document(path))

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Reads the text of ``to_json``."""
        return cls._from_document(documents.parse_document(text, "architecture", form="json"))

    @classmethod
    def _from_document(cls, document: documents.Document) -> Architecture:
        if not isinstance(document.data, dict):
            raise document.error((), "an architecture is a mapping with 'input_shape', 'layers'")
        if "stages" in document.data:
            raise document.error((), "is a search space, not an architecture")
        return document.validated(cls)

    def to_json(self) -> str:
        """Returns JSON with one line per layer; defaults are left out."""
        entries = (
            {"slot": layer.slot, "kind": layer.kind}
            | layer.model_dump(exclude={"slot", "kind"}, exclude_defaults=True)
            for layer in self.layers
        )
        layers = ",\n    ".join(map(json.dumps, entries))
        shape = ", ".join(map(str, self.input_shape))
        blocks = [file.model_dump() for file in files_of(self.layers)]
        named = f'  "blocks": {json.dumps(blocks)},\n' if blocks else ""
        if seen := self.preprocessing.model_dump(mode="json", exclude_defaults=True):
            named = f'  "preprocessing": {json.dumps(seen)},\n{named}'
        return (
            f'{{\n  "name": {json.dumps(self.name)},\n  "input_shape": [{shape}],\n{named}'
            f'  "layers": [\n    {layers}\n  ]\n}}\n'
        )

    def save(self, path: str | Path) -> None:
        """Writes ``to_json`` to ``path``, atomically, and the files of own kinds beside it."""
        keep_beside(files_of(self.layers), Path(path))
        documents.write_atomically(Path(path), self.to_json())
