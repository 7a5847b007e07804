from pathlib import Path

import pytest

from nas.errors import UserError
from nas.latency.prices import Prices
from nas.latency.table import LatencyTable
from nas.search import InfeasibleTarget, mobile_efficiency_score
from nas.slim.plan import Plan, Term, published_terms
from nas.space import SearchSpace

EXAMPLE = Path(__file__).parents[2] / "latency_tables" / "example_cpu.csv"


@pytest.fixture(scope="module")
def prices():
    return Prices(SearchSpace.load("mobile_64px"), {"cpu": LatencyTable.load(EXAMPLE)})


def test_the_published_score_is_the_default():
    costs = {"latency_ms": 0.9, "params": 3.5e6, "macs": 4e8}
    plan = Plan(targets=({"latency_ms": 1.0},))
    assert plan.score(costs) == pytest.approx(mobile_efficiency_score(costs))


def test_equal_latencies_on_two_devices_score_as_one_device():
    terms = published_terms(["latency_ms[cpu]", "latency_ms[gpu]"])
    plan = Plan(targets=({"params": 1e6},), terms=terms)
    costs = {"latency_ms[cpu]": 0.9, "latency_ms[gpu]": 0.9, "params": 3.5e6}
    assert plan.score(costs) == pytest.approx(102.9, abs=0.05)  # EfficientFormer V2 S0


def test_terms_weigh_any_cost():
    terms = {"macs": Term(unit=100.0, exponent=0.5)}
    plan = Plan(targets=({"macs": 1e6},), terms=terms)
    assert plan.score({"latency_ms": 3.0, "params": 7, "macs": 400}) == pytest.approx(50)


def test_each_bound_out_of_reach_is_named_with_what_is_in_reach(prices):
    least = prices.cost((0,) * len(prices.space.sizes))
    target = {"latency_ms": 0.001, "params": 1e9, "macs": 10.0}
    with pytest.raises(InfeasibleTarget) as error:
        Plan(targets=({"latency_ms": 2.0}, target)).require_possible(prices)
    assert error.value.least == pytest.approx(least)
    for name in ("latency_ms", "macs"):
        assert f"{name} <= {target[name]:g} (least reachable: {least[name]:.4g})" in str(
            error.value
        )
    assert "params" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ({"latency_ms[cpu]": 1.0},)}, r"^target: no cost is called 'latency_ms\[cpu\]'"),
        ({"targets": ({"latency_ms": -1.0},)}, "^target: latency_ms must be positive, got -1"),
        ({"terms": {"energy": Term(unit=1, exponent=1)}},
         "^--mes: no cost is called 'energy'; there are latency_ms, params, macs"),
    ],
)  # fmt: skip
def test_names_that_no_cost_has_are_one_line(prices, changes, message):
    plan = Plan.model_validate({"targets": ({"latency_ms": 2.0},), **changes})
    with pytest.raises(UserError, match=message):
        plan.require_possible(prices)
