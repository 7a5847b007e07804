"""Visits by a clock that is told what runs cost; turns on a simulated machine and on the real one."""

import math
import threading
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from onnx import helper, numpy_helper

from nas.errors import UserError
from nas.latency.graphs import chain, pointwise
from nas.latency.runner import (
    GROUP,
    LEAST_RUNS,
    LIFE,
    MOST_RUNS,
    REGULAR,
    TRIES,
    Refusal,
    Stopwatch,
    batches,
    left_of,
    rounds,
)
from nas.latency.visits import Turns

NOTHING = np.zeros(1)


class Clock:
    """Reads the sum of the ms that runs took; these are the next of ``ms``, the last for ever."""

    def __init__(self, *ms):
        self.ms, self.runs, self.now = ms, 0, 0.0

    def run(self):
        self.now += self.ms[min(self.runs, len(self.ms) - 1)]
        self.runs += 1

    def visit(self):
        return Stopwatch(lambda: int(self.now * 1e6), NOTHING).visit({"g": self.run})["g"]


def test_a_visit_is_the_last_runs_once_warm_and_one_cold_run():
    found = Clock(8.0, *[2.0] * (LEAST_RUNS - 1), 9.0).visit()
    assert (found.warm, found.cold, found.runs) == (2.0, 9.0, LEAST_RUNS + 1)
    assert found.times == [8.0] + [2.0] * (LEAST_RUNS - 1)


def test_the_caches_are_read_over_between_the_warm_runs_and_the_cold_one(monkeypatch):
    clock, seen = Clock(2.0), []
    monkeypatch.setattr("nas.latency.runner.evict", lambda memory: seen.append(clock.runs))
    assert clock.visit().runs == LEAST_RUNS + 1
    assert seen == [LEAST_RUNS]


def test_layers_of_a_turn_are_run_warm_and_then_cold_behind_one_reading(machine):
    graphs = graphs_of(network=5, **{f"layer {number}": 1 + number for number in range(4)})
    inner = [name for name in graphs if name != "network"]
    turns = Turns(machine.target, graphs, np.random.default_rng(0), inner=inner)
    found = visits_of(turns, dict.fromkeys(graphs, 2))
    assert Counter(visit.graph for visit in found) == dict.fromkeys(graphs, 2)
    assert machine.evictions == 4, "two of the network, two of all layers"
    for visit in found:
        assert visit.warm == pytest.approx(visit.cold / 1.5, rel=0.01)
        assert visit.seconds > 0


def test_layers_share_turns_of_like_sizes_and_none_is_twice_in_one():
    rng = np.random.default_rng(0)
    counts = {f"layer {number}": 1 + number % 3 for number in range(40)}
    layers = {*counts}
    counts |= {"network": 3, "idle": 0}
    (turns,) = batches(counts, lambda name: 1, 10**9, rng, layers)
    assert Counter(name for turn in turns for name in turn) == Counter(counts) - Counter()
    assert [turn for turn in turns if "network" in turn] == [["network"]] * 3
    shared = [turn for turn in turns if "network" not in turn]
    assert all(len(turn) == len({*turn}) for turn in shared)
    assert {len(turn) for turn in shared} <= {GROUP + 2, GROUP + 3}
    (few,) = batches({"a": 4, "b": 1}, lambda name: 1, 10**9, rng, {"a", "b"})
    assert sorted(map(sorted, few)) == [["a"], ["a"], ["a"], ["a", "b"]]


def test_what_was_visited_of_turns_is_left_out():
    turns = [["a"], ["b", "c", "d"], ["e"]]
    assert left_of(turns, 0) == turns
    assert left_of(turns, 1) == [["b", "c", "d"], ["e"]]
    assert left_of(turns, 3) == [["d"], ["e"]]
    assert left_of(turns, 5) == []


