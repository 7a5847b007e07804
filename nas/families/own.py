"""Layers in documents: of built-in kinds, and of those that a user's own Python files add.

A user's file is executed, its layers are checked, and it is found again by its hash.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, TypeVar, Union

from pydantic import (
    BaseModel,
    Field,
    SerializeAsAny,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError, PydanticKnownError

from nas.documents import Document
from nas.families import LAYERS, NAME, BlockFile, Layer

T = TypeVar("T", bound=BaseModel)

Kinds = Mapping[str, type[Layer]]
"""The context of a validation: a class for each kind that is not built in."""

RENAMED = {
    "nas.layers": "nas.families",
    "nas.blocks.norm": "nas.families.parts",
    "nas.blocks.relative_bias": "nas.families.parts",
    "nas.blocks.tokens": "nas.families.parts",
}
"""Modules by the names that they had in version 0.1, which files recorded with a hash still use."""


def pick(
    data: object,
    handler: ValidatorFunctionWrapHandler,
    info: ValidationInfo,
    class_of: Callable[[type[Layer]], type[BaseModel]],
    built_in: Collection[str],
) -> object:
    """``data`` as a value of the class that ``class_of`` has for its kind; else by ``handler``."""
    own: Kinds = info.context or {}
    kind = str(data.get("kind", "")) if isinstance(data, Mapping) else ""
    if kind in own:
        return class_of(own[kind]).model_validate(data, context=own)
    if own and kind and kind not in built_in:
        expected = ", ".join(f"'{known}'" for known in (*own, *built_in))
        raise PydanticKnownError(
            "union_tag_invalid", {"discriminator": "'kind'", "tag": kind, "expected_tags": expected}
        )
    return handler(data)


def _layer(data: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> object:
    if isinstance(data, Layer):
        return data
    return pick(data, handler, info, lambda layer: layer, LAYERS)


if TYPE_CHECKING:
    AnyLayer = Layer
else:  # pydantic picks the class by its kind, and reports errors at the right key
    AnyLayer = SerializeAsAny[
        Annotated[
            Union[tuple(LAYERS.values())],  # noqa: UP007 - made from a tuple
            Field(discriminator="kind"),
            WrapValidator(_layer),
        ]
    ]


def locate_blocks(document: Document) -> Document:
    """Returns the document with the paths of its ``blocks``, which count from its own folder.

    A file that is no longer at its path may lie beside the document, under its name.
    """
    data = document.data
    if not isinstance(data, Mapping) or not isinstance(data.get("blocks"), list):
        return document
    folder = Path(document.path).resolve().parent
    blocks = [_located(entry, folder) for entry in data["blocks"]]
    return replace(document, data={**data, "blocks": blocks})


def _located(entry: object, folder: Path) -> object:
    if isinstance(entry, str):
        return str(folder / entry)
    if isinstance(entry, Mapping) and isinstance(entry.get("path"), str):
        path, beside = folder / entry["path"], folder / Path(entry["path"]).name
        return {**entry, "path": str(beside if not path.exists() and beside.exists() else path)}
    return entry


class _Named(BaseModel):
    blocks: tuple[BlockFile, ...] = ()


def with_own_kinds(model: type[T], data: object, handler: ValidatorFunctionWrapHandler) -> T:
    """Returns ``data`` validated with the kinds of the files that it names under ``blocks``.

    Raises ValueError if a file is missing, has changed, fails, or defines a layer of no use.
    """
    given = data.get("blocks") if isinstance(data, Mapping) else None
    are_known = isinstance(given, tuple) and all(isinstance(entry, BlockFile) for entry in given)
    if not isinstance(data, Mapping) or not given or are_known:
        return handler(data)  # type: ignore[no-any-return]
    files: list[BlockFile] = []
    kinds: dict[str, type[Layer]] = {}
    for index, file in enumerate(_Named.model_validate({"blocks": given}).blocks):
        try:
            recorded, module = _execute(file)
            kinds |= _layers(module, recorded, taken={"identity", *LAYERS, *kinds})
        except ValueError as error:
            context = {"location": ("blocks", index), "message": str(error)}
            raise PydanticCustomError("misfit", "{message}", context) from None
        files.append(recorded)
    return model.model_validate({**data, "blocks": tuple(files)}, context=kinds)


def files_of(layers: Sequence[Layer]) -> tuple[BlockFile, ...]:
    """The files that define some of the layers."""
    return tuple(dict.fromkeys(layer.origin for layer in layers if layer.origin is not None))


def _execute(file: BlockFile) -> tuple[BlockFile, ModuleType]:
    """The file with its hash, and its module; no content is executed twice."""
    path = Path(file.path)
    known = sys.modules.get(_module_name(path, file.sha256)) if file.sha256 else None
    if known is not None:
        return BlockFile(path=str(known.__file__), sha256=file.sha256), known
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    sha256 = hashlib.sha256(source).hexdigest()
    if file.sha256 and file.sha256 != sha256:
        raise ValueError(
            f"{path}: has changed since it was recorded: SHA-256 {file.sha256[:12]} then, "
            f"{sha256[:12]} now; bring that version back"
        )
    name = _module_name(path, sha256)
    if name not in sys.modules:
        module = ModuleType(name)
        module.__file__ = str(path)
        sys.modules[name] = module  # where pydantic and pickle look for the names in it
        for old, new in RENAMED.items():
            if old.encode() in source:
                sys.modules.setdefault(old, importlib.import_module(new))
        try:
            exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102 - named by the user
        except Exception as error:  # noqa: BLE001 - whatever the user's code raises
            del sys.modules[name]
            raise ValueError(_reason(path, error)) from None
    return BlockFile(path=str(sys.modules[name].__file__), sha256=sha256), sys.modules[name]


def _module_name(path: Path, sha256: str) -> str:
    return f"nas_block_{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}_{sha256[:16]}"


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"{path}:{error.lineno}: SyntaxError: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    place = f"{path}:{lines[-1]}" if lines else str(path)
    message = (str(error).splitlines() or [""])[0]
    return f"{place}: {type(error).__name__}: {message}"


def _layers(module: ModuleType, file: BlockFile, taken: Collection[str]) -> Kinds:
    """The layer classes that a file defines, by their kinds, none of which may be ``taken``."""
    found: dict[str, type[Layer]] = {}
    for layer in vars(module).values():
        if not (isinstance(layer, type) and issubclass(layer, Layer)):
            continue
        kind = layer.model_fields["kind"].default
        if layer.__module__ != module.__name__ or not isinstance(kind, str):
            continue  # imported, or a base class of others
        _require_usable(layer, kind, f"{file.path}: {layer.__name__}")
        if kind in found:
            raise ValueError(f"{file.path}: kind '{kind}' stands twice")
        layer.origin = file
        found[kind] = layer
    for kind in found:
        if kind in taken:
            raise ValueError(f"{file.path}: kind '{kind}' exists already; choose another")
    if not found:
        raise ValueError(
            f"{file.path}: defines no layer: a subclass of nas.families.Layer with a line such as "
            'kind: Literal["my_block"] = "my_block"'
        )
    return found


def _require_usable(layer: type[Layer], kind: str, where: str) -> None:
    if not re.fullmatch(NAME, kind):
        raise ValueError(f"{where}: a kind must be in lower case ({NAME}), got '{kind}'")
    if layer.output_shape is Layer.output_shape:
        raise ValueError(f"{where}: must define output_shape(self, input_shape)")
    if (layer.module, layer.module_class) == (Layer.module, Layer.module_class):
        raise ValueError(
            f"{where}: must define module(self, input_shape), which returns "
            "functools.partial(MODULE_CLASS, ARGUMENTS...)"
        )
