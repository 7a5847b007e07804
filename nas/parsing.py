"""Text as plain data: JSON as JSON, all else as YAML; every complaint has its line and column.

What a file can cost is bounded before it costs that: its size, its values (aliases are counted as
often as they are used), its depth and its numbers. Tags, which name classes, are refused.

PyYAML alone reads ``1e-3`` as text, ``no`` as False, and keeps the last of two equal keys; this
reader follows YAML 1.2 for numbers and booleans and refuses duplicates, as it does in JSON.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import yaml

from nas.errors import UserError

Location = tuple[str | int, ...]
"""The keys and indices that lead to a part of a document."""
Place = tuple[int, int]
"""Line and column, from 1."""
Form = Literal["json", "yaml"]

MOST_BYTES = 32 * 2**20
"""Of a JSON document: ten times the report of a search with 3,000 evaluations."""
MOST_VALUES = 4_000_000
MOST_YAML_BYTES, MOST_YAML_VALUES = 2**18, 40_000
"""YAML is read a hundred times slower and written by hand; the largest space here has 5 kB."""
MOST_DEPTH = 50
"""Lists and mappings inside each other; those of a search space are 9 deep."""
MOST_DIGITS = 100
LARGEST_INTEGER = 2**63 - 1

CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")
ODD_ESCAPE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
"""What may stand for a character that no text holds: a NUL, or half of a pair."""


class Parsed(NamedTuple):
    """Plain data, and a function that finds the place of a part of it."""

    data: Any
    find: Callable[[Location], Place | None]


class _Refused(ValueError):  # noqa: N818 - names what happened to the value
    """The rule that a value breaks; whoever knows the value's place adds it."""


def parse_text(text: str, name: str, form: Form | None = None) -> Parsed:
    """Parse a text in a form, by default that of the file ``name``: ``.json`` must hold JSON.

    JSON that is called otherwise is read as JSON, too: YAML takes the halves of an emoji for two
    characters. Raises UserError.
    """
    text = text.removeprefix("\ufeff")
    if found := CONTROL.search(text):
        code = ord(found[0])
        raise _error(name, _place(text, found.start()), f"holds the control character U+{code:04X}")
    if form == "json" or (form is None and name.endswith(".json")):
        return parse_json(text, name)
    if form is None and text.lstrip().startswith(("{", "[")):
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            pass
        else:
            return parse_json(text, name)
    return parse_yaml(text, name)


def parse_json(text: str, name: str) -> Parsed:
    """Parse JSON, in which numbers are finite and keys stand once; raises UserError."""
    _require_size(name, len(text), MOST_BYTES)
    if 1 + text.count(",") + text.count("[") + text.count("{") > MOST_VALUES:
        raise UserError(f"{name}: holds more than {MOST_VALUES:,} values")
    try:
        data = json.loads(
            text,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_number,
            object_pairs_hook=_mapping,
        )
        if ODD_ESCAPE.search(text) or _is_too_deep(data):
            _require_sound(text, name)
    except json.JSONDecodeError as error:
        what = error.msg[0].lower() + error.msg[1:]
        raise _error(name, (error.lineno, error.colno), f"not valid JSON: {what}") from None
    except (_Refused, RecursionError) as error:
        _require_sound(text, name)
        raise UserError(f"{name}: not valid JSON: {error}") from None
    return Parsed(data, lambda location: _find(text, location))


