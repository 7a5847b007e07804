"""What a search is asked for, as a value: its journal carries it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import AfterValidator, Field

from nas.documents import Value
from nas.errors import UserError
from nas.latency.prices import Prices
from nas.search import STRATEGIES, InfeasibleTarget, Problem, mobile_efficiency_score
from nas.search.problem import EXPONENTS, UNITS, Costs, unjudged


def _registered(strategy: str) -> str:
    if strategy not in STRATEGIES:
        raise ValueError(f"no strategy is called '{strategy}'; there are {', '.join(STRATEGIES)}")
    return strategy


Strategy = Annotated[str, AfterValidator(_registered)]
"""How slimming goes down; one of ``nas.search.STRATEGIES``."""


class Term(Value):
    """A factor of the Mobile Efficiency Score: (cost / unit) ** -exponent."""

    unit: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    exponent: Annotated[float, Field(allow_inf_nan=False)]


def published_terms(latencies: Iterable[str]) -> dict[str, Term]:
    """Size and speed as published; several latencies share the weight of speed."""
    names = list(latencies)
    share = EXPONENTS["latency_ms"] / len(names)
    speed = {name: Term(unit=UNITS["latency_ms"], exponent=share) for name in names}
    return {"params": Term(unit=UNITS["params"], exponent=EXPONENTS["params"]), **speed}


def weighted_score(terms: Mapping[str, Term], costs: Costs) -> float:
    """The Mobile Efficiency Score of a network by these terms."""
    return mobile_efficiency_score(
        costs,
        units={name: term.unit for name, term in terms.items()},
        exponents={name: term.exponent for name, term in terms.items()},
    )


class Plan(Value):
    """Bounds and how to search.

    ``targets`` are upper bounds of costs, one mapping for each network that is wanted, the loosest
    first. ``terms`` make the Mobile Efficiency Score. ``evaluations`` are those of each method for
    each target; without ``baselines`` uniform scaling alone stands beside the slimmed network.
    """

    targets: Annotated[tuple[dict[str, float], ...], Field(min_length=1)]
    terms: dict[str, Term] = published_terms(["latency_ms"])
    strategy: Strategy = "frontier"
    evaluations: Annotated[int, Field(gt=0)] = 100
    baselines: bool = True
    seed: Annotated[int, Field(ge=0)] = 0

    def score(self, costs: Costs) -> float:
        """The Mobile Efficiency Score of a network."""
        return weighted_score(self.terms, costs)

    @property
    def measure(self) -> str:
        """The first bounded cost: what accuracy is drawn and weighed against."""
        return next(iter(self.targets[0]))

    def require_possible(self, prices: Prices) -> None:
        """Raise UserError unless all names are those of costs and all targets within reach.

        Raises:
            InfeasibleTarget: holds the least reachable value of each bound that is out of reach.
        """
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
    space = prices.space
    problem = Problem(space.sizes, prices.cost, unjudged, target, space.canonical)
    least = {}
    for name, bound in target.items():
        try:
            problem.within({name: bound}).feasible()
        except InfeasibleTarget as error:
            least[name] = error.least[name]
    if least:
        raise InfeasibleTarget(target, {**problem.price(problem.smallest), **least})
    problem.feasible()