def test_what_a_session_takes_to_open_is_known_of_each_graph(target):
    graphs = {
        "small": lambda: pointwise((8, 2, 2)),
        "large": lambda: chain([pointwise((512, 2, 2))] * 12),
        "other": lambda: pointwise((8, 2, 2)),
    }
    turns = Turns(target, graphs, np.random.default_rng(0))
    visits_of(turns, {"small": 1, "large": 1})
    assert 0 < turns.opening("small") < turns.opening("large")
    assert turns.opening("small") < turns.opening("other") < turns.opening("large")


def test_a_graph_that_fails_in_a_turn_is_named():
    def fails():
        raise RuntimeError("no such kernel\nsecond line")

    watch = Stopwatch(lambda: 0, NOTHING)
    with pytest.raises(Refusal, match=r"^layer 2: no such kernel$"):
        watch.visit({"layer 1": lambda: None, "layer 2": fails})


def test_a_graph_runs_until_it_gets_no_faster():
    falling = [10 * 0.96**index for index in range(25)]
    found = Clock(20.0, *falling, 3.0).visit()
    assert found.warm == pytest.approx(3.0)
    assert 26 < found.runs < MOST_RUNS


def test_a_graph_that_gets_faster_for_ever_is_left_at_some_time():
    found = Clock(*[100 * 0.9**index for index in range(200)]).visit()
    assert found.runs == MOST_RUNS + 1


def test_a_graph_that_gets_slower_is_warm():
    assert Clock(*[1.0 + 0.1 * index for index in range(50)]).visit().runs == LEAST_RUNS + 1


def test_a_clock_that_is_set_back_makes_the_visit_anew():
    clock = Clock(2.0, 1.0, 1.0, -50.0, 1.0)
    found = clock.visit()
    assert (found.warm, found.cold) == (pytest.approx(1.0), pytest.approx(1.0))
    assert clock.runs >= 2 * found.runs


@pytest.mark.parametrize("ms", [0.0, -1.0])
def test_a_clock_that_does_not_go_forward_is_one_line(ms):
    clock = Clock(ms)
    with pytest.raises(Refusal, match=r"^the clock of this machine stands still or runs back"):
        clock.visit()
    assert clock.runs >= TRIES * LEAST_RUNS


def test_sessions_are_opened_and_run_in_one_thread_of_their_own(machine, monkeypatch):
    threads = []
    prepare = machine.prepare

    def noted(self, model):
        threads.append(threading.get_ident())
        run = prepare(self, model)
        return lambda: (threads.append(threading.get_ident()), run())

    monkeypatch.setattr(machine, "prepare", noted)
    visits_of(
        Turns(machine.target, graphs_of(a=1, b=2), np.random.default_rng(0)), {"a": 2, "b": 2}
    )
    assert len(threads) > 4 * LEAST_RUNS
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


def graphs_of(**counts):
    """Graphs by their names, each of so many convolutions."""
    return {
        name: (lambda count=count: chain([pointwise((4, 2, 2))] * count))
        for name, count in counts.items()
    }


def visits_of(turns, counts):
    return [visit for chunk in turns.visit(counts) for visit in chunk]


def test_every_graph_has_its_visits_in_random_order(machine):
    turns = Turns(machine.target, graphs_of(a=1, b=2, c=3), np.random.default_rng(0))
    found = visits_of(turns, {"a": 20, "b": 10, "c": 0})
    names = [visit.graph for visit in found]
    assert Counter(names) == {"a": 20, "b": 10}
    changes = sum(one != other for one, other in pairwise(names))
    assert 8 < changes < 20
    for visit in found:
        truth = {"a": 0.1, "b": 0.2}[visit.graph]
        assert visit.warm == pytest.approx(truth, rel=0.01)
        assert visit.runs == LEAST_RUNS + 1
    first = found[0]
    assert first.cold == pytest.approx(1.5 * first.warm, rel=0.01)


