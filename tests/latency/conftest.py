"""A tiny space with every layer kind, and the graphs of its layers, exported once."""

from __future__ import annotations

import pytest

from nas.latency.probes import network_graph
from nas.latency.runtime import detect_target
from nas.latency.templates import LayerGraphs
from nas.space import SearchSpace

FFN = ["identity", {"kind": "conv_ffn", "expansion": [1, 2]}]
HEADS = {"heads": 2, "key_dim": 8, "value_dim": 8}

TINY = {
    "name": "tiny",
    "input_size": 32,
    "classes": 4,
    "stem": {"kind": "conv_stem"},
    "stages": [
        {"width": [8, 16], "blocks": [{"repeat": 2, "ffn": FFN}]},
        {
            "width": [16, 24],
            "downsample": {"kind": "conv_downsample"},
            "blocks": [{"attention": ["identity", {"kind": "attention4d", "stride": 2, **HEADS}]}],
        },
        {
            "width": [24, 32],
            "downsample": {"kind": "attention_downsample", **HEADS},
            "blocks": [
                {"attention": ["identity", {"kind": "attention4d", **HEADS}], "ffn": FFN},
            ],
        },
    ],
    "head": {"kind": "classifier"},
}

CONVOLUTIONS = {
    "name": "convolutions",
    "input_size": 32,
    "classes": 4,
    "stem": {"kind": "conv_stem"},
    "stages": [
        {"width": [8, 16], "blocks": [{"repeat": 2, "ffn": FFN}]},
        {"width": [16, 24], "downsample": {"kind": "conv_downsample"}, "blocks": [{"ffn": FFN}]},
    ],
    "head": {"kind": "classifier"},
}


@pytest.fixture(scope="session")
def tiny():
    return SearchSpace.model_validate(TINY)


@pytest.fixture(scope="session")
def convolutions():
    return SearchSpace.model_validate(CONVOLUTIONS)


@pytest.fixture(scope="session")
def graphs():
    return LayerGraphs()


@pytest.fixture(scope="session")
def target():
    return detect_target()


@pytest.fixture(scope="session")
def largest_graph(tiny, graphs):
    return network_graph(graphs, tiny.largest())
