"""A trained run on a space of seconds, and latency tables of this machine and of another."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from nas.latency.calibration import Calibration
from nas.latency.table import LatencyTable, Row
from nas.latency.target import detect_target
from nas.slim import delivery
from nas.space import SearchSpace
from nas.training.run import Run
from nas.training.settings import DataSettings, SupernetSettings
from nas.training.supernets import train_supernet

EXAMPLE = Path(__file__).parents[2] / "latency_tables" / "example_cpu.csv"
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
"""What the tables below predict; a hundred times what is measured, so that no target is missed."""


@pytest.fixture(scope="session", autouse=True)
def exports():
    """Networks are exported once: most tests deliver the same few networks of one run."""
    known, export = {}, delivery.to_checked_onnx

    def export_once(network, input_shape):
        digest = hashlib.sha256(repr((network, input_shape)).encode())
        for name, tensor in network.state_dict().items():
            digest.update(name.encode() + tensor.numpy().tobytes())
        if digest.digest() not in known:
            known[digest.digest()] = export(network, input_shape)
        return known[digest.digest()]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivery, "to_checked_onnx", export_once)
        yield known


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    space, data = SearchSpace.model_validate(SPACE), DataSettings(spec="digits", limit=200)
    dataset = data.load(32)
    settings = SupernetSettings(epochs=1, random_subnets=0)
    path = tmp_path_factory.mktemp("run") / "r"
    run = Run.create(path, space=space, data=data, settings=settings, dataset=dataset)
    train_supernet(run, dataset)
    return run


@pytest.fixture(scope="session")
def table(run):
    """Latencies and sizes by the channels of each layer, for what this machine offers."""
    rows = {}
    for key, layer in run.space.layers().items():
        size = len(key[0]) + key[1][0] * getattr(layer, "expansion", 1)
        rows[key] = Row(size, size, size, 10 * size, 100 * size, "ok")
    example = LatencyTable.load(EXAMPLE)
    provenance = example.provenance.model_copy(
        update={"target": detect_target(), "calibration": Calibration(factor=1.0)}
    )
    raw = LatencyTable(rows, provenance, Path("cpu.csv"))
    factor = LARGEST_MS / raw.predict(run.space.largest())
    calibrated = provenance.model_copy(update={"calibration": Calibration(factor=factor)})
    return replace(raw, provenance=calibrated)


@pytest.fixture(scope="session")
def tables(table):
    """This machine's, and one of another where everything takes twice as long."""
    target = table.target.model_copy(update={"cpu_model": "Zilog Z80"})
    calibration = Calibration(factor=2 * table.calibration.factor)
    provenance = table.provenance.model_copy(update={"target": target, "calibration": calibration})
    return {"here": table, "old": replace(table, provenance=provenance, path=Path("old.csv"))}
