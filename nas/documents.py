"""YAML and JSON documents whose errors point at file, line and column.

PyYAML alone reads ``1e-3`` as text, ``no`` as False, and keeps the last of two equal keys; this
loader follows YAML 1.2 for numbers and booleans and refuses duplicates.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from nas.errors import UserError, writing

Location = tuple[str | int, ...]

_HERE = Path(__file__).parent  # in a wheel the spaces are beside it, in a checkout above
BUILT_IN = next(filter(Path.is_dir, (_HERE / "search_spaces", _HERE.parent / "search_spaces")))
"""The folder of the built-in spaces; ``published/`` in it holds the built-in architectures."""


class Value(BaseModel):
    """An immutable value, validated when it is made. Unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Returns pydantic's copy without cached properties, which ``update`` may make wrong."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and cls.model_config.get("extra") == "forbid":
            for key in data:
                if key not in cls.model_fields:
                    details = {"key": str(key), "hint": did_you_mean(str(key), cls.model_fields)}
                    raise PydanticCustomError("unknown_key", "unknown key '{key}'{hint}", details)
        return data


class GrownValue(Value):
    """A value with fields that files of earlier versions lack.

    Those in ``later`` are written only where they differ from their defaults: what an earlier
    version wrote, which a journal knows its work by, is written again word for word.
    """

    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_later(self, serialize: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        found, fields = serialize(self), type(self).model_fields
        usual = {name for name in self.later if getattr(self, name) == fields[name].default}
        return {name: it for name, it in found.items() if name not in usual}


Model = TypeVar("Model", bound=Value)


@dataclass(frozen=True)
class Document:
    """Plain data read from a file, and the line and column of each of its parts."""

    path: str
    data: Any
    positions: Mapping[Location, tuple[int, int]] = field(default_factory=dict)

    def error(self, location: Location, message: str) -> UserError:
        """One line that points at ``location``: ``a.yaml:14:7: stages[2].width: message``."""
        known = self._known(location)
        line = self.positions.get(known)
        place = f"{self.path}:{line[0]}:{line[1]}" if line else self.path
        name = location_text(known)
        return UserError(f"{place}: {name}: {message}" if name else f"{place}: {message}")

    def validated(self, model: type[Model]) -> Model:
        """Returns the data as a value; raises UserError, which points at the invalid part."""
        try:
            return model.model_validate(self.data)
        except ValidationError as error:
            raise self.validation_error(error) from None

    def validation_error(self, error: ValidationError) -> UserError:
        """Returns the most relevant of pydantic's complaints, with its place in the document."""
        # a union makes several complaints; the deepest in the document is the relevant one
        best = max(
            error.errors(include_url=False),
            key=lambda found: (len(self._known(found["loc"])), found["type"] == "too_short"),
        )
        location: Location = tuple(best["loc"])
        message = best["msg"].removeprefix("Value error, ")
        if best["type"] == "missing":
            location, message = location[:-1], f"key '{location[-1]}' is missing"
        elif best["type"] == "unknown_key":
            location = (*location, best["ctx"]["key"])
        elif best["type"] == "misfit":
            location, message = (*location, *best["ctx"]["location"]), best["ctx"]["message"]
        elif best["type"] == "too_short":
            message = "a choice needs at least one option"
        elif best["type"] == "union_tag_invalid":
            tag = str(best["ctx"]["tag"])
            known = re.findall(r"'([^']+)'", best["ctx"]["expected_tags"])
            message = f"unknown kind '{tag}'{did_you_mean(tag, known)}; known: {', '.join(known)}"
        elif best["type"] != "value_error" and not isinstance(best["input"], Mapping):
            message = f"{message[0].lower()}{message[1:]}, got {best['input']!r}"
        return self.error(location, message)

    def _known(self, location: Iterable[str | int]) -> Location:
        """A location of pydantic without the names of union members and validators."""
        known: Location = ()
        for part in location:
            if (*known, part) in self.positions:
                known = (*known, part)
        return known


def location_text(location: Location) -> str:
    """``("stages", 2, "width")`` as ``stages[2].width``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint such as ``; did you mean 'width'?``, or nothing when no known word is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def find(name_or_path: str | Path, built_in: Mapping[str, Path], what: str) -> Path:
    """Returns the path of a built-in file by its name, or ``name_or_path`` if that is a file."""
    path = Path(name_or_path)
    if path.suffix in (".json", ".yaml", ".yml") or path.is_file():
        return path
    name = str(name_or_path)
    if name not in built_in:
        raise UserError(
            f"{what} '{name}' is neither a file nor built in{did_you_mean(name, built_in)}; "
            f"built in: {', '.join(built_in)}"
        )
    return built_in[name]


def built_in_spaces() -> dict[str, Path]:
    """The files of the built-in spaces, by name."""
    return {file.stem: file for file in sorted(BUILT_IN.glob("*.yaml"))}


def built_in_architectures() -> dict[str, Path]:
    """The files of the built-in architectures, by name."""
    return {file.stem: file for file in sorted((BUILT_IN / "published").glob("*.json"))}


def read_document(path: Path) -> Document:
    """Read YAML or JSON; raises UserError if it cannot be read, is no YAML, or repeats a key."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    return parse_document(text, str(path))


def parse_document(text: str, name: str) -> Document:
    """Parse YAML or JSON ``text``; ``name`` stands for the file in messages."""
    loader = _Loader(text, name)
    try:
        node = loader.get_single_node()
        data = loader.read(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise UserError(f"{place}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from None
    finally:
        loader.dispose()
    return Document(name, data, loader.positions)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write beside ``path`` and rename, so that a reader or a crash never sees half a file."""
    data = content.encode() if isinstance(content, str) else content
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=".nas-partial"
        )
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def require_file(path: Path) -> None:
    """Raise UserError unless there is a file at ``path``."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")


def require_new(path: Path, *, force: bool) -> None:
    """Raise UserError if there is a file at ``path`` that may not be replaced."""
    if path.exists() and not force:
        raise UserError(f"{path}: exists; --force replaces it")


def write_json(path: Path, data: object) -> None:
    """Write ``data`` as indented JSON, atomically."""
    write_atomically(path, json.dumps(data, indent=2) + "\n")


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's numbers and booleans, which notes the position of each part."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def __init__(self, text: str, document: str) -> None:
        super().__init__(text)
        self.document = document
        self.positions: dict[Location, tuple[int, int]] = {}

    def read(self, node: yaml.Node, location: Location = ()) -> Any:
        self.positions[location] = _position(node)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(child, (*location, i)) for i, child in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return self.construct_object(node)
        self._require_unique_keys(node)
        self.flatten_mapping(node)
        data = {}
        for key_node, value_node in node.value:
            key = str(self.construct_object(key_node))
            data[key] = self.read(value_node, (*location, key))
            self.positions[*location, key] = _position(key_node)
        return data

    def _require_unique_keys(self, node: yaml.MappingNode) -> None:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            key, (line, column) = str(key_node.value), _position(key_node)
            if key in seen and key != "<<":
                raise UserError(
                    f"{self.document}:{line}:{column}: key '{key}' stands twice, first in line "
                    f"{seen[key]}"
                )
            seen[key] = line


def _position(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("tag:yaml.org,2002:int", r"^[-+]?[0-9]+$", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$",
        "-+0123456789.",
    ),
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:merge", r"^(?:<<)$", "<"),
):
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(node.value))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value, 10))
