"""A trained run on a space of seconds, and latency tables of this machine and of another."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from nas.latency import measure
from nas.latency.calibration import Calibration
from nas.latency.estimator import STATES, Visit
from nas.latency.measure import REFERENCE
from nas.latency.survey import network_name
from nas.latency.table import LatencyTable, Provenance, Row, space_hash
from nas.latency.target import detect_target
from nas.latency.unit import Reference
from nas.latency.visits import Turns
from nas.space import SearchSpace
from nas.training.run import Run
from nas.training.settings import DataSettings, SupernetSettings
from nas.training.supernets import train_supernet

SPACE = {
    "name": "tiny",
    "input_size": 32,
    "classes": 10,
    "stem": {"kind": "conv_stem"},
    "stages": [
        {
            "width": [8, 16],
            "blocks": [
                {
                    "repeat": 2,
                    "ffn": ["identity", {"kind": "conv_ffn", "expansion": [1, 2]}],
                }
            ],
        },
    ],
    "head": {"kind": "classifier"},
}
LARGEST_MS = 3.0
"""What the tables below predict, and what the machine of these tests takes."""


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    space, data = SearchSpace.model_validate(SPACE), DataSettings(spec="digits", limit=200)
    dataset = data.load(32)
    settings = SupernetSettings(epochs=1, random_subnets=0)
    path = tmp_path_factory.mktemp("run") / "r"
    run = Run.create(path, space=space, data=data, settings=settings, dataset=dataset)
    train_supernet(run, dataset)
    return run


def provenance_of(space, reference, **changes):
    """The evidence of a table that was measured on this machine, but for its validation."""
    fields = {
        "space": space.name, "space_argument": "tiny.yaml", "space_sha256": space_hash(space),
        "target": detect_target(), "reference": reference, "calibration": Calibration(),
        "validation": None, "date": "2026-01-01", "nas_version": "0.2", "load_average": None,
        "seed": 0,
    }  # fmt: skip
    return Provenance(**{**fields, **changes})


@pytest.fixture(scope="session")
def table(run):
    """Latencies and sizes by the channels of each layer; cold they take twice as long and more."""
    rows, space = {}, run.space
    for key, layer in space.layers().items():
        size = len(key[0]) + key[1][0] * getattr(layer, "expansion", 1)
        warm, cold = (size, size, size), (2 * size + 9, 2 * size + 9, 2 * size + 9)
        rows[key] = Row(*warm, *cold, 10 * size, 100 * size, "ok")
    reference = Reference(network=space.smallest(), warm_ms=1.0, cold_ms=1.0)
    raw = LatencyTable(rows, provenance_of(space, reference), Path("cpu.csv"))
    factor = LARGEST_MS / raw.predict(space.largest())
    calibration = Calibration(factor=factor, cold_factor=factor, cold_fetching=factor)
    return with_unit(
        replace(raw, provenance=provenance_of(space, reference, calibration=calibration))
    )


def with_unit(table):
    """The table with what it predicts for its reference as the latencies of that."""
    network = table.provenance.reference.network
    warm, cold = (table.predict(network, state) for state in STATES)
    reference = Reference(network=network, warm_ms=warm, cold_ms=cold)
    return replace(table, provenance=table.provenance.model_copy(update={"reference": reference}))


@pytest.fixture(scope="session")
def tables(table):
    """This machine's, and one of another where everything takes twice as long."""
    factor = 2 * table.calibration.factor
    update = {
        "target": table.target.model_copy(update={"cpu_model": "Zilog Z80"}),
        "calibration": Calibration(factor=factor, cold_factor=factor, cold_fetching=factor),
    }
    provenance = table.provenance.model_copy(update=update)
    return {
        "here": table,
        "old": with_unit(replace(table, provenance=provenance, path=Path("old.csv"))),
    }


class Machine:
    """A machine of known latencies, (warm, cold) by the names of graphs.

    ``slowness`` is a factor by the number of visits before. ``sessions`` are the graphs that were
    visited together.
    """

    def __init__(self, latencies):
        self.latencies, self.sessions, self.visits = latencies, [], 0
        self.slowness = lambda visits: 1.0

    def turns(self, target, graphs, rng, regular, progress):
        """What stands in for ``nas.latency.visits.Turns``, which runs other graphs."""
        if not graphs.keys() <= self.latencies.keys():  # of tests beside these
            return Turns(target, graphs, rng, regular, progress)
        return _FakeTurns(self, rng, regular)

    def visit(self, name):
        warm, cold = (ms * self.slowness(self.visits) for ms in self.latencies[name])
        self.visits += 1
        return Visit(name, warm, cold, 10, 0.01)


class _FakeTurns:
    def __init__(self, machine, rng, regular):
        self.machine, self.rng, self.regular = machine, rng, regular

    def visit(self, counts):
        self.machine.sessions.append(set(counts))
        order = [name for name, count in counts.items() for _ in range(count)]
        for place, index in enumerate(self.rng.permutation(len(order))):
            regular = self.regular if place % 4 == 0 else ()
            yield [self.machine.visit(name) for name in (*regular, order[index])]


@pytest.fixture(scope="session", autouse=True)
def machine(run, table):
    """Takes what the table predicts; tests change that, and its speed, with ``monkeypatch``."""
    sizes = map(range, run.space.sizes)
    networks = {run.space.decode(one) for one in itertools.product(*sizes)}
    found = Machine(
        {
            network_name(network): tuple(table.predict(network, state) for state in STATES)
            for network in networks
        }
    )
    reference = table.provenance.reference
    found.latencies[REFERENCE] = (reference.warm_ms, reference.cold_ms)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "Turns", found.turns)
        yield found
