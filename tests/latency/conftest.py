"""Tiny spaces with every layer kind, and the graphs of their layers, exported once."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nas.latency.build import MeasuringPlan
from nas.latency.calibration import Calibration, RowSums
from nas.latency.graphs import LayerGraphs
from nas.latency.runner import CLOCKS
from nas.latency.runtimes import RUNTIMES, Runtime
from nas.latency.table import LatencyTable, Provenance, Row
from nas.latency.target import detect_target
from nas.latency.unit import Reference
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


TOKENS = {
    "name": "tokens",
    "input_size": 32,
    "classes": 4,
    "stem": {"kind": "conv_stem", "activation": "relu"},
    "stages": [
        {
            "width": [16, 24],
            "blocks": [
                {
                    "repeat": 4,
                    "metablock": [
                        "identity",
                        {"kind": "metablock4d", "expansion": 2},
                        {"kind": "metablock3d", "expansion": 2, **HEADS},
                    ],
                },
            ],
        },
    ],
    "head": {"kind": "token_classifier"},
}


@pytest.fixture(scope="session")
def tokens():
    return SearchSpace.model_validate(TOKENS)


@pytest.fixture(scope="session")
def tiny():
    return SearchSpace.model_validate(TINY)


@pytest.fixture(scope="session")
def convolutions():
    return SearchSpace.model_validate(CONVOLUTIONS)


@pytest.fixture(scope="session")
def graphs():
    return LayerGraphs(templates={})


@pytest.fixture(scope="session")
def target():
    return detect_target()


@pytest.fixture(scope="session")
def largest_graph(tiny, graphs):
    return graphs.network(tiny.largest())


@pytest.fixture(scope="session")
def brief():
    """Few networks, and the fewest visits from which an interval can be estimated."""
    return MeasuringPlan(fitted=6, held_out=4, least_visits=2, error=math.inf, seconds=0.0)


@pytest.fixture(scope="session")
def sums():
    """Sums of 16 networks of 0.1 to 3 ms and 0.3 to 14 MB, whose cold rows take up to twice as long."""
    rng = np.random.default_rng(0)
    warm = np.geomspace(0.1, 3, 16)
    cold = warm * rng.uniform(1.3, 2.0, 16)
    params = warm * 1e6 * rng.uniform(0.8, 1.2, 16)
    return [RowSums(*it, int(n), 0) for *it, n in zip(warm, cold, params, strict=True)]


class Simulation(Runtime):
    """A runtime whose models take 0.1 ms an operator, and half as much again when cold.

    ``slowness`` is a function of the ms that have passed; what ran is in ``ran``; models of as many
    operators as are in ``unsteady`` take up to twice as long in some visits.
    """

    works_in_caller = frozenset({"abacus"})
    now_ms, slowness, ran, unsteady = 0.0, staticmethod(lambda now: 1.0), [], frozenset()
    evictions = 0

    @classmethod
    def version(cls):
        return "1"

    @classmethod
    def devices(cls):
        return {"abacus": "beads"}

    def prepare(self, model):
        ms = 0.1 * len(model.graph.node)
        name, machine = object(), type(self)

        def run():
            is_cold = machine.ran[-1:] != [name]
            machine.ran.append(name)
            noise = 1 + 1e-3 * np.sin(len(machine.ran))
            if len(model.graph.node) in machine.unsteady:
                noise += np.sin(machine.evictions) ** 2
            machine.now_ms += ms * noise * machine.slowness(machine.now_ms) * (1 + is_cold / 2)

        return run


@pytest.fixture
def machine(monkeypatch):
    """A fresh machine whose clock advances by what runs cost; no other memory is read over."""
    fresh = type("Fresh", (Simulation,), {"ran": []})
    monkeypatch.setitem(RUNTIMES, "simulation", fresh)
    monkeypatch.setitem(CLOCKS, "thread_cpu", lambda: int(fresh.now_ms * 1e6))
    monkeypatch.setattr("nas.latency.runner.CACHES_BYTES", 8)

    def evict(memory):
        fresh.ran.append(None)
        fresh.evictions += 1

    monkeypatch.setattr("nas.latency.runner.evict", evict)
    fresh.target = detect_target("abacus", runtime="simulation")
    return fresh


@pytest.fixture
def progress(recorder):
    """A progress that records updates, and to which nothing is said."""
    silent = recorder()
    yield silent
    assert silent.lines == []


def make_rows(space):
    rng = np.random.default_rng(0)
    found = {}
    for key in space.layers():
        ms = float(rng.uniform(0.01, 1))
        cold = ms * float(rng.uniform(1, 2))
        warm_cells, cold_cells = ((it, 0.9 * it, 1.1 * it) for it in (ms, cold))
        found[key] = Row(*warm_cells, *cold_cells, int(rng.integers(1000)), 7, "ok")
    return found


@pytest.fixture
def table(tiny, target, tmp_path):
    provenance = Provenance(
        space=tiny.name,
        space_argument="spaces/tiny.yaml",
        space_sha256="0" * 64,
        target=target,
        reference=Reference(network=tiny.smallest(), warm_ms=0.5, cold_ms=0.75),
        calibration=Calibration(factor=1.25, networks=8),
        validation=None,
        date="2030-01-01T00:00:00+00:00",
        nas_version="0",
        load_average=None,
        seed=0,
    )
    made = LatencyTable(make_rows(tiny), provenance, tmp_path / "t.csv")
    made.save()
    return made