def test_references_come_back_by_turns_after_every_few_others(machine):
    names = {f"g{number}": 1 for number in range(40)}
    turns = Turns(machine.target, graphs_of(r=1, **names), np.random.default_rng(0), ("r",))
    order = [visit.graph for visit in visits_of(turns, dict.fromkeys(names, 2))]
    places = [place for place, name in enumerate(order) if name == "r"]
    assert places == list(range(0, len(order), REGULAR + 1))
    two = Turns(machine.target, graphs_of(r=1, s=1, **names), np.random.default_rng(0), ("r", "s"))
    order = [visit.graph for visit in visits_of(two, dict.fromkeys(names, 2))]
    assert order[:: REGULAR + 1] == ["r", "s", "r", "s", "r", "s", "r"]
    few = Turns(machine.target, graphs_of(r=1, a=1, b=1), np.random.default_rng(0), ("r",))
    order = [visit.graph for visit in visits_of(few, {"a": 4, "b": 4})]
    assert order[::2] == ["r"] * 8
    others = {f"g{number}": 1 for number in range(9)}
    several = Turns(
        machine.target, graphs_of(r=1, s=1, t=1, u=1, **others), np.random.default_rng(0), "rstu"
    )
    order = [visit.graph for visit in visits_of(several, dict.fromkeys(others, 4))]
    assert sum(name in others for name in order) == 36
    assert sum(name not in others for name in order) == 12, "one for each three"


