import json

import numpy as np
import pandas as pd
import pytest

from nas.errors import UserError
from nas.slim.plan import Term
from nas.slim.result import (
    FILES,
    Comparison,
    EvaluatedNetwork,
    FinalNetwork,
    MeasuredLatency,
    MethodResult,
    SearchResult,
    WalkAction,
    WalkStep,
    frontier,
)

TARGET = {"params": 3.0}
CHEAP, MIDDLE, LARGE = (
    {"latency_ms": 2.0, "params": 1.0, "macs": 4.0},
    {"latency_ms": 3.0, "params": 2.0, "macs": 5.0},
    {"latency_ms": 1.0, "params": 3.0, "macs": 6.0},
)
COMPARISON = Comparison(
    target=TARGET, winner="slimmed", compared=("slimmed", "random"), accuracies=(0.9, 0.85),
    p=0.012345, images=1234,
)  # fmt: skip


def evaluated(order, assignment, costs, accuracy):
    return EvaluatedNetwork(order=order, assignment=assignment, costs=costs, accuracy=accuracy)


def final(measured, **changes):
    latency = MeasuredLatency(
        cost="latency_ms", predicted=1.0, measured=measured, low=measured, high=measured
    )
    network = FinalNetwork(
        name="slimmed", target={"latency_ms": 2.0}, assignment=(1, 0), costs=LARGE, score=50.0,
        latencies=(latency,), search_accuracy=0.5, test_accuracy=0.6, layers=(),
    )  # fmt: skip
    return network.model_copy(update=changes)


@pytest.fixture
def result():
    action = WalkAction(choice="stage1.width", option=24, costs=CHEAP, score=9.0, accuracy=None)
    other = action.model_copy(
        update={"choice": "stage1.block1.ffn.expansion", "option": 1.5, "accuracy": 0.25}
    )
    step = WalkStep(costs=LARGE, score=8.0, accuracy=0.5, actions=(action, other), taken=1)
    methods = (
        MethodResult(
            name="random", hypervolume=1.0,
            evaluated=(evaluated(0, (0, 1), CHEAP, 0.4), evaluated(1, (1, 1), LARGE, 0.5)),
        ),
        MethodResult(
            name="slimmed", hypervolume=2.0,
            evaluated=(evaluated(0, (1, 1), LARGE, 0.5), evaluated(1, (1, 0), MIDDLE, 0.3)),
        ),
    )  # fmt: skip
    return SearchResult(
        space="tiny", data="digits", strategy="frontier", seed=0, targets=(TARGET,),
        terms={"params": Term(unit=1.0, exponent=1.0)},
        choices=("stage1.width", "stage1.block1.ffn.expansion"), options=((24, 32), (1.5, 2.0)),
        methods=methods, trace=(step,), networks=(final(1.5),), verdicts=(str(COMPARISON),),
        comparisons=(COMPARISON,), walk=((1, 0),),
    )  # fmt: skip


def test_the_frontier_is_that_of_the_given_cost(result):
    points = result.points()
    assert [point.assignment for point in frontier(points, "latency_ms")] == [(1, 1)]
    assert [point.assignment for point in frontier(points, "params")] == [(0, 1), (1, 1)]


def test_the_csv_says_who_evaluated_what(result, tmp_path):
    result.save(tmp_path)
    text = (tmp_path / FILES["frontier"]).read_text()
    assert text.startswith("latency_ms,params,macs,mes,accuracy,on_frontier,methods,assignment\n")
    assert "\n2.0,1,4,100.0,0.4,True,random,0 1\n" in text
    found = pd.read_csv(tmp_path / FILES["frontier"])
    assert list(found["params"]) == [1, 2, 3]
    assert list(found["mes"]) == [100, 50, pytest.approx(100 / 3)]
    assert list(found["on_frontier"]) == [True, False, True]
    assert list(found["methods"]) == ["random", "slimmed", "random slimmed"]


def test_the_trace_keeps_numbers_and_marks_what_was_taken(result, tmp_path):
    result.save(tmp_path)
    first, second = map(json.loads, (tmp_path / FILES["trace"]).read_text().splitlines())
    assert first == {
        "step": 1, "choice": "stage1.width", "option": 24, "accuracy": None,
        "accuracy_before": 0.5, **CHEAP, "mes": 9.0, "mes_before": 8.0, "taken": False,
    }  # fmt: skip
    assert (second["option"], second["taken"]) == (1.5, True)


def test_a_result_is_the_same_after_a_file(result, tmp_path):
    result.save(tmp_path)
    text = (tmp_path / FILES["report"]).read_text()
    assert json.loads(text)["options"] == [["24", "32"], ["1.5", "2.0"]], "text, as in 0.1"
    assert SearchResult.load(tmp_path / FILES["report"]) == result


