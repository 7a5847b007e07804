"""A real ssh server: what goes wrong before anything is measured, what is sent, what is cut."""

import os
import runpy
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from nas.errors import UserError
from nas.latency.build import BuildSettings, build_table
from nas.latency.device import Device, Place, reach
from nas.latency.graphs import chain, pointwise
from nas.latency.table import LatencyTable, build_command, visits_path
from nas.latency.target import detect_again, detect_target
from nas.latency.visits import Turns

SSHD = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "sshd.py"))
if not SSHD["HAS_SSHD"]:
    pytest.skip(SSHD["MISSING"], allow_module_level=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with SSHD["serving"](tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(autouse=True)
def _path(monkeypatch, server):
    monkeypatch.setenv("PATH", server.path)


@pytest.fixture
def device(tmp_path):
    found = Device(name="ssh:device", python=sys.executable, workdir=str(tmp_path / "kept"))
    yield found
    reach(found).drop()


def test_a_target_names_its_device(device, target):
    found = detect_target(device)
    changes = {"device": "ssh:device", "python": device.python, "workdir": device.workdir}
    assert found == target.model_copy(update=changes)
    assert found.difference(target) == ["device: ssh:device here, cpu there"]
    assert detect_again(found) == found


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("nowhere.invalid", r"^ssh:nowhere.invalid: ssh: Could not resolve hostname"),
        ("stranger", r"^ssh:stranger: .*Permission denied \(publickey"),
    ],
)
def test_ssh_says_itself_why_it_does_not_connect(host, message):
    with pytest.raises(UserError, match=message) as caught:
        detect_target(f"ssh:{host}")
    assert "\n" not in str(caught.value)


def test_a_host_whose_key_has_changed_is_refused(server):
    known = server.folder / "known"
    right = known.read_text()
    wrong = " ".join((server.folder / "user.pub").read_text().split()[:2])
    known.write_text(f"{right.split()[0]} {wrong}\n")
    try:
        with pytest.raises(UserError, match=r"^ssh:device: Host key verification failed\.$"):
            detect_target("ssh:device")
    finally:
        known.write_text(right)


def test_a_python_that_is_not_there_is_one_line():
    message = r"^ssh:device: .*python9.*not found; name another Python there: --python$"
    with pytest.raises(UserError, match=message):
        detect_target(Device(name="ssh:device", python="python9"))


def graphs_of(made, **counts):
    def maker(name, count):
        def make():
            made.append(name)
            return chain([pointwise((4, 2, 2))] * count)

        return make

    return {name: maker(name, count) for name, count in counts.items()}


def visited(turns, counts):
    return [visit.graph for chunk in turns.visit(counts) for visit in chunk]


def test_graphs_are_sent_once_and_kept(device):
    target, made = detect_target(device), []
    for _ in range(2):
        turns = Turns(target, graphs_of(made, a=1, b=2), np.random.default_rng(0), ("a",))
        assert Counter(visited(turns, {"b": 9})) == {"b": 9, "a": 9}
        assert turns.told["python"]
        reach(device).drop()
    assert sorted(made) == ["a", "a", "b", "b"], "of a kept graph only the hash is needed"
    assert len(list(Path(device.workdir).glob("*.graph"))) == 2


class Cut(Place):
    """A place whose ssh is killed after each of some numbers of replies."""

    def __init__(self, device, cuts):
        super().__init__(device)
        self.cuts, self.replies = set(cuts), 0

    def receive(self):
        self.replies += 1
        if self.replies in self.cuts:
            os.kill(self._connection._process.pid, signal.SIGKILL)
        return super().receive()


@pytest.mark.slow
def test_a_connection_that_is_cut_is_taken_up_again(device, recorder):
    target, made = detect_target(device), []
    reach(device).drop()
    turns = Turns(target, graphs_of(made, a=1, b=2), np.random.default_rng(0))
    turns._place, turns.progress = Cut(device, {2, 4, 7, 11, 16}), recorder()
    assert Counter(visited(turns, {"a": 8, "b": 8})) == {"a": 8, "b": 8}
    turns._place.drop()
    assert len(turns.progress.lines) == 5
    assert turns.progress.lines[0].endswith("taking it up again")


@pytest.mark.slow
def test_a_device_that_starts_anew_goes_on(device, server, recorder):
    target, made = detect_target(device), []
    turns = Turns(target, graphs_of(made, a=1, b=2), np.random.default_rng(0))
    turns.progress = recorder()

    def reboot():
        server.stop()
        time.sleep(3)
        server.restart()

    threading.Timer(0.5, reboot).start()
    assert Counter(visited(turns, {"a": 100, "b": 100})) == {"a": 100, "b": 100}
    assert turns.progress.lines[0].endswith("taking it up again")


@pytest.mark.slow
def test_another_run_there_is_refused(device):
    detect_target(device)
    other = Place(device)
    with pytest.raises(UserError, match=r"another run, process \d+, measures there; wait for it$"):
        other.ask({"do": "kept"})


@pytest.mark.slow
def test_a_table_is_built_and_checked_on_the_device(device, convolutions, brief, tmp_path):
    target = detect_target(device)
    path = tmp_path / "t.csv"
    settings = BuildSettings(plan=brief, space_argument="convolutions.yaml")
    made = build_table(convolutions, target, path, settings=settings)
    loaded = LatencyTable.load(path)
    assert loaded.rows.keys() == made.rows.keys() == convolutions.layers().keys()
    assert loaded.target == target
    assert loaded.provenance.conditions.python == made.provenance.conditions.python
    assert visits_path(path).exists()
    words = build_command(path, loaded.provenance)
    assert f"--device ssh:device --python {sys.executable} --workdir {device.workdir}" in words
    with pytest.raises(UserError, match="device: ssh:device here, cpu there"):
        loaded.require_target(detect_target())
