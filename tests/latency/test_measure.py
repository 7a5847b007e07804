"""Timing in turns: on a simulated machine of known costs, and once on the real one."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from nas.errors import UserError
from nas.latency.graphs import Probe, chain, input_shape_of, pointwise
from nas.latency.measure import Clock, VisitPlan, measure, measure_probes, time_in_turns
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
