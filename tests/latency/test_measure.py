"""Timing in turns on a simulated machine of known costs, once on the real one; estimates of visits."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from nas.errors import UserError
from nas.latency.graphs import Probe, chain, input_shape_of, pointwise
from nas.latency.measure import (
    Clock,
    Estimate,
    VisitPlan,
    estimate,
    measure,
    measure_probes,
    slope,
    time_in_turns,
)
from nas.latency.runtimes import RUNTIMES, Runtime
from nas.latency.target import detect_target, make_runtime

PLAN = VisitPlan(runs=4, span_ms=0.0, least_visits=6, most_visits=20)


class Machine:
    """A clock that advances by what runs cost; the truth is known, the disturbance chosen."""

    def __init__(self, disturb=lambda self, ms: ms):
        self.rng = np.random.default_rng(0)
        self.now_ms, self.runs, self.disturb = 0.0, 0, disturb

    def costs(self, ms):
        def run():
            self.runs += 1
            self.now_ms += self.disturb(self, ms * self.rng.normal(1, 0.01))

        return run

    def clock(self, quantile=0.25):
        return Clock(lambda: int(self.now_ms * 1e6), quantile)


def preempted(machine, ms):
    return ms + (4.0 if machine.rng.uniform() < 0.2 else 0.0)


def drifting(machine, ms):
    return ms * (1 + 0.1 * np.sin(machine.now_ms / 300))


def in_phases(machine, ms):
    """Two thirds of the time caches are shared, for spells much longer than a visit."""
    return ms * (1.5 if machine.now_ms % 90 < 60 else 1.0)


@pytest.mark.parametrize(
    ("disturb", "tolerance"),
    [(lambda _, ms: ms, 0.02), (preempted, 0.02), (drifting, 0.1), (in_phases, 0.1)],
)
def test_slopes_recover_the_cost_of_layers(disturb, tolerance):
    machine = Machine(disturb)
    truths = [0.05, 0.2, 0.4]
    runs = [[machine.costs(0.3 + 3 * ms), machine.costs(0.3 + ms)] for ms in truths]
    found = time_in_turns(runs, [2] * 3, machine.clock(), rng=np.random.default_rng(1), plan=PLAN)
    for truth, it in zip(truths, found, strict=True):
        assert it.ms == pytest.approx(truth, rel=tolerance, abs=0.005)
        assert it.ms_low <= it.ms <= it.ms_high


def test_first_runs_of_a_visit_do_not_count():
    machine = Machine()
    last = []

    def cold(name, ms):
        run = machine.costs(ms)

        def visit():
            run()
            if last[-1:] != [name]:  # somebody else was here: caches are cold
                machine.now_ms += ms
            last.append(name)

        return visit

    found = time_in_turns(
        [[cold("a", 0.2)], [cold("b", 0.3)]],
        [1, 1],
        machine.clock(),
        rng=np.random.default_rng(1),
        plan=PLAN,
    )
    assert [it.ms for it in found] == pytest.approx([0.2, 0.3], rel=0.02)


def test_quiet_entries_stop_early_and_noisy_ones_at_the_cap():
    machine = Machine()
    quiet = machine.costs(1.0)

    def noisy():
        machine.now_ms += machine.rng.choice([1.0, 3.0])

    found = time_in_turns(
        [[quiet], [noisy]], [1, 1], machine.clock(0.5), rng=np.random.default_rng(1), plan=PLAN
    )
    assert [len(it.visits) for it in found] == [6, 20]
    assert [it.status for it in found] == ["ok", "noisy"]


def test_short_runs_are_repeated_for_the_span():
    machine = Machine()
    plan = VisitPlan(runs=4, span_ms=2.0, least_visits=3, most_visits=3)
    (found,) = time_in_turns(
        [[machine.costs(0.1)]], [1], machine.clock(), rng=np.random.default_rng(1), plan=plan
    )
    assert 55 <= found.runs <= 66  # 20 runs of 0.1 ms at each of three visits
    assert machine.runs > found.runs  # and warm-up runs


def test_same_seed_takes_the_same_turns():
    orders = []
    for _ in range(2):
        machine, order = Machine(), []

        def run(name, machine=machine, order=order):
            return lambda: (order.append(name), machine.costs(1.0)())

        time_in_turns(
            [[run("a")], [run("b")], [run("c")]],
            [1] * 3,
            machine.clock(),
            rng=np.random.default_rng(7),
            plan=PLAN,
        )
        orders.append(order)
    assert orders[0] == orders[1]
    assert sorted(set(orders[0])) == ["a", "b", "c"]


def test_real_measurements_are_positive_and_bracketed(target):
    models = [chain([pointwise((16, 8, 8))] * count) for count in (1, 4)]
    for it in measure(models, target, rng=np.random.default_rng(0)):
        assert 0 < it.ms <= it.ms_high
        assert it.ms_low <= it.ms
        assert VisitPlan().least_visits <= len(it.visits) <= VisitPlan().most_visits


def test_real_slopes_have_both_graphs_timed(target):
    long, short = (chain([pointwise((32, 16, 16))] * count) for count in (6, 2))
    (found,) = measure_probes([Probe(long, short, 4)], target, rng=np.random.default_rng(0))
    assert 0 < found.ms < np.median(found.visits)


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
        return lambda: sum(range(100))


def test_another_runtime_is_one_class(monkeypatch):
    monkeypatch.setitem(RUNTIMES, "recorder", Recorder)
    target = detect_target("abacus", runtime="recorder", batch=3)
    assert (target.provider, target.batch) == ("beads", 3)
    (found,) = measure([pointwise((8, 4, 4))], target, rng=np.random.default_rng(0))
    assert Recorder.shapes == [(3, 8, 4, 4)], "the batch of the target is what runs"
    assert found.runs >= 5
    assert make_runtime(target).profile(pointwise((8, 4, 4)), 1) is None


def test_a_model_that_fixes_its_batch_is_refused(target):
    model = pointwise((8, 4, 4))
    shape = numpy_helper.from_array(np.array([1, 128], dtype=np.int64))
    model.graph.node[0].output[0] = "y"
    model.graph.node.extend([
        helper.make_node("Constant", [], ["shape"], value=shape),
        helper.make_node("Reshape", ["y", "shape"], [model.graph.output[0].name]),
    ])  # fmt: skip
    del model.graph.output[0].type.tensor_type.shape.dim[2:]
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 128
    more = target.model_copy(update={"batch": 2})
    with pytest.raises(UserError, match=r"^a model does not run with batch 2: "):
        measure([model], more, rng=np.random.default_rng(0))


def test_a_model_of_open_size_is_refused(target):
    model = pointwise((8, 4, 4))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(UserError, match=r"^input 'images' has no fixed size: 1 x 8 x height x 4; "):
        measure([model], target, rng=np.random.default_rng(0))


TRUTH = 2.0


def test_estimate_ignores_outlying_visits():
    rng = np.random.default_rng(0)
    visits = TRUTH * rng.normal(1, 0.01, 12)
    visits[[3, 7]] *= 3
    found = estimate(visits, 0.25)
    assert found.value == pytest.approx(TRUTH, rel=0.02)
    assert found.is_within(0.04)


@pytest.mark.parametrize("count", [1, 2, 4, 9, 30])
def test_estimate_of_equal_visits_is_that_value(count):
    found = estimate([TRUTH] * count, 0.5)
    assert found.value == pytest.approx(TRUTH)
    assert found.error == pytest.approx(0, abs=1e-6)


def test_estimate_is_the_quantile_of_many_visits():
    visits = np.random.default_rng(0).normal(TRUTH, 0.1, 4000)
    for quantile in (0.25, 0.5):
        assert estimate(visits, quantile).value == pytest.approx(
            np.quantile(visits, quantile), abs=0.005
        )


def test_order_of_visits_does_not_matter():
    visits = np.random.default_rng(0).normal(TRUTH, 0.1, 15)
    assert estimate(visits, 0.25) == estimate(visits[::-1], 0.25)


@pytest.mark.parametrize("quantile", [0.25, 0.5])
def test_interval_covers_the_truth(quantile):
    rng = np.random.default_rng(1)
    truth = np.quantile(rng.normal(TRUTH, 0.1, 100_000), quantile)
    covered = []
    for _ in range(500):
        found = estimate(rng.normal(TRUTH, 0.1, 12), quantile)
        covered.append(abs(found.value - truth) <= found.half_width)
    assert np.mean(covered) >= 0.90


def test_drift_and_bimodality_widen_the_interval():
    rng = np.random.default_rng(2)
    quiet = TRUTH * rng.normal(1, 0.005, 12)
    drift = quiet * np.linspace(1, 1.3, 12)
    bimodal = quiet * np.where(np.arange(12) % 2, 1.4, 1.0)
    narrow = estimate(quiet, 0.5).half_width
    assert estimate(drift, 0.5).half_width > 5 * narrow
    assert estimate(bimodal, 0.5).half_width > 5 * narrow
    assert estimate(quiet, 0.5).status == "ok"
    assert estimate(bimodal, 0.5).status == "noisy"


def test_lower_quartile_stands_for_the_undisturbed_mode():
    rng = np.random.default_rng(3)
    visits = TRUTH * rng.normal(1, 0.005, 20) * np.where(np.arange(20) % 2, 1.4, 1.0)
    assert estimate(visits, 0.25).value == pytest.approx(TRUTH, rel=0.02)


def test_slope_divides_the_difference_and_adds_the_errors():
    found = slope(Estimate(3.0, 0.03, 8), Estimate(1.0, 0.04, 6), 2)
    assert found == Estimate(1.0, 0.025, 6)


def test_a_slope_of_zero_is_noisy():
    assert slope(Estimate(1.0, 0.0, 8), Estimate(1.0, 0.0, 8), 2).status == "noisy"


def test_the_error_of_one_visit_is_unknown():
    assert estimate([TRUTH], 0.25).half_width == np.inf
    assert estimate([TRUTH], 0.25).status == "noisy"