def test_a_long_turn_is_followed_by_as_many_references_as_many_short_ones(machine):
    layers = {f"layer {number}": 1 for number in range(2 * GROUP)}
    graphs = graphs_of(r=1, **layers)
    turns = Turns(machine.target, graphs, np.random.default_rng(0), ("r",), inner=layers)
    order = [visit.graph for visit in visits_of(turns, dict.fromkeys(layers, 1))]
    kinds = "".join("r" if name == "r" else "." for name in order)
    assert kinds == "r" + "." * GROUP + "r" * (GROUP // REGULAR) + "." * GROUP


def test_same_seed_takes_the_same_turns(machine):
    orders = [
        [
            visit.graph
            for visit in visits_of(
                Turns(machine.target, graphs_of(a=1, b=1, c=1), np.random.default_rng(seed)),
                dict.fromkeys("abc", 5),
            )
        ]
        for seed in (7, 7, 8)
    ]
    assert orders[0] == orders[1] != orders[2]


def test_graphs_beyond_the_memory_are_visited_in_batches(machine, monkeypatch):
    made, opened = [], []

    def make(name):
        made.append(name)
        return pointwise((64, 2, 2))

    def noted(self, model):
        opened.append(len(turns._place._connection._runner._runs))
        return prepare(self, model)

    prepare = machine.prepare
    monkeypatch.setattr(machine, "prepare", noted)
    size = pointwise((64, 2, 2)).ByteSize()
    monkeypatch.setattr("nas.latency.runner.MOST_OPEN_BYTES", 2.5 * size)
    names = [str(number) for number in range(9)]
    graphs = {name: (lambda name=name: make(name)) for name in names}
    turns = Turns(machine.target, graphs, np.random.default_rng(0), names[:1])
    found = visits_of(turns, dict.fromkeys(names[1:], 4))
    assert {Counter(it.graph for it in found)[name] for name in names[1:]} == {4}
    assert sorted(made) == names, "each is made once: its visits are in one batch"
    assert max(opened) == 3, "those of a batch or the reference before the one that is opened"


def test_visits_are_handed_over_now_and_then(machine, monkeypatch):
    monkeypatch.setattr("nas.latency.visits.CHUNK_SECONDS", -1.0)
    turns = Turns(machine.target, graphs_of(r=1, a=1), np.random.default_rng(0), ("r",))
    chunks = [[visit.graph for visit in chunk] for chunk in turns.visit({"a": 5})]
    assert chunks == [["r", "a"]] * 5


def test_progress_counts_visits_but_those_to_the_reference(machine, progress):
    turns = Turns(machine.target, graphs_of(r=1, a=1), np.random.default_rng(0), ("r",), progress)
    visits_of(turns, {"a": 3})
    assert progress.updates == [("visits", 1, 3), ("visits", 2, 3), ("visits", 3, 3)]


def test_a_real_visit_takes_longer_cold(target):
    graphs = {"g": lambda: chain([pointwise((64, 8, 8))] * 8)}
    found = visits_of(Turns(target, graphs, np.random.default_rng(0)), {"g": 5})
    warm, cold = (
        np.median([getattr(visit, state) for visit in found]) for state in ("warm", "cold")
    )
    assert 0 < warm < cold
    assert all(visit.seconds > 0 for visit in found)


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
    with pytest.raises(UserError, match=r"^m: a model does not run with batch 2: "):
        visits_of(Turns(more, {"m": lambda: model}, np.random.default_rng(0)), {"m": 1})


def test_a_model_of_open_size_is_refused(target):
    model = pointwise((8, 4, 4))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(
        UserError, match=r"^m: input 'images' has no fixed size: 1 x 8 x height x 4; "
    ):
        visits_of(Turns(target, {"m": lambda: model}, np.random.default_rng(0)), {"m": 1})


@pytest.mark.parametrize("counts", [{"a": 1}, {"a": LIFE}, {"a": 7 * LIFE - 1, "b": 3, "c": 0}])
def test_rounds_share_out_all_visits_and_none_is_long(counts):
    found = list(rounds(counts))
    assert {name: sum(it.get(name, 0) for it in found) for name in counts} == counts
    assert all(0 < count <= LIFE for it in found for count in it.values())
    assert len(found) == math.ceil(max(counts.values()) / LIFE)
    for name, count in counts.items():
        sessions = sum(name in it for it in found)
        assert sessions == math.ceil(count / LIFE), "to open one costs as much as a visit"


def test_graphs_of_few_visits_are_spread_over_the_rounds():
    few = dict.fromkeys(map(str, range(100)), LIFE)
    found = list(rounds({"many": 10 * LIFE, **few}))
    assert all(8 <= len(it) <= 14 for it in found)


def test_without_visits_there_is_no_round():
    assert list(rounds({"a": 0})) == list(rounds({})) == []


def test_every_round_has_sessions_of_its_own_of_a_graph_that_is_made_once(machine, monkeypatch):
    made, opened = [], []

    def make():
        made.append("a")
        return pointwise((4, 2, 2))

    prepare = machine.prepare
    monkeypatch.setattr(machine, "prepare", lambda *it: opened.append("a") or prepare(*it))
    turns = Turns(machine.target, {"a": make}, np.random.default_rng(0))
    visits_of(turns, {"a": LIFE})
    assert (len(made), len(opened)) == (1, 1)
    visits_of(turns, {"a": 2 * LIFE})
    assert (len(made), len(opened)) == (1, 3)


def test_turns_that_a_refused_graph_has_ended_can_be_taken_again(machine, monkeypatch):
    prepare, refused = machine.prepare, ["one of them"]

    def refuse_once(self, model):
        if refused:
            raise UserError(f"refused: {refused.pop()}")
        return prepare(self, model)

    monkeypatch.setattr(machine, "prepare", refuse_once)
    turns = Turns(machine.target, graphs_of(a=1, b=2, c=3), np.random.default_rng(0))
    with pytest.raises(UserError, match="refused: one of them"):
        visits_of(turns, dict.fromkeys("abc", 2))
    assert sorted(it.graph for it in visits_of(turns, {"a": 2, "b": 1, "c": 1})) == list("aabc")


def test_graphs_too_large_to_keep_are_made_again(machine, monkeypatch):
    monkeypatch.setattr("nas.latency.visits.KEPT_BYTES", 8)
    made = []
    makers = {"a": lambda: made.append("a") or pointwise((4, 2, 2))}
    visits_of(Turns(machine.target, makers, np.random.default_rng(0)), {"a": 2 * LIFE})
    assert len(made) == 2
