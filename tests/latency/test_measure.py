"""Sessions on a simulated machine of known costs: in ms of this hour, and in a table's unit."""

from collections import Counter

import numpy as np
import pytest

from nas.latency.calibration import Calibration, RowSums
from nas.latency.graphs import chain, count_parameters, input_shape_of, pointwise
from nas.latency.measure import OTHER_STATE, REFERENCE, Patience, Session, measure
from nas.latency.runtimes import RUNTIMES, Runtime
from nas.latency.target import detect_target
from nas.latency.unit import Reference, Unit
from nas.latency.visits import profile_graph

PATIENCE = Patience(least=8, most=12)


def model(count):
    return chain([pointwise((4, 2, 2))] * count)


@pytest.fixture
def session(machine, graphs):
    """Makes a session of two models on the simulated machine."""

    def make(unit=None, patience=PATIENCE, **settings):
        models = {"three": lambda: model(3), "seven": lambda: model(7)}
        rng = np.random.default_rng(0)
        return Session(machine.target, models, rng, unit, patience, graphs=graphs, **settings)

    return make


@pytest.fixture(scope="module")
def unit(convolutions, graphs):
    """Networks whose latencies are those of the simulated machine at its usual speed."""
    networks = [convolutions.smallest(), convolutions.largest()]
    graphs_of = [graphs.network(it) for it in networks]
    ms = [0.1 * len(it.graph.node) for it in graphs_of]
    references = [
        Reference(network=network, warm_ms=it, cold_ms=1.5 * it)
        for network, it in zip(networks, ms, strict=True)
    ]
    sums = [
        RowSums(it, 1.5 * it, count_parameters(graph), 0)
        for graph, it in zip(graphs_of, ms, strict=True)
    ]
    return Unit(tuple(references), tuple(sums), Calibration())


def test_models_are_measured_warm_and_cold(machine, session):
    found = session().measure()
    for name, ms in (("three", 0.3), ("seven", 0.7)):
        warm, cold = found.latencies[name]
        assert warm.ms == pytest.approx(ms, rel=0.005)
        assert warm.ms_low <= warm.ms <= warm.ms_high
        assert cold.ms > warm.ms
    assert found.shift == {"warm": 0.0, "cold": 0.0}
    assert max(map(abs, found.spread)) < 0.01


@pytest.mark.parametrize("slowness", [1.0, 2.0, 0.8])
def test_a_slower_machine_gives_the_same_latencies_in_the_unit_of_a_table(
    machine, session, unit, slowness
):
    machine.slowness = staticmethod(lambda now: slowness)
    found = session(unit).measure()
    for state, factor in (("warm", 1.0), ("cold", 1.5)):
        assert found.shift[state] == pytest.approx(slowness - 1, abs=0.01)
        for name, ms in (("three", 0.3), ("seven", 0.7)):
            assert found.latencies[name].of(state).ms == pytest.approx(factor * ms, rel=0.01)


def test_without_a_reference_a_slower_machine_is_slower(machine, session):
    machine.slowness = staticmethod(lambda now: 2.0)
    assert session().measure().latencies["seven"].warm.ms == pytest.approx(1.4, rel=0.01)


def test_the_errors_of_references_are_in_the_intervals(session, unit):
    made = session(unit)
    found = made.measure()
    noisy = [
        visit._replace(warm=visit.warm * (2.0 if place % 4 else 0.4))
        if visit.graph.startswith(REFERENCE)
        else visit
        for place, visit in enumerate(made.visits)
    ]
    made.visits[:] = noisy
    wide, narrow = made.found().latencies["three"].warm, found.latencies["three"].warm
    assert wide.half_width > 3 * narrow.half_width


def test_quiet_models_are_done_early_and_noisy_ones_at_the_cap(machine, session):
    quiet = session()
    quiet.measure()
    assert len(quiet.visits) == 2 * PATIENCE.least
    rng = np.random.default_rng(0)
    machine.slowness = staticmethod(lambda now: float(rng.uniform(1.0, 4.0)))
    noisy = session()
    noisy.measure()
    assert len(noisy.visits) == 2 * PATIENCE.most


