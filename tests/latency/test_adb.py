"""The real client of adb, and a device that it knows."""

import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from nas.errors import UserError
from nas.latency.device import Device, reach
from nas.latency.graphs import chain, pointwise
from nas.latency.target import detect_target
from nas.latency.visits import Turns

ADBD = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "adbd.py"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ADBD["HAS_ADB"], reason=ADBD["MISSING"]),
]


@pytest.fixture(scope="module")
def serial():
    with ADBD["plugged_in"]() as serial:
        yield serial


@pytest.fixture
def device(serial, tmp_path):
    found = Device(name=f"adb:{serial}", python=sys.executable, workdir=str(tmp_path / "kept"))
    yield found
    reach(found).drop()


def test_graphs_are_timed_there(device, target):
    found = detect_target(device)
    assert found.difference(target) == [f"device: {device.name} here, cpu there"]
    graphs = {
        name: lambda count=count: chain([pointwise((4, 2, 2))] * count)
        for name, count in {"a": 1, "b": 2}.items()
    }
    turns = Turns(found, graphs, np.random.default_rng(0), ("a",))
    visits = [visit.graph for chunk in turns.visit({"b": 9}) for visit in chunk]
    assert Counter(visits) == {"b": 9, "a": 9}
    assert len(list(Path(device.workdir).glob("*.graph"))) == 2


def test_a_device_that_is_not_plugged_in_is_one_line(serial):
    with pytest.raises(UserError, match=r"^adb:0123ABCD: .*device '0123ABCD' not found") as caught:
        detect_target("adb:0123ABCD")
    assert "\n" not in str(caught.value)


def test_a_python_that_is_not_there_is_one_line(serial):
    message = r"^adb:.*python9.*not found; name another Python there: --python$"
    with pytest.raises(UserError, match=message):
        detect_target(Device(name=f"adb:{serial}", python="python9"))


def test_a_cable_carries_ssh(serial, tmp_path):
    sshd = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "sshd.py"))
    if not sshd["HAS_SSHD"]:
        pytest.skip(sshd["MISSING"])
    with sshd["serving"](tmp_path) as server:
        words = ["adb", "-s", serial, "forward", "tcp:0", f"tcp:{server.port}"]
        port = int(subprocess.run(words, capture_output=True, check=True).stdout)
        server.through(port)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", server.path)
            device = Device(name="ssh:device", python=sys.executable)
            assert detect_target(device).device == "ssh:device"
            reach(device).drop()
