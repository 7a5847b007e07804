"""Layers in documents: of built-in kinds, and of those that a user's own Python files add.

A user's file is executed, its layers are checked, and it is found again by its hash. A document of
somebody else executes nothing but what lies below it with the hash that it names.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, NamedTuple, TypeVar, Union

from pydantic import (
    BaseModel,
    Field,
    SerializeAsAny,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError, PydanticKnownError

from nas.documents import READING, write_atomically
from nas.families import LAYERS, NAME, BlockFile, Layer
from nas.printing import command

T = TypeVar("T", bound=BaseModel)

_TRUSTED: ContextVar[frozenset[Path]] = ContextVar("trusted", default=frozenset())


class _Executed(NamedTuple):
    module: ModuleType
    source: bytes


_MODULES: dict[str, _Executed] = {}
"""What was executed in this process, by its hash, as in ``sys.modules``."""

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


@contextmanager
def trusting(files: Iterable[Path]) -> Iterator[None]:
    """Within the block, documents may name these files wherever they lie: the user did."""
    trusted = _TRUSTED.set(frozenset(file.resolve() for file in files))
    try:
        yield
    finally:
        _TRUSTED.reset(trusted)


def keep_beside(files: Iterable[BlockFile], document: Path) -> None:
    """Write the files that a document names beside it, where they are found and may run.

    A file of the same name and another content stays: the copy gets its hash into its name.
    """
    for file in files:
        source = _MODULES[file.sha256].source
        here = _candidates(file, document)
        there = [it for it in here if it.is_file() and _is_below(it, document)]
        if not any(_content(it) == source for it in there):
            beside = next((it for it in here[1:] if not it.exists()), here[-1])
            write_atomically(beside, source)


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
            recorded, module = _execute(file, READING.get())
            kinds |= _layers(module, recorded, taken={"identity", *LAYERS, *kinds})
        except ValueError as error:
            context = {"location": ("blocks", index), "message": str(error)}
            raise PydanticCustomError("misfit", "{message}", context) from None
        files.append(recorded)
    return model.model_validate({**data, "blocks": tuple(files)}, context=kinds)


def files_of(layers: Sequence[Layer]) -> tuple[BlockFile, ...]:
    """The files that define some of the layers."""
    return tuple(dict.fromkeys(layer.origin for layer in layers if layer.origin is not None))


def _execute(file: BlockFile, document: Path | None) -> tuple[BlockFile, ModuleType]:
    """The file with its hash, and its module; no content is executed twice.

    Raises ValueError unless the file may run: the user named it, or his own space, which is a YAML
    above it; or ``document`` recorded its hash and lies above it.
    """
    if file.sha256 not in _MODULES:
        path = _permitted(file, document)
        source = _content(path)
        sha256 = _sha256(source)
        if file.sha256 and file.sha256 != sha256:
            raise ValueError(
                f"{path}: has changed since it was recorded: SHA-256 {file.sha256[:12]} then, "
                f"{sha256[:12]} now; bring that version back"
            )
        if sha256 not in _MODULES:
            _MODULES[sha256] = _Executed(_run(path, source, sha256), source)
        file = BlockFile(path=str(path), sha256=sha256)
    module = _MODULES[file.sha256].module
    return BlockFile(path=str(module.__file__), sha256=file.sha256), module


def _permitted(file: BlockFile, document: Path | None) -> Path:
    """Where the file lies; raises ValueError if it may not run there. Nothing else is read."""
    found = [it for it in _candidates(file, document) if it.is_file()]
    if not found:
        raise ValueError(f"{_candidates(file, document)[0]}: cannot be read: No such file")
    is_space = document is not None and document.suffix.lower() in (".yaml", ".yml")
    is_known = is_space or bool(file.sha256)
    may_run = [it for it in found if _is_trusted(it) or (is_known and _is_below(it, document))]
    if not may_run:
        lacks = "lies outside the folder of" if is_known else "has no hash in"
        raise ValueError(
            f"{found[0]}: is code that {lacks} the document that names it, and is not run; read "
            f"it, and to allow it add {command('--trust', found[0])}"
        )
    return next((it for it in may_run if _sha256(_content(it)) == file.sha256), may_run[0])


def _candidates(file: BlockFile, document: Path | None) -> list[Path]:
    """Where a file may lie: at its path, which counts from the document, or beside that."""
    folder = (document or Path("document")).resolve().parent
    path = folder / file.path
    marked = f"{path.stem}_{file.sha256[:8]}{path.suffix}"
    return [path, folder / path.name, folder / marked]


def _is_below(path: Path, document: Path | None) -> bool:
    try:
        return document is not None and path.resolve().is_relative_to(document.resolve().parent)
    except (OSError, RuntimeError):  # links in a circle
        return False


def _is_trusted(path: Path) -> bool:
    return path.resolve() in _TRUSTED.get()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None


def _sha256(content: bytes) -> str:
    """Of the code, whichever line ends its file has: git on Windows writes others than we."""
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()


def _run(path: Path, source: bytes, sha256: str) -> ModuleType:
    """The module that the source makes; raises ValueError with line and reason if it fails."""
    name = _module_name(path, sha256)
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # where pydantic and pickle look for the names in it
    for old, new in RENAMED.items():
        if old.encode() in source:
            sys.modules.setdefault(old, importlib.import_module(new))
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102 - it is permitted
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the user's code raises
        del sys.modules[name]
        raise ValueError(_reason(path, error)) from None
    return module


def _module_name(path: Path, sha256: str) -> str:
    return f"nas_block_{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}_{sha256[:16]}"


def _reason(path: Path, error: BaseException) -> str:
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
