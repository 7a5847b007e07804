"""A network as one Python file that needs torch and nothing else.

The file holds the definitions of the network's classes, word for word, with all definitions that
they refer to, and the constructor's call of every layer.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import NamedTuple

from torch import nn

from nas.architecture import Architecture
from nas.deploy.weights import read_tensors
from nas.errors import UserError
from nas.network import Network

UNUSED_METHODS = frozenset({"fold", "logical_shapes"})
"""Left out: export and the supernet call them, a finished network does not."""

PACKAGE = "nas"

TEMPLATE = '''"""{name}: images (N, {shape}) to logits (N, {classes}).

    network = load()  # in evaluation mode, with the weights of the safetensors file beside this one

Needs torch and nothing else.
"""

from __future__ import annotations

{imports}


{definitions}


def build() -> Network:
    """The network with fresh weights."""
    return Network(
        [
{layers}
        ]
    )


def load(path: Path = Path(__file__).with_suffix(".safetensors")) -> Network:
    """The trained network, in evaluation mode."""
    network = build()
    network.load_state_dict(read_tensors(path))
    return network.eval()
'''


class ModuleSource(NamedTuple):
    """A module's source: its top-level definitions and its imports, both by name."""

    lines: list[str]
    definitions: Mapping[str, ast.stmt]
    imports: Mapping[str, tuple[str, str | None]]


def source_file(architecture: Architecture) -> str:
    """A Python file with ``build()``, ``load()``; raises UserError if it needs more than torch."""
    calls = [(layer.slot, layer.module(shape)) for layer, shape in architecture.placed()]
    parts = _Parts()
    used: list[Callable[..., object]] = [Network, read_tensors, *(call.func for _, call in calls)]
    for definition in used:
        parts.add(definition.__module__, definition.__name__)
    parts.imports.add("from pathlib import Path")
    return TEMPLATE.format(
        name=architecture.name or "a network",
        shape=", ".join(map(str, architecture.input_shape)),
        classes=architecture.classes,
        imports="\n".join(sorted(parts.imports)),
        definitions="\n\n\n".join(parts.definitions.values()),
        layers="\n".join(f'            ("{slot}", {call_text(call)}),' for slot, call in calls),
    )


def call_text(call: partial[nn.Module]) -> str:
    """The call as it is written in Python."""
    words = [_literal(value) for value in call.args]
    words += [f"{name}={_literal(value)}" for name, value in call.keywords.items()]
    return f"{call.func.__name__}({', '.join(words)})"


@dataclass
class _Parts:
    """Definitions, each behind those that it refers to, and import lines."""

    definitions: dict[tuple[str, str], str] = field(default_factory=dict)
    imports: set[str] = field(default_factory=set)
    _visited: set[tuple[str, str]] = field(default_factory=set)

    def add(self, module: str, name: str) -> None:
        """Add a definition of this package, behind all definitions that it refers to."""
        module = importlib.import_module(module).__name__  # of two names for one, its own
        if (module, name) in self._visited:
            return
        self._visited.add((module, name))
        source = read_source(module)
        if name not in source.definitions:
            raise ValueError(f"{module}: defines no '{name}' that could stand in another file")
        node = source.definitions[name]
        for other in _names(node):
            if other in source.definitions:
                self.add(module, other)
            elif other in source.imports:
                self._import(other, *source.imports[other])
        self.definitions[module, name] = _text(node, source.lines)

    def _import(self, name: str, module: str, thing: str | None) -> None:
        root = module.partition(".")[0]
        if root == PACKAGE:
            self.add(module, thing or "")
        elif root == "torch" or root in sys.stdlib_module_names:
            plain = module if thing is None else thing
            alias = f" as {name}" if name != plain.rpartition(".")[2] and name != root else ""
            start = f"import {module}" if thing is None else f"from {module} import {thing}"
            self.imports.add(start + alias)
        else:
            raise UserError(f"--format python: {module}: is neither torch nor a part of Python")


@lru_cache
def read_source(module: str) -> ModuleSource:
    """The source of a module of this package, taken apart."""
    text = inspect.getsource(importlib.import_module(module))
    definitions: dict[str, ast.stmt] = {}
    imports: dict[str, tuple[str, str | None]] = {}
    for node in ast.parse(text).body:
        match node:
            case ast.ClassDef() | ast.FunctionDef():
                definitions[node.name] = node
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                definitions[name] = node
            case ast.Import():
                for alias in node.names:
                    imports[alias.asname or alias.name.partition(".")[0]] = alias.name, None
            case ast.ImportFrom():
                for alias in node.names:
                    imports[alias.asname or alias.name] = node.module or "", alias.name
    return ModuleSource(text.splitlines(), definitions, imports)


def _literal(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _names(node: ast.AST) -> Iterator[str]:
    """Every name in a definition, without the methods that are left out."""
    if isinstance(node, ast.Name):
        yield node.id
    for child in ast.iter_child_nodes(node):
        if not _is_unused(child):
            yield from _names(child)


def _text(node: ast.stmt, lines: list[str]) -> str:
    """The text of the definition, without the methods that are left out."""
    first, last = _span(node)
    kept = set(range(first, last + 1))
    for child in ast.iter_child_nodes(node):
        if _is_unused(child) and isinstance(child, ast.stmt):
            begin, end = _span(child)
            kept -= set(range(begin, end + 1))
    text = "\n".join(lines[number - 1] for number in sorted(kept))
    text = re.sub(r"  # type: ignore\[[a-z-]+\]", "", text)
    return text.replace("\n\n\n", "\n\n").rstrip()


def _span(node: ast.stmt) -> tuple[int, int]:
    """The first and the last line of a statement, with its decorators."""
    decorators = getattr(node, "decorator_list", [])
    return min(part.lineno for part in (node, *decorators)), node.end_lineno or node.lineno


def _is_unused(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name in UNUSED_METHODS