def test_a_file_of_version_0_1_is_read(result, tmp_path):
    data = json.loads(result.model_dump_json())
    (network,) = data["networks"]
    del data["terms"], data["comparisons"], data["walk"], network["int8_agreement"]
    del network["state"], network["remark"], network["latencies"][0]["state"]
    (tmp_path / "report.json").write_text(json.dumps(data))
    older = SearchResult.load(tmp_path / "report.json")
    assert older.summary()["verdicts"] == data["verdicts"]
    assert older.methods == result.methods
    assert older.networks == result.networks


def test_a_damaged_result_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"report\.json: no such file"):
        SearchResult.load(tmp_path / "report.json")
    (tmp_path / "report.json").write_text('{"space": "a"}')
    with pytest.raises(UserError, match=r"report\.json.*key 'data' is missing"):
        SearchResult.load(tmp_path / "report.json")


def test_a_comparison_is_one_line():
    assert str(COMPARISON) == (
        "params <= 3: slimmed won: 90.0 %, random 85.0 % on 1,234 test images, p = 0.012"
    )
    assert str(COMPARISON.model_copy(update={"winner": None, "p": 1.0})) == (
        "params <= 3: no method won: slimmed 90.0 %, random 85.0 % on 1,234 test images, p = 1"
    )


def test_a_network_fits_by_measurements_where_there_are_any():
    assert final(1.9).fits
    assert not final(2.1).fits
    assert final(2.1, latencies=()).fits, "predicted 1 ms"
    assert not final(1.9, target={"latency_ms": 2.0, "macs": 5.0}).fits
    assert final(2.1, target=None).fits


def in_both_states(state):
    """Warm it fits 2 ms, cold it does not; of version 0.1 is the form without a state."""
    warm = MeasuredLatency(cost="latency_ms", predicted=1.9, measured=1.8, low=1.7, high=2.5)
    cold = warm.model_copy(update={"state": "cold", "predicted": 2.9, "measured": 3.0})
    return final(1.0, latencies=(warm, cold), state=state)


@pytest.mark.parametrize(("state", "ms", "fits"), [("warm", 1.8, True), ("cold", 3.0, False)])
def test_a_network_meets_its_target_in_the_state_of_the_target(state, ms, fits):
    network = in_both_states(state)
    assert network.fits is fits
    assert network.measured("latency_ms").measured == ms
    assert network.measured("latency_ms", "cold").measured == 3.0
    assert network.of_target == pytest.approx(ms / 2)
    summary = network.summary()
    assert (summary["state"], summary["measured_ms"]) == (state, ms)
    assert summary["predicted_ms"] == {"warm": 1.9, "cold": 2.9}[state]
    assert summary["latencies"] == {
        "latency_ms": {
            "warm": {"predicted": 1.9, "measured": 1.8},
            "cold": {"predicted": 2.9, "measured": 3.0},
        }
    }


def test_of_several_bounded_latencies_the_tightest_is_that_of_target():
    latencies = tuple(
        MeasuredLatency(cost=cost, predicted=1, measured=ms, low=ms, high=ms)
        for cost, ms in (("latency_ms[a]", 1.0), ("latency_ms[b]", 1.5), ("latency_ms[c]", 9.0))
    )
    network = final(1.0, latencies=latencies, target={"latency_ms[a]": 4.0, "latency_ms[b]": 2.0})
    assert network.of_target == pytest.approx(0.75)
    assert final(1.0, target={"params": 3.0}).of_target is None
    assert final(1.0, target=None).of_target is None


def test_a_summary_counts_each_network_once(result):
    summary = result.summary()
    assert summary["evaluations"] == 3
    assert [method["evaluations"] for method in summary["methods"]] == [2, 2]
    (row,) = summary["networks"]
    assert (row["params"], row["predicted_ms"], row["measured_ms"]) == (3, 1.0, 1.5)
    assert row["latencies"] == {"latency_ms": {"warm": {"predicted": 1.0, "measured": 1.5}}}
    assert summary["state"] == "warm"


def hits(right, wrong):
    return np.array([True] * right + [False] * wrong)


def test_a_clear_difference_has_a_winner():
    better, worse = hits(90, 10), hits(60, 40)
    found = Comparison.of(
        TARGET, {"uniform": worse, "evolution": worse, "slimmed": better}, "slimmed"
    )
    assert (found.winner, found.compared) == ("slimmed", ("slimmed", "uniform"))
    assert (found.accuracies, found.images) == ((0.9, 0.6), 100)
    found = Comparison.of(
        TARGET, {"uniform": worse, "evolution": better, "slimmed": worse}, "slimmed"
    )
    assert (found.winner, found.compared) == ("evolution", ("evolution", "slimmed"))


def test_a_difference_within_chance_has_no_winner():
    one, other = hits(4, 2), np.array([True, True, False, True, False, False])
    found = Comparison.of(TARGET, {"uniform": one, "slimmed": other}, "slimmed")
    assert (found.winner, found.compared, found.p) == (None, ("uniform", "slimmed"), 1.0)
