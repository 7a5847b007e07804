"""Profiles: their layers are those of the table, their classes what the runtime executed."""

import numpy as np
import pytest

from nas.families.efficientformer_v2.layers import ConvFFN
from nas.latency.estimator import Latency, Measurement
from nas.latency.profile import (
    OPERATORS,
    LayerTime,
    Profile,
    classify,
    profile_networks,
    scaled_to,
)
from nas.latency.runtimes import OnnxRuntime
from nas.latency.visits import profile_graph

MS = Latency(Measurement(1.0, 0.9, 1.1), Measurement(2.0, 1.9, 2.1))


@pytest.fixture(scope="module")
def profiles(tiny, graphs, target):
    networks = {"small": tiny.smallest(), "large": tiny.largest()}
    rng = np.random.default_rng(0)
    return profile_networks(networks, target, rng=rng, graphs=graphs, visits=3)


def test_every_layer_of_every_network_is_timed(profiles, tiny):
    for profile, network in zip(profiles, (tiny.smallest(), tiny.largest()), strict=True):
        assert [(one.layer, one.input_shape) for one in profile.layers] == list(network.placed())
        assert sum(profile.parts.values()) > 0
    large = profiles[1]
    assert list(large.parts) == ["stem", "downsampling", "attention", "FFN", "head"]


def test_common_layers_are_measured_once(profiles):
    ffns = {one.layer.signature: one.found for one in profiles[1].layers if one.part == "FFN"}
    twice = [one for one in profiles[1].layers if one.layer.signature in ffns and one.part == "FFN"]
    assert all(one.found is ffns[one.layer.signature] for one in twice)
    assert len(twice) > len(ffns)


def test_classes_of_operators_sum_to_the_measured_latency(profiles):
    for profile in profiles:
        assert sum(profile.operators.values()) == pytest.approx(profile.whole.warm.ms)
        assert {"1x1 convolutions", "other convolutions"} <= profile.operators.keys()
    assert "softmax" in profiles[1].operators
    assert profiles[1].operators.keys() <= {*OPERATORS, "other"}


def test_the_profiler_sees_every_operator_that_is_executed(tiny, graphs, target):
    model = graphs.network(tiny.largest())
    runs = profile_graph(model, target, 5)
    assert len(runs) == 5
    convolutions = {"Conv", "Conv 1x1", "Conv depthwise"}
    executed = OnnxRuntime("CPUExecutionProvider", 1).operators(model)
    assert {it for it in runs[0] if it not in convolutions} == executed.keys() - {"Conv"}
    assert convolutions <= runs[0].keys()
    assert "other" not in classify(runs), "an operator of the family is in no class"


def test_interrupted_runs_do_not_count():
    quiet, interrupted = {"Conv 1x1": 1.0, "Gelu": 1.0}, {"Conv 1x1": 1.0, "Gelu": 9.0}
    assert classify([interrupted, quiet, quiet, interrupted]) == {
        "1x1 convolutions": 1.0,
        "activations": 1.0,
    }
    assert classify([{"Sorcery": 2.0}]) == {"other": 2.0}


def test_only_shares_are_taken_from_the_profiler():
    assert scaled_to(2.0, {"softmax": 3.0, "norms": 1.0}) == {"softmax": 1.5, "norms": 0.5}


def test_operators_belong_to_one_class_each():
    operators = [it for members in OPERATORS.values() for it in members]
    assert len(operators) == len(set(operators))


def test_layers_of_unknown_slots_stand_for_themselves():
    layer = ConvFFN(slot="stage1.mixer", channels=8, expansion=2)
    found = Profile("n", MS, (LayerTime(layer, (8, 4, 4), MS),), None)
    assert found.parts == {"mixer": 1.0}


def test_layers_add_up_in_both_states():
    layer = ConvFFN(slot="stage1.ffn", channels=8, expansion=2)
    below = Latency(Measurement(-0.1, -0.3, 0.1), MS.cold)
    layers = tuple(LayerTime(layer, (8, 4, 4), found) for found in (MS, MS, below))
    found = Profile("n", MS, layers, None)
    assert found.sum_of_layers("warm") == sum(found.parts.values()) == 2.0
    assert found.sum_of_layers("cold") == 6.0


def test_layers_and_networks_are_those_of_the_machine(convolutions, graphs, machine):
    network = convolutions.largest()
    rng = np.random.default_rng(0)
    (found,) = profile_networks({"n": network}, machine.target, rng=rng, graphs=graphs)
    assert found.operators is None
    for one in found.layers:
        own = len(graphs.graph(one.layer, one.input_shape).graph.node)
        ms = 0.1 * (own - (one.layer.slot == "head"))  # less the call, which the stem pays
        assert one.found.warm.ms == pytest.approx(ms, abs=0.005)
    total = 0.1 * len(graphs.network(network).graph.node)
    assert found.whole.warm.ms == pytest.approx(total, rel=0.01)
    assert found.whole.cold.ms > found.whole.warm.ms