def parse_yaml(text: str, name: str) -> Parsed:
    """Parse one YAML document without tags; raises UserError."""
    _require_size(name, len(text), MOST_YAML_BYTES, "; write it as JSON")
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        place, code = _place(text, error.position), int(error.character)
        raise _error(name, place, f"holds the control character U+{code:04X}") from None
    try:
        node = loader.get_single_node()
        data = loader.read(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        found = (mark.line + 1, mark.column + 1) if mark else None
        what = " ".join(f"not valid YAML: {error.problem or error.context}".split())
        raise _error(name, found, what.removeprefix("not valid YAML: refused: ")) from None
    except (ValueError, OverflowError) as error:  # of an escape or a version beyond all numbers
        mark = loader.get_mark()
        raise _error(name, (mark.line + 1, mark.column + 1), f"not valid YAML: {error}") from None
    finally:
        loader.dispose()
    return Parsed(data, loader.places.get)


def _error(name: str, place: Place | None, message: str) -> UserError:
    where = f"{name}:{place[0]}:{place[1]}" if place else name
    return UserError(f"{where}: {message}")


def _place(text: str, offset: int) -> Place:
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def _require_size(name: str, size: int, most: int, remedy: str = "") -> None:
    if size > most:
        raise UserError(f"{name}: must have at most {most:,} characters, has {size:,}{remedy}")


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS or abs(int(digits)) > LARGEST_INTEGER:
        raise _Refused(f"an integer must fit into 64 bits, got {shortened(digits)}")
    return int(digits)


def _number(digits: str) -> float:
    if len(digits) > MOST_DIGITS:
        raise _Refused(f"a number has at most {MOST_DIGITS} digits, got {len(digits)}")
    value = float(digits)
    if not math.isfinite(value):
        raise _Refused(f"a number must be finite, got {digits}")
    return value


def _text(value: str) -> str:
    if "\0" in value:
        raise _Refused("a text must not hold the character U+0000")
    try:
        value.encode()
    except UnicodeEncodeError:
        try:  # an emoji of two halves, as JSON writes it
            return value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise _Refused("a text must not hold half of a surrogate pair") from None
    return value


def shortened(text: str, most: int = 24) -> str:
    """The beginning of a long text, and its length."""
    return text if len(text) <= most else f"{text[:most]}... of {len(text):,} characters"


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Refused("a key stands twice")
    return found


def _is_too_deep(data: object) -> bool:
    level: list[Any] = [data] if isinstance(data, dict | list) else []
    for _ in range(MOST_DEPTH + 1):
        level = [
            child
            for it in level
            for child in (it.values() if isinstance(it, dict) else it)
            if isinstance(child, dict | list)
        ]
    return bool(level)


class _Token(NamedTuple):
    """A key or a value in JSON; a mapping or a list is its opening bracket."""

    location: Location
    offset: int
    text: str
    is_key: bool


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def _tokens(text: str) -> Iterator[_Token]:
    """The keys and values of valid JSON, in order, with their locations."""
    location: list[str | int] = []
    brackets: list[str] = []
    is_key = False
    for match in _TOKEN.finditer(text):
        mark = match[0]
        if mark in "]}":
            brackets.pop()
            location.pop()
            is_key = False
        elif mark == ",":
            is_key = brackets[-1] == "{"
            if not is_key:
                location[-1] += 1  # type: ignore[operator]
        elif mark == ":":
            is_key = False
        elif is_key:
            location[-1] = json.loads(mark)
            yield _Token(tuple(location), match.start(), mark, is_key=True)
        else:
            yield _Token(tuple(location), match.start(), mark, is_key=False)
            if mark in "[{":
                brackets.append(mark)
                location.append("" if mark == "{" else 0)
                is_key = mark == "{"


def _find(text: str, location: Location) -> Place | None:
    found = (it.offset for it in _tokens(text) if it.location == location)
    offset = next(found, None)
    return None if offset is None else _place(text, offset)


def _require_sound(text: str, name: str) -> None:
    """Raise UserError at the first value that breaks a rule; slow, for when one is known to."""
    keys: list[dict[str, int]] = []
    for token in _tokens(text):
        depth = len(token.location)
        if depth > MOST_DEPTH:
            raise _error(name, _place(text, token.offset), _TOO_DEEP)
        del keys[depth:]
        keys += [{} for _ in range(depth - len(keys))]
        try:
            if token.is_key:
                key = _text(json.loads(token.text))
                if keys[-1].setdefault(key, token.offset) != token.offset:
                    first = _place(text, keys[-1][key])[0]
                    raise _Refused(f"key '{key}' stands twice, first in line {first}")
            elif token.text.startswith('"'):
                _text(json.loads(token.text))
            elif token.text not in ("{", "[", "true", "false", "null"):
                number = _NUMBER.match(token.text)  # what follows it may be no JSON
                digits = number[0] if number else token.text
                (_integer if re.fullmatch("-?[0-9]+", digits) else _number)(digits)
        except _Refused as error:
            raise _error(name, _place(text, token.offset), str(error)) from None


_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_TOO_DEEP = f"lists and mappings may be {MOST_DEPTH} deep"


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's numbers and booleans, which notes the place of each part."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.places: dict[Location, Place] = {}
        self._open: list[str | None] = []  # the anchors of the nodes around
        self._count = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        self._require_few(mark)
        if len(self._open) > MOST_DEPTH:
            raise _refusal(mark, _TOO_DEEP)
        if getattr(event, "tag", None) is not None:
            raise _refusal(mark, "a tag (!) is not allowed here; leave it out")
        is_alias = isinstance(event, yaml.AliasEvent)
        if is_alias and event.anchor in self._open:
            raise _refusal(mark, f"alias '*{event.anchor}' stands inside of what it names")
        self._open.append(None if is_alias else event.anchor)
        node = super().compose_node(parent, index)
        self._open.pop()
        return node

    def read(self, node: yaml.Node, location: Location = ()) -> Any:  # noqa: ANN401
        """The node as plain data."""
        self._require_few(node.start_mark)
        if len(location) > MOST_DEPTH:
            raise _refusal(node.start_mark, _TOO_DEEP)
        self.places[location] = _node_place(node)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(child, (*location, i)) for i, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._read_mapping(node, location)
        try:
            return _SCALARS[node.tag](node.value)
        except _Refused as error:
            raise _refusal(node.start_mark, str(error)) from None

    def _read_mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        self._require_unique_keys(node)
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                data |= self._merged(value_node, location)
        for key_node, value_node in node.value:
            if key_node.tag != _MERGE:
                key = str(key_node.value)
                data[key] = self.read(value_node, (*location, key))
                self.places[*location, key] = _node_place(key_node)
        return data

    def _merged(self, node: yaml.Node, location: Location) -> dict[str, Any]:
        """What ``<<`` takes over; the first of several mappings comes first."""
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for source in reversed(sources):
            if not isinstance(source, yaml.MappingNode):
                raise _refusal(source.start_mark, "'<<' takes a mapping or a list of mappings")
            place = self.places[location]
            merged |= self.read(source, location)
            self.places[location] = place
        return merged

    def _require_few(self, mark: yaml.Mark) -> None:
        self._count += 1  # once when a value is composed, and whenever it is read
        if self._count > 2 * MOST_YAML_VALUES:
            raise _refusal(mark, f"holds more than {MOST_YAML_VALUES:,} values")

    def _require_unique_keys(self, node: yaml.MappingNode) -> None:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _refusal(key_node.start_mark, "a key must be text")
            try:
                key = _text(key_node.value)
            except _Refused as error:
                raise _refusal(key_node.start_mark, str(error)) from None
            if key in seen and key_node.tag != _MERGE:
                message = f"key '{key}' stands twice, first in line {seen[key]}"
                raise _refusal(key_node.start_mark, message)
            seen[key] = _node_place(key_node)[0]


def _refusal(mark: yaml.Mark, message: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=f"refused: {message}", problem_mark=mark)


def _node_place(node: yaml.Node) -> Place:
    return node.start_mark.line + 1, node.start_mark.column + 1


_YAML = "tag:yaml.org,2002:"
_MERGE = f"{_YAML}merge"
_SCALARS: dict[str, Callable[[str], Any]] = {
    f"{_YAML}bool": lambda text: text.lower() == "true",
    f"{_YAML}int": _integer,
    f"{_YAML}float": _number,
    f"{_YAML}null": lambda _: None,
    f"{_YAML}str": _text,
    _MERGE: _text,
}
for _name, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    (
        "float",
        r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$",
        "-+0123456789.",
    ),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("merge", r"^(?:<<)$", "<"),
):
    _Loader.add_implicit_resolver(f"{_YAML}{_name}", re.compile(_pattern), list(_first))
