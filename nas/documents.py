"""YAML and JSON documents as values; errors point at file, line and column.

``nas/parsing.py`` turns their text into plain data.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import reprlib
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from nas.errors import UserError, writing
from nas.parsing import MOST_BYTES, Form, Location, Place, parse_text, shortened

MOST_OF_KEY = 100
"""Characters of a key in messages."""

_HERE = Path(__file__).parent  # in a wheel the spaces are beside it, in a checkout above
BUILT_IN = next(filter(Path.is_dir, (_HERE / "search_spaces", _HERE.parent / "search_spaces")))
"""The folder of the built-in spaces; ``published/`` in it holds the built-in architectures."""
TABLES = BUILT_IN.parent / "latency_tables"
"""The folder of the example tables; in a checkout a user's tables lie there too."""


READING: ContextVar[Path | None] = ContextVar("reading", default=None)
"""The document that is being validated, from whose folder the paths in it count."""


class Value(BaseModel):
    """An immutable value, validated when it is made. Unknown keys, NaN and inf are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

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
                    name = str(key)
                    hint = did_you_mean(name, cls.model_fields)
                    details = {"key": name, "shown": shortened(name, MOST_OF_KEY), "hint": hint}
                    raise PydanticCustomError("unknown_key", "unknown key '{shown}'{hint}", details)
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


LENGTHS = ("too_short", "too_long")
"""The complaints about how many options a choice has."""

Model = TypeVar("Model", bound=Value)

_SHORT = reprlib.Repr()  # of values in messages
_SHORT.maxstring = _SHORT.maxother = 60


@dataclass(frozen=True)
class Document:
    """Plain data read from a file; ``find`` tells the line and column of each of its parts."""

    path: str
    data: Any
    find: Callable[[Location], Place | None]

    def error(self, location: Location, message: str) -> UserError:
        """One line that points at ``location``: ``a.yaml:14:7: stages[2].width: message``."""
        known = self._known(location)
        found = self.find(known)
        place = f"{self.path}:{found[0]}:{found[1]}" if found else self.path
        name = location_text(known)
        return UserError(f"{place}: {name}: {message}" if name else f"{place}: {message}")

    def validated(self, model: type[Model]) -> Model:
        """Returns the data as a value; raises UserError, which points at the invalid part."""
        reading = READING.set(Path(self.path))
        try:
            return model.model_validate(self.data)
        except ValidationError as error:
            raise self.validation_error(error) from None
        finally:
            READING.reset(reading)

    def validation_error(self, error: ValidationError) -> UserError:
        """Returns the most relevant of pydantic's complaints, with its place in the document."""
        # a union makes several complaints; the deepest in the document is the relevant one
        best = max(
            error.errors(include_url=False),
            key=lambda found: (len(self._known(found["loc"])), found["type"] in LENGTHS),
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
        elif best["type"] == "too_long":
            limits = best["ctx"]
            message = f"may hold {limits['max_length']:,}, got {limits['actual_length'] or 'more'}"
        elif best["type"] == "union_tag_invalid":
            tag = str(best["ctx"]["tag"])
            known = re.findall(r"'([^']+)'", best["ctx"]["expected_tags"])
            message = f"unknown kind '{tag}'{did_you_mean(tag, known)}; known: {', '.join(known)}"
        elif best["type"] != "value_error" and not isinstance(best["input"], Mapping):
            message = f"{message[0].lower()}{message[1:]}, got {_SHORT.repr(best['input'])}"
        return self.error(location, message)

    def _known(self, location: Iterable[str | int]) -> Location:
        """A location of pydantic without the names of union members and validators."""
        known: Location = ()
        here = self.data
        for part in location:
            in_list = isinstance(here, list) and isinstance(part, int) and 0 <= part < len(here)
            if in_list or (isinstance(here, Mapping) and part in here):
                known, here = (*known, part), here[part]
        return known


def location_text(location: Location) -> str:
    """``("stages", 2, "width")`` as ``stages[2].width``."""
    text = ""
    for part in location:
        name = shortened(str(part), MOST_OF_KEY)
        text += f"[{name}]" if isinstance(part, int) else f".{name}" if text else name
    return text


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint such as ``; did you mean 'width'?``, or nothing when no known word is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def find(name_or_path: str | Path, built_in: Mapping[str, Path], what: str) -> Path:
    """Returns the path of a built-in file by its name, or ``name_or_path`` if that is a file."""
    path = Path(name_or_path)
    if path.suffix in (".json", ".yaml", ".yml") or os.path.isfile(path):  # noqa: PTH113 - takes all
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


def built_in_tables() -> dict[str, Path]:
    """Returns the files of the example latency tables by name."""
    return {file.stem: file for file in sorted(TABLES.glob("example*.csv"))}


def read_document(path: Path) -> Document:
    """Read YAML or JSON; raises UserError if it cannot be read, is neither, or repeats a key."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # a NUL in the path
        raise UserError(f"{str(path)!r}: cannot be read: {error}") from None
    if len(content) > MOST_BYTES:
        raise UserError(f"{path}: must have at most {MOST_BYTES:,} bytes")
    return parse_document(_decoded(content, path), str(path))


def parse_document(text: str, name: str, form: Form | None = None) -> Document:
    """Parse ``text``; ``name`` stands for the file in messages, and tells the form if none is told.

    JSON that is called otherwise is read as JSON, too.
    """
    return Document(name, *parse_text(text, name, form))


def _decoded(content: bytes, path: Path) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        form = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "no text"
        raise UserError(
            f"{path}:{line}:{column}: is {form}, must be UTF-8: byte 0x{content[error.start]:02X}"
        ) from None


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