def test_a_session_goes_on_for_the_models_that_are_asked_for_alone(machine, session):
    rng = np.random.default_rng(0)
    machine.slowness = staticmethod(lambda now: float(rng.uniform(1.0, 4.0)))
    made = session(asked=["seven"])
    made.measure()
    visits = Counter(visit.graph for visit in made.visits)
    assert visits == {"three": PATIENCE.least, "seven": PATIENCE.most}
    nobody = session(asked=[])
    nobody.measure()
    assert len(nobody.visits) == 2 * PATIENCE.least


def test_a_state_that_nothing_is_decided_by_may_be_known_less_well(machine, session):
    def visits(state):
        rng = np.random.default_rng(0)
        machine.slowness = staticmethod(  # of the first run after memory was read over
            lambda now: float(rng.uniform(1.0, 1.1)) if machine.ran[-2:-1] == [None] else 1.0
        )
        patience = Patience(least=8, most=10**3, tolerance=0.005)
        made = session(patience=patience, state=state)
        found = made.measure().latencies
        share = 0.005 * (OTHER_STATE if state == "warm" else 1.0)
        assert max(it.cold.half_width for it in found.values()) < share
        return len(made.visits)

    assert visits("cold") == visits(None)
    assert visits("warm") < visits("cold") / 4


def test_what_the_unit_lacks_does_not_prolong_a_session(session, unit):
    made = session(unit)
    found = made.measure().latencies["seven"].warm
    assert found.half_width > PATIENCE.tolerance, "three numbers do not tell a machine exactly"
    assert sum(visit.graph in made.models for visit in made.visits) == 2 * PATIENCE.least


def test_patience_ends(machine, session):
    rng = np.random.default_rng(0)
    machine.slowness = staticmethod(lambda now: float(rng.uniform(1.0, 4.0)))
    made = session(patience=Patience(least=8, most=10**6, seconds=0.0))
    made.measure()
    assert len(made.visits) == 2 * 8


def test_a_session_goes_on_with_earlier_visits(machine, session):
    first = session()
    first.measure()
    second = session()
    second.visits += first.visits
    assert second.found().latencies == first.found().latencies
    second.measure()
    assert len(second.visits) == 2 * len(first.visits)


def test_models_are_told_in_the_order_in_which_they_are_given(machine):
    models = [model(count) for count in (4, 1, 2)]
    found = measure(models, machine.target, rng=np.random.default_rng(0), patience=PATIENCE)
    assert [it.warm.ms for it in found] == pytest.approx([0.4, 0.1, 0.2], rel=0.01)


def test_real_measurements_are_positive_and_bracketed(target):
    models = [chain([pointwise((16, 8, 8))] * count) for count in (1, 4)]
    one, four = measure(models, target, rng=np.random.default_rng(0), patience=PATIENCE)
    for it in (*one, *four):
        assert 0 < it.ms <= it.ms_high
        assert it.ms_low <= it.ms
    assert one.warm.ms < four.warm.ms


class Recorder(Runtime):
    """A whole runtime: it remembers the shapes that it was given, and computes nothing."""

    works_in_caller = frozenset({"abacus"})
    shapes = []

    @classmethod
    def version(cls):
        return "1"

    @classmethod
    def devices(cls):
        return {"abacus": "beads"}

    def prepare(self, model):
        self.shapes.append(input_shape_of(model))
        return lambda: sum(range(1000))


def test_another_runtime_is_one_class(monkeypatch):
    monkeypatch.setitem(RUNTIMES, "recorder", Recorder)
    target = detect_target("abacus", runtime="recorder", batch=3)
    assert (target.provider, target.batch) == ("beads", 3)
    rng, model = np.random.default_rng(0), pointwise((8, 4, 4))
    (found,) = measure([model], target, rng=rng, patience=PATIENCE)
    assert set(Recorder.shapes) == {(3, 8, 4, 4)}, "the batch of the target is what runs"
    assert 0 < found.warm.ms < found.cold.ms_high
    assert profile_graph(model, target, 1) is None
