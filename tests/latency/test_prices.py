from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nas.errors import UserError
from nas.latency.estimator import STATES, State
from nas.latency.table import LatencyTable, Prices
from nas.latency.target import Target, detect_target
from nas.space import SearchSpace


@pytest.fixture
def space(tiny: SearchSpace) -> SearchSpace:
    return tiny


@pytest.mark.parametrize("state", STATES)
def test_prices_are_exactly_those_of_the_table(
    space: SearchSpace, table: LatencyTable, state: State
) -> None:
    prices = Prices(space, {"cpu": table}, state)
    rng = np.random.default_rng(0)
    for assignment in [space.sample_assignment(rng) for _ in range(100)]:
        assert prices.cost(assignment) == table.cost(space.decode(assignment), state)
        assert prices.cost(assignment)["latency_ms"] == table.predict(
            space.decode(assignment), state
        )


def test_prices_are_warm_unless_asked_otherwise(space: SearchSpace, table: LatencyTable) -> None:
    largest = tuple(size - 1 for size in space.sizes)
    warm, cold = (Prices(space, {"t": table}, state).cost(largest) for state in STATES)
    assert Prices(space, {"t": table}).cost(largest) == warm != cold


def test_each_of_several_tables_has_a_latency_of_its_own(
    space: SearchSpace, table: LatencyTable
) -> None:
    rows = {key: row._replace(ms=2 * row.ms) for key, row in table.rows.items()}
    prices = Prices(space, {"a": table, "b": replace(table, rows=rows)})
    assert prices.names == ("latency_ms[a]", "latency_ms[b]", "params", "macs")
    smallest = (0,) * len(space.sizes)
    costs, alone = prices.cost(smallest), table.cost(space.smallest())
    assert costs["latency_ms[a]"] == alone["latency_ms"] < costs["latency_ms[b]"]
    assert (costs["params"], costs["macs"]) == (alone["params"], alone["macs"])


def test_a_name_that_no_cost_has_is_one_line(space: SearchSpace, table: LatencyTable) -> None:
    with pytest.raises(UserError, match=r"^--mes: no cost is called 'latency'; did you mean"):
        Prices(space, {"a": table}).require_name("latency", "--mes")


def test_only_tables_of_what_this_machine_offers_are_measurable(
    space: SearchSpace, table: LatencyTable
) -> None:
    def on(target: Target) -> LatencyTable:
        return replace(table, provenance=table.provenance.model_copy(update={"target": target}))

    here = detect_target()
    prices = Prices(
        space,
        {
            "here": on(here),
            "old": on(here.model_copy(update={"cpu_model": "Zilog Z80"})),
            "gpu": on(here.model_copy(update={"runtime": "none"})),
        },
    )
    assert list(prices.measurable()) == ["latency_ms[here]"]
