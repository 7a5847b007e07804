import json
import re

import plotly.graph_objects
import pytest

from nas.report.figures import (
    HOVER_WIDTH,
    bounds_text,
    cost_text,
    curves_figure,
    differences,
    first_latency,
    frontier_figure,
    latency_figure,
    paths_figure,
    training_figures,
    walk_figure,
)
from nas.report.page import read_log


@pytest.fixture
def epochs(run_folder):
    return read_log(run_folder / "log.jsonl").epochs


@pytest.fixture
def figures(result, epochs):
    return {
        "frontier": frontier_figure(result),
        "walk": walk_figure(result),
        "latency": latency_figure(result),
        **training_figures(epochs),
    }


def markers(figure, name):
    return [it for it in figure["data"] if it["mode"] == "markers" and it["name"] == name]


def test_plotly_knows_every_property(figures):
    for figure in figures.values():
        text = re.sub(r'"--[a-z]+"', '"#123456"', json.dumps(figure))
        plotly.graph_objects.Figure(json.loads(text))  # raises ValueError


def test_the_frontier_holds_every_network_of_every_method(result):
    figure = frontier_figure(result)
    for method in result.methods:
        evaluated, final = markers(figure, method.name)
        assert evaluated["x"] == [it.costs["latency_ms"] for it in method.evaluated]
        assert evaluated["y"] == [100 * it.accuracy for it in method.evaluated]
        (network,) = [it for it in result.networks if it.name == method.name]
        assert final["x"] == [network.costs["latency_ms"]]
        assert (evaluated["showlegend"], final["showlegend"]) == (False, True)
    assert figure["layout"]["shapes"][0]["x0"] == result.targets[0]["latency_ms"]


def test_the_line_of_a_frontier_joins_what_nothing_beats(result):
    figure = frontier_figure(result)
    for method in result.methods:
        (line,) = [
            it for it in figure["data"]
            if it["mode"] == "lines" and it["legendgroup"] == method.name
        ]  # fmt: skip
        unbeaten = {
            (one.costs["latency_ms"], 100 * one.accuracy)
            for one in method.evaluated
            if not any(
                other.costs["latency_ms"] <= one.costs["latency_ms"]
                and other.accuracy >= one.accuracy
                and (other.costs["latency_ms"], other.accuracy)
                != (one.costs["latency_ms"], one.accuracy)
                for other in method.evaluated
            )
        }
        assert set(zip(line["x"], line["y"], strict=True)) == unbeaten


def test_methods_differ_in_colour_and_in_mark(result):
    found = frontier_figure(result)["data"]
    looks = {it["name"]: it["marker"] for it in found if it["mode"] == "markers"}
    assert len(looks) == len({it["color"] for it in looks.values()})
    assert len(looks) == len({it["symbol"] for it in looks.values()})


def test_hovering_tells_what_differs_from_the_largest(result):
    figure = frontier_figure(result)
    largest = markers(figure, "largest")[0]["text"][0].split("<br>")
    assert len(largest) == 2, "costs, and no differences"
    uniform = markers(figure, "uniform")[0]["text"][0].split("<br>")
    assert any(line.startswith("stage1: ") for line in uniform[2:])
    assert all(len(line) <= HOVER_WIDTH for line in uniform[2:])


def test_names_become_no_markup_in_a_figure(result):
    network = result.networks[0].model_copy(update={"name": "<b>a</b>"})
    figure = frontier_figure(result.model_copy(update={"networks": (network,)}))
    assert figure["data"][-1]["name"] == "&lt;b&gt;a&lt;/b&gt;"


def test_the_walk_ends_where_its_last_step_leads(result):
    accuracy, latency = walk_figure(result)["data"]
    last = result.trace[-1]
    assert len(latency["y"]) == len(accuracy["y"]) == len(result.trace) + 1
    assert latency["y"][0] == result.trace[0].costs["latency_ms"]
    assert latency["y"][-1] == last.actions[last.taken].costs["latency_ms"]


