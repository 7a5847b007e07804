"""What a search delivers on a machine of known latencies."""

from dataclasses import replace
from functools import partial

import pytest

from nas.deploy.export import to_onnx
from nas.latency.measure import Session
from nas.latency.survey import network_name
from nas.latency.table import Prices
from nas.progress import SILENT
from nas.slim.candidates import Candidates, Exported
from nas.slim.delivery import deliver, layer_shares
from nas.slim.journal import Memory
from nas.slim.loop import NEAR
from nas.slim.methods import Slimming, Uniform
from nas.slim.plan import Plan, published_terms
from nas.training.evaluation import inherited_network

TARGET = {"latency_ms": 2.4}


@pytest.fixture
def delivered(run, table):
    """A function that delivers by uniform scaling and slimming, from the largest network on."""
    supernet, dataset = run.load_supernet(), run.data.load(32)

    def delivered(*targets, progress=SILENT, **changes):
        plan = Plan(targets=targets or (TARGET,), evaluations=20, baselines=False, **changes)
        prices = Prices(run.space, {"cpu": table}, plan.state)
        measured = prices.measurable()
        found = Candidates(plan, prices, measured, supernet, dataset, Memory(), progress)
        networks, _ = deliver(found, [Uniform(found), Slimming(found)])
        return [it.figures for it in networks]

    return delivered


def names_of(run, figures):
    return [network_name(run.space.decode(it.assignment)) for it in figures]


@pytest.mark.parametrize("state", ["warm", "cold"])
def test_parts_of_layers_add_up_to_the_prediction(run, tables, state):
    space = run.space
    for assignment in ((0,) * len(space.sizes), tuple(size - 1 for size in space.sizes)):
        architecture = space.decode(assignment)
        layers = list(layer_shares(architecture, tables, state))
        assert [it.slot for it in layers] == [layer.slot for layer, _ in architecture.placed()]
        for name, table in tables.items():
            parts = [it.costs[name] for it in layers]
            assert min(parts) > 0
            assert sum(parts) == pytest.approx(table.predict(architecture, state), rel=1e-9)
        sizes = table.cost(architecture)
        assert sum(it.costs["params"] for it in layers) == sizes["params"]


def test_a_machine_that_is_twice_as_slow_delivers_the_same(
    run, machine, delivered, monkeypatch, recorder
):
    before = delivered()
    progress = recorder()
    monkeypatch.setattr(machine, "slowness", lambda visits: 2.0)
    after = delivered(progress=progress)
    assert names_of(run, after) == names_of(run, before)
    for mine, theirs in zip(after, before, strict=True):
        for latency, other in zip(mine.latencies, theirs.latencies, strict=True):
            assert latency.measured == pytest.approx(other.measured, rel=1e-3)
    assert sum("100 % slower now" in line for line in progress.lines) == 1
    assert not any("going on" in line for line in progress.lines)


def test_a_network_that_takes_longer_than_its_layers_makes_way_for_another(
    run, machine, delivered, monkeypatch
):
    *_, slimmed = before = delivered()
    name = names_of(run, [slimmed])[0]
    warm, cold = machine.latencies[name]
    monkeypatch.setitem(machine.latencies, name, (1.15 * warm, cold))
    *others, after = delivered()
    assert names_of(run, others) == names_of(run, before[:-1])
    assert names_of(run, [after]) != [name]
    assert after.fits
    assert after.costs["latency_ms"] < slimmed.costs["latency_ms"]


def test_all_networks_were_timed_in_one_last_session(run, machine, delivered):
    found = delivered({"latency_ms": 2.4}, {"latency_ms": 1.8})
    assert set(names_of(run, found)) <= machine.sessions[-1]


def test_a_target_in_cold_latencies_is_met_cold(table, delivered):
    warm, cold = delivered(), delivered({"latency_ms": 5.0}, state="cold")
    assert {it.state for it in cold} == {"cold"}
    for network in cold[1:]:
        measured = network.measured("latency_ms")
        assert measured.state == "cold"
        assert measured.measured <= 5.0
        assert measured.predicted == network.costs["latency_ms"]
        assert network.of_target == pytest.approx(measured.measured / 5.0)
    largest = {it.state: it.measured for it in warm[0].latencies}
    assert largest == pytest.approx({it.state: it.measured for it in cold[0].latencies})
    assert largest["warm"] < largest["cold"] == pytest.approx(cold[0].costs["latency_ms"])


@pytest.mark.parametrize("state", ["warm", "cold"])
def test_networks_are_known_best_in_the_state_of_the_target(machine, delivered, monkeypatch, state):
    decided = []

    def record(*arguments, **options):
        session = Session(*arguments, **options)
        decided.append(session.state)
        return session

    monkeypatch.setattr("nas.slim.finalists.Session", record)
    delivered({"latency_ms": 5.0}, state=state)
    assert set(decided) == {state}


def test_a_network_far_below_its_target_says_why(delivered):
    largest, uniform, slimmed = delivered({"latency_ms": 2.3})
    assert uniform.of_target < NEAR
    ms = uniform.measured("latency_ms").measured
    assert uniform.remark == f"no scaled network lies between {ms:.3f} ms and the target"
    assert slimmed.of_target >= NEAR
    assert (largest.remark, slimmed.remark) == (None, None)


def test_a_network_that_its_size_holds_below_a_latency_says_so(delivered):
    _, _, slimmed = delivered({"latency_ms": 2.9, "params": 1200.0})
    assert slimmed.of_target < NEAR
    assert slimmed.remark == "bounded by params, not by this latency"


def test_int8_that_saves_no_time_on_this_machine_is_a_remark(run, table, monkeypatch):
    """Of two tables of this machine; the fake machine takes as long in both precisions."""
    names = ["latency_ms[exact]", "latency_ms[rounded]"]
    terms = published_terms(names)
    plan = Plan(targets=({names[0]: 2.4},), terms=terms, evaluations=20, baselines=False)
    target = table.target.model_copy(update={"precision": "int8"})
    provenance = table.provenance.model_copy(update={"target": target})
    tables = {"exact": table, "rounded": replace(table, provenance=provenance)}
    prices = Prices(run.space, tables, plan.state)
    measured = dict(zip(names, tables.values(), strict=True))
    supernet, dataset = run.load_supernet(), run.data.load(32)
    found = Candidates(plan, prices, measured, supernet, dataset, Memory(), SILENT)
    monkeypatch.setattr(found, "_export", partial(float32_twice, found, measured))
    networks, _ = deliver(found, [Slimming(found)])
    for network in networks:
        assert "int8 is not" in network.figures.remark
        assert "faster than float32 on this device: " in network.figures.remark


def float32_twice(candidates, measured, architecture):
    """An export that stands for both precisions, as the fake machine runs nothing."""
    network = inherited_network(candidates.supernet, architecture, candidates.dataset.train)
    model = to_onnx(network, architecture.input_shape)
    return Exported(network, dict.fromkeys(measured, model), None)
