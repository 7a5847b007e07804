"""Profiles: their layers are those of the table, their classes what the runtime executed."""

import numpy as np
import pytest

from nas.families.efficientformer_v2.layers import ConvFFN
from nas.latency.measure import Measurement
from nas.latency.networks import Runner
from nas.latency.profile import (
    OPERATORS,
    LayerTime,
    Profile,
    classify,
    profile_networks,
    scaled_to,
)
from nas.latency.runtimes import OnnxRuntime
from nas.latency.target import make_runtime

MS = Measurement(ms=1.0, ms_low=0.9, ms_high=1.1, runs=10, status="ok")


@pytest.fixture(scope="module")
def profiles(tiny, graphs, target, brief):
    networks = {"small": tiny.smallest(), "large": tiny.largest()}
    runner = Runner(target, np.random.default_rng(0), graphs)
    return profile_networks(networks, runner, network_plan=brief)


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
        assert sum(profile.operators.values()) == pytest.approx(profile.whole.ms)
        assert {"1x1 convolutions", "other convolutions"} <= profile.operators.keys()
    assert "softmax" in profiles[1].operators
    assert profiles[1].operators.keys() <= {*OPERATORS, "other"}


def test_the_profiler_sees_every_operator_that_is_executed(tiny, graphs, target):
    model = graphs.network(tiny.largest())
    runs = make_runtime(target).profile(model, 5)
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
