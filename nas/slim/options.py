"""What ``nas slim`` takes on its command line: tables, bounds and the terms of the score."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from nas.errors import UserError
from nas.latency.prices import latency_names
from nas.slim.plan import Term, require_positive

NAMED = re.compile(r"([A-Za-z0-9_.-]+)=(.+)")


def name_tables(words: Sequence[str]) -> dict[str, Path]:
    """The path of each table by its name: ``NAME=PATH``, or the stem of the file.

    Raises:
        UserError: two tables have one name.
    """
    found: dict[str, Path] = {}
    for word in words:
        named = None if Path(word).exists() else NAMED.fullmatch(word)
        name, path = named.groups() if named else (Path(word).stem, word)
        if name in found:
            raise UserError(
                f"--table: two tables are called '{name}': {found[name]} and {path}; "
                "name them: --table NAME=PATH"
            )
        found[name] = Path(path)
    return found


def read_targets(
    tables: Collection[str],
    *,
    ms: str | None,
    family: str | None,
    params: float | None,
    macs: float | None,
) -> tuple[dict[str, float], ...]:
    """The targets of a search, loosest first.

    ``ms`` is a number, or ``NAME=MS,...`` where there are several ``tables``; ``family`` is numbers
    of ms, each of which makes a target together with the bounds on ``params`` and ``macs``.

    Raises:
        UserError: there is no bound, or one that cannot be understood.
    """
    if ms is not None and family is not None:
        raise UserError("--targets and --target-ms exclude each other")
    if family is not None and len(tables) > 1:
        raise UserError(f"--targets: needs one latency table, got {len(tables)}")
    sizes = {"params": params, "macs": macs}
    others = {name: bound for name, bound in sizes.items() if bound is not None}
    if family is None:
        targets = [{**_latency_bounds(tables, ms), **others}]
    else:
        words = family.split(",")
        bounds = {
            _number("--targets", word, "numbers such as 1.0,1.5,2.0", family) for word in words
        }
        targets = [{"latency_ms": bound, **others} for bound in sorted(bounds, reverse=True)]
    if not targets[0]:
        raise UserError(
            "slim needs a bound: --target-ms, --targets, --target-params or --target-macs"
        )
    for target in targets:
        require_positive(target)
    return tuple(targets)


def read_terms(words: Sequence[str]) -> dict[str, Term]:
    """The terms of the Mobile Efficiency Score, each given as ``COST=UNIT:EXPONENT``.

    Raises:
        UserError: a term cannot be understood, or its cost stands twice.
    """
    found: dict[str, Term] = {}
    for word in words:
        name, _, numbers = word.partition("=")
        unit, _, exponent = numbers.partition(":")
        try:
            term = Term(unit=float(unit), exponent=float(exponent))
        except (ValueError, ValidationError):
            raise UserError(
                f"--mes: must be COST=UNIT:EXPONENT with a unit above zero, such as "
                f"latency_ms=1.0:1.0, got '{word}'"
            ) from None
        if name in found:
            raise UserError(f"--mes: {name} stands twice")
        found[name] = term
    return found


def _latency_bounds(tables: Collection[str], text: str | None) -> Mapping[str, float]:
    if text is None:
        return {}
    if len(tables) < 2:
        return {"latency_ms": _number("--target-ms", text, "a number of milliseconds", text)}
    names = latency_names(tables)
    rule = f"NAME=MS,... with tables of {', '.join(tables)}"
    found: dict[str, float] = {}
    for word in text.split(","):
        name, is_named, number = word.strip().partition("=")
        if not is_named or name not in names:
            raise UserError(f"--target-ms: must be {rule}, got '{text}'")
        found[names[name]] = _number("--target-ms", number, rule, text)
    return found


def _number(where: str, word: str, rule: str, text: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise UserError(f"{where}: must be {rule}, got '{text}'") from None
