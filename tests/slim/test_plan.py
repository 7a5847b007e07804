import re
from pathlib import Path

import pytest

from nas.errors import UserError
from nas.latency.table import Prices
from nas.search import InfeasibleTarget, mobile_efficiency_score
from nas.slim.plan import (
    Plan,
    Term,
    name_tables,
    published_terms,
    read_targets,
    read_terms,
)


@pytest.fixture(scope="module")
def prices(run, table):
    return Prices(run.space, {"cpu": table})


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


def targets(tables=("cpu",), ms=None, family=None, params=None, macs=None):
    return read_targets(tables, ms=ms, family=family, params=params, macs=macs)


def test_tables_are_called_by_their_stem_or_as_given():
    found = name_tables(["tables/cpu.csv", "gpu=tables/other.csv"])
    assert found == {"cpu": Path("tables/cpu.csv"), "gpu": Path("tables/other.csv")}


def test_a_file_whose_name_has_an_equals_sign_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("batch=8.csv").touch()
    assert name_tables(["batch=8.csv"]) == {"batch=8": Path("batch=8.csv")}


def test_all_bounds_make_one_target():
    assert targets(ms="2.0", params=3e6, macs=4e8) == (
        {"latency_ms": 2.0, "params": 3e6, "macs": 4e8},
    )
    assert targets(macs=4e8) == ({"macs": 4e8},)


def test_several_tables_have_named_bounds():
    found = targets(("cpu", "gpu"), ms="gpu=0.8,cpu=2")
    assert found == ({"latency_ms[gpu]": 0.8, "latency_ms[cpu]": 2.0},)


def test_a_family_goes_from_loosest_to_tightest():
    assert targets(family="1,2.0,1.5,2", params=3e6) == tuple(
        {"latency_ms": bound, "params": 3e6} for bound in (2.0, 1.5, 1.0)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tables": ("cpu", "gpu"), "ms": "2.0"},
         "--target-ms: must be NAME=MS,... with tables of cpu, gpu, got '2.0'"),
        ({"tables": ("cpu", "gpu"), "ms": "cpu=2,tpu=1"}, "tables of cpu, gpu, got 'cpu=2,tpu=1'"),
        ({"tables": ("cpu", "gpu"), "ms": "cpu=fast"}, "tables of cpu, gpu, got 'cpu=fast'"),
        ({"tables": ("cpu", "gpu"), "family": "2,1"}, "--targets: needs one latency table, got 2"),
        ({"ms": "cpu=2"}, "--target-ms: must be a number of milliseconds, got 'cpu=2'"),
        ({"ms": "nan"}, "target: latency_ms must be positive, got nan"),
        ({"macs": 0.0}, "target: macs must be positive, got 0"),
        ({"family": ""}, "--targets: must be numbers such as 1.0,1.5,2.0, got ''"),
    ],
)  # fmt: skip
def test_bounds_that_cannot_be_understood_are_one_line(options, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        targets(**options)
    assert "\n" not in str(error.value)


def test_terms_of_the_score():
    found = read_terms(["latency_ms[cpu]=2:1", "macs=4e8:0.5"])
    assert found == {
        "latency_ms[cpu]": Term(unit=2, exponent=1),
        "macs": Term(unit=4e8, exponent=0.5),
    }


@pytest.mark.parametrize("words", [["macs"], ["macs=0:1"], ["macs=1:x"], ["macs=1:inf"]])
def test_a_term_that_cannot_be_understood_is_one_line(words):
    with pytest.raises(UserError, match=rf"--mes: must be COST=UNIT:EXPONENT.*got '{words[0]}'"):
        read_terms(words)


def test_a_term_stands_once():
    with pytest.raises(UserError, match="--mes: macs stands twice"):
        read_terms(["macs=1:1", "macs=2:1"])
