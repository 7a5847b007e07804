"""The plan of a search, as a value and as options of the command line; its journal carries it."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError

from nas.documents import Value
from nas.errors import UserError
from nas.latency.estimator import State
from nas.latency.table import Prices, latency_names
from nas.search import STRATEGIES, InfeasibleTarget, Problem, mobile_efficiency_score
from nas.search.problem import EXPONENTS, UNITS, Costs, unjudged


def _registered(strategy: str) -> str:
    if strategy not in STRATEGIES:
        raise ValueError(f"no strategy is called '{strategy}'; there are {', '.join(STRATEGIES)}")
    return strategy


Strategy = Annotated[str, AfterValidator(_registered)]
"""How slimming goes down; one of ``nas.search.STRATEGIES``."""
NAMED = re.compile(r"([A-Za-z0-9_.-]+)=(.+)")
"""A named table on the command line: NAME=PATH."""


class Term(Value):
    """A factor of the Mobile Efficiency Score: (cost / unit) ** -exponent."""

    unit: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    exponent: Annotated[float, Field(allow_inf_nan=False)]


def published_terms(latencies: Iterable[str]) -> dict[str, Term]:
    """Size and speed as published; several latencies share the weight of speed."""
    names = list(latencies)
    size = Term(unit=UNITS["params"], exponent=EXPONENTS["params"])
    speed = Term(unit=UNITS["latency_ms"], exponent=EXPONENTS["latency_ms"] / len(names))
    return {"params": size, **dict.fromkeys(names, speed)}


def weighted_score(terms: Mapping[str, Term], costs: Costs) -> float:
    """The Mobile Efficiency Score of a network by these terms."""
    return mobile_efficiency_score(
        costs,
        units={name: term.unit for name, term in terms.items()},
        exponents={name: term.exponent for name, term in terms.items()},
    )


class Plan(Value):
    """Bounds and how to search; each method has ``evaluations`` for each target.

    ``targets`` are upper bounds of costs, the loosest first, of latencies in ``state``. ``terms``
    make the Mobile Efficiency Score. Without ``baselines`` uniform scaling alone is compared.
    ``rivals`` are finished networks beside the search's, ARCHITECTURE:WEIGHTS.
    """

    targets: Annotated[tuple[dict[str, float], ...], Field(min_length=1)]
    terms: dict[str, Term] = published_terms(["latency_ms"])
    strategy: Strategy = "frontier"
    evaluations: Annotated[int, Field(gt=0)] = 100
    baselines: bool = True
    state: State = "warm"
    rivals: tuple[str, ...] = ()
    seed: Annotated[int, Field(ge=0)] = 0

    def score(self, costs: Costs) -> float:
        return weighted_score(self.terms, costs)

    def require_possible(self, prices: Prices) -> None:
        """Raise UserError unless names are those of costs, and InfeasibleTarget beyond reach."""
        for name in self.terms:
            prices.require_name(name, "--mes")
        for target in self.targets:
            require_positive(target)
            for name in target:
                prices.require_name(name, "target")
            _require_reachable(target, prices)


def require_positive(target: Mapping[str, float]) -> None:
    """Raise UserError unless each bound is a number above zero."""
    for name, bound in target.items():
        if not 0 < bound < math.inf:
            raise UserError(f"target: {name} must be positive, got {bound:g}")


def target_text(target: Mapping[str, float]) -> str:
    """``latency_ms <= 2, params <= 3e+06``."""
    return ", ".join(f"{name} <= {bound:g}" for name, bound in target.items())


def _require_reachable(target: Mapping[str, float], prices: Prices) -> None:
    problem = Problem(prices.space.sizes, prices.cost, unjudged, target, prices.space.canonical)
    least = {}
    for name, bound in target.items():
        try:
            problem.within({name: bound}).feasible()
        except InfeasibleTarget as error:
            least[name] = error.least[name]
    if least:
        raise InfeasibleTarget(target, {**problem.price(problem.smallest), **least})
    problem.feasible()


def name_tables(words: Sequence[str]) -> dict[str, Path]:
    """The path of each table by its name: ``NAME=PATH``, or the stem of the file."""
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
    """The targets, loosest first: ``ms`` is MS or NAME=MS,..., ``family`` has an MS per target."""
    if ms is not None and family is not None:
        raise UserError("--targets and --target-ms exclude each other")
    if family is not None and len(tables) > 1:
        raise UserError(f"--targets: needs one latency table, got {len(tables)}")
    latencies = [{} if ms is None else _latency_bounds(tables, ms)]
    if family is not None:
        try:
            bounds = set(map(float, family.split(",")))
        except ValueError:
            rule = "must be numbers such as 1.0,1.5,2.0"
            raise UserError(f"--targets: {rule}, got '{family}'") from None
        latencies = [{"latency_ms": bound} for bound in sorted(bounds, reverse=True)]
    sizes = {"params": params, "macs": macs}
    others = {name: bound for name, bound in sizes.items() if bound is not None}
    targets = tuple({**latency, **others} for latency in latencies)
    if not targets[0]:
        options = "--target-ms, --targets, --target-params or --target-macs"
        raise UserError(f"slim needs a bound: {options}")
    for target in targets:
        require_positive(target)
    return targets


def read_terms(words: Sequence[str]) -> dict[str, Term]:
    """The terms of the Mobile Efficiency Score, each given as ``COST=UNIT:EXPONENT``."""
    found: dict[str, Term] = {}
    rule = "COST=UNIT:EXPONENT with a unit above zero, such as latency_ms=1.0:1.0"
    for word in words:
        name, _, numbers = word.partition("=")
        unit, _, exponent = numbers.partition(":")
        try:
            term = Term(unit=float(unit), exponent=float(exponent))
        except (ValueError, ValidationError):
            raise UserError(f"--mes: must be {rule}, got '{word}'") from None
        if name in found:
            raise UserError(f"--mes: {name} stands twice")
        found[name] = term
    return found


def _latency_bounds(tables: Collection[str], text: str) -> dict[str, float]:
    names, rule = latency_names(tables), "a number of milliseconds"
    try:
        if len(tables) < 2:
            return {"latency_ms": float(text)}
        rule = f"NAME=MS,... with tables of {', '.join(tables)}"
        pairs = [word.strip().partition("=") for word in text.split(",")]
        return {names[name]: float(number) for name, _, number in pairs}
    except (KeyError, ValueError):
        raise UserError(f"--target-ms: must be {rule}, got '{text}'") from None