@pytest.mark.parametrize("state", ["warm", "cold"])
def test_error_bars_end_at_the_interval_in_the_state_of_the_targets(result, state):
    networks = tuple(it.model_copy(update={"state": state}) for it in result.networks)
    figure = latency_figure(result.model_copy(update={"networks": networks}))
    assert figure["layout"]["xaxis"]["title"]["text"] == f"predicted ({state} ms)"
    _, *traces = figure["data"]
    for trace, network in zip(traces, networks, strict=True):
        (measured,) = (it for it in network.latencies if it.state == state)
        assert (trace["x"], trace["y"]) == ([measured.predicted], [measured.measured])
        assert trace["y"][0] + trace["error_y"]["array"][0] == pytest.approx(measured.high)
        assert trace["y"][0] - trace["error_y"]["arrayminus"][0] == pytest.approx(measured.low)


def test_curves_leave_out_epochs_without_the_number():
    epochs = [{"epoch": 1, "a": 0.5}, {"epoch": 2}, {"epoch": 3, "a": None}]
    figure = curves_figure(epochs, ["a"], "%")
    assert (figure["data"][0]["x"], figure["data"][0]["y"]) == ([1], [50.0])


def test_every_candidate_of_a_slot_has_a_row(epochs):
    (trace,) = paths_figure(epochs)["data"]
    assert trace["y"][:2] == ["stage1.block2.ffn: identity", "stage1.block2.ffn: conv_ffn"]
    assert len(trace["z"]) == 4
    assert all(len(row) == len(epochs) for row in trace["z"])
    assert trace["z"][1][-1] == epochs[-1]["paths"]["stage1.block2.ffn"]["conv_ffn"]


def test_a_training_has_the_figures_of_which_its_log_has_numbers(epochs):
    titles = ["accuracy", "loss", "learning rate", "path probabilities"]
    assert list(training_figures(epochs)) == titles
    assert list(training_figures([{"epoch": 1, "loss/a": 1.0, "images_per_second": 9.0}])) == [
        "loss"
    ]


def test_differences_leave_out_what_a_missing_slot_would_be(result):
    some = result.model_copy(
        update={
            "choices": ("stage1.width", "stage1.block2.ffn.kind", "stage1.block2.ffn.expansion",
                        "stage2.width"),
            "options": (("24", "32"), ("identity", "conv_ffn"), ("2", "4"), ("48", "64")),
        }
    )  # fmt: skip
    assert differences(some, (0, 0, 0, 1)) == [("stage1", ["width 24", "no block2.ffn"])]
    assert differences(some, (1, 1, 0, 0)) == [
        ("stage1", ["block2.ffn.expansion 2"]),
        ("stage2", ["width 48"]),
    ]
    assert differences(some, (1, 1, 1, 1)) == []


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("latency_ms", 0.22, "0.220 ms"),
        ("latency_ms[desk]", 1.5, "1.500 ms (desk)"),
        ("params", 855020, "855.02 k parameters"),
        ("macs", 2e6, "2.00 M MACs"),
    ],
)
def test_costs_have_their_units(name, value, text):
    assert cost_text(name, value) == text


def test_targets_read_as_they_were_given():
    target = {"latency_ms[a]": 2.0, "latency_ms[b]": 0.5, "params": 3e6}
    assert bounds_text(target) == "at most 2 ms (a) and 0.5 ms (b) and 3 M parameters"
    assert bounds_text(None) == ""


def test_the_frontier_is_drawn_against_the_first_bounded_latency(result):
    assert first_latency(result) == "latency_ms"
    several = result.model_copy(update={"targets": ({"params": 3e6, "latency_ms[b]": 1.0},)})
    assert first_latency(several) == "latency_ms[b]"
    small = result.model_copy(update={"targets": ({"params": 3e6},)})
    assert first_latency(small) == "latency_ms"
