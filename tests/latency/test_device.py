"""Devices by their names, runners in processes of their own, and connections that are lost."""

import contextlib
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from nas.errors import UserError
from nas.latency import device
from nas.latency.connection import LostError, Process, python_words
from nas.latency.device import Device, Place, reach
from nas.latency.graphs import chain, pointwise
from nas.latency.target import detect_again, detect_target
from nas.latency.visits import Turns

DESCRIBE = {"do": "describe", "runtime": "onnxruntime", "device": "cpu"}


@pytest.mark.parametrize(
    ("name", "carrier", "kind"),
    [
        ("cpu", "", "cpu"),
        ("cuda", "", "cuda"),
        ("ssh:pi", "ssh", "cpu"),
        ("ssh:me@10.0.0.2/cuda", "ssh", "cuda"),
        ("adb:192.168.1.20:5555", "adb", "cpu"),
        ("hand:phone", "hand", "cpu"),
    ],
)
def test_a_device_is_named_by_its_carrier_and_its_kind(name, carrier, kind):
    found = Device(name=name)
    assert (found.carrier, found.kind) == (carrier, kind)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "shh:pi"}, r"no carrier is called 'shh'; did you mean 'ssh'\?; there are ssh:"),
        ({"cores": "0-b"}, r"^--cores: must be such as 0-3 or 4,6, got '0-b'$"),
    ],
)
def test_what_is_no_device_is_one_line(fields, message):
    with pytest.raises(UserError, match=message):
        Device(**fields)


@pytest.mark.parametrize("host", ["", "-oProxyCommand=evil", "a b"])
def test_what_is_no_host_is_never_given_to_ssh(host):
    with pytest.raises(UserError, match=r"needs a host, as in ssh:raspberrypi"):
        Device(name=f"ssh:{host}").words("t")


@pytest.mark.parametrize("serial", ["", "a b"])
def test_what_is_no_serial_is_never_given_to_adb(serial):
    with pytest.raises(UserError, match=r"^device 'adb:.*': needs what adb devices lists"):
        Device(name=f"adb:{serial}").words("t")


def test_a_device_by_hand_is_not_reached():
    with pytest.raises(UserError, match=r"^hand:phone: is measured by hand: nas bundle"):
        reach(Device(name="hand:phone")).ask(DESCRIBE)


def test_another_python_is_asked_what_it_has(target):
    found = detect_target(Device(python=sys.executable))
    assert found == target.model_copy(update={"python": sys.executable})
    assert found.difference(target) == []
    assert detect_again(found) == found


def test_a_python_may_be_a_script_that_quotes_its_words_as_old_proot_distro_does(tmp_path):
    script = tmp_path / "python"
    quoting = """for it in "$@"; do words="$words '$it'"; done"""
    script.write_text(f'#!/bin/sh\n{quoting}\nexec sh -c "{sys.executable} $words"\n')
    script.chmod(0o755)
    assert detect_target(Device(python=str(script))).runtime == "onnxruntime"


def test_a_python_that_is_not_there_is_one_line(tmp_path):
    missing = str(tmp_path / "python9")
    with pytest.raises(UserError, match=r"^cpu: .*python9: No such file or directory$"):
        detect_target(Device(python=missing))


def test_cores_are_kept_to(target):
    core = min(os.sched_getaffinity(0))
    found = detect_target(Device(cores=str(core)))
    assert found.cores == str(core)
    assert found.difference(target) == [f"cores: {core} here, none there"]
    with pytest.raises(UserError, match=r"threads: must be 1 to 1, the cores at hand, got 2"):
        detect_target(Device(cores=str(core)), threads=2)
    with pytest.raises(UserError, match=r"cores 4095: there are no such here; there are [\d,]+$"):
        detect_target(Device(cores="4095"))


def test_a_program_that_answers_nothing_tells_its_last_word():
    with pytest.raises(LostError, match=r"^out of order$") as caught:
        Process([sys.executable, "-c", "import sys; sys.exit('hello\\nout of order')"])
    assert caught.value.code == 1


def test_what_a_shell_greets_with_is_passed_over():
    words = python_words("")
    words[3] = "print('Welcome!');print('{ it is hot');" + words[3]
    process = Process(words)
    process.send({"do": "kept"})
    assert process.receive() == {"kept": []}
    process.close()


def test_an_old_python_is_named():
    words = python_words("")
    words[3] = words[3].replace("(3,8)", "(99,0)")
    with pytest.raises(LostError, match=r"^Python 3.8 or later is needed, this is 3\.\d+"):
        Process(words)


def test_adb_starts_the_runner(tmp_path, monkeypatch, target):
    program = tmp_path / "adb"
    program.write_text('#!/bin/sh\ntest "$1 $2 $3 $4" = "-s 0123 shell -T" && exec sh -c "$5"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    device = Device(name="adb:0123", python=sys.executable, workdir=str(tmp_path / "kept"))
    assert detect_target(device).difference(target) == ["device: adb:0123 here, cpu there"]
    reach(device).drop()


def test_the_carrier_that_a_page_shows_is_that_of_adb():
    root = Path(__file__).parents[2]
    page = (root / "docs" / "devices" / "phone.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert code == (root / "nas" / "latency" / "carriers" / "adb.py").read_text()


SMALL, LARGE = (4, 2, 2), (256, 28, 28)


def turns_of(place, shape=SMALL, **counts):
    graphs = {
        name: (lambda count=count: chain([pointwise(shape)] * count))
        for name, count in counts.items()
    }
    turns = Turns(detect_target(), graphs, np.random.default_rng(0))
    turns._place = place
    return turns


class Fragile(Place):
    """A place whose runner is killed after each of some numbers of replies."""

    def __init__(self, kills, **fields):
        super().__init__(Device(**fields))
        self.kills, self.replies, self.pids = set(kills), 0, []

    def receive(self):
        self.replies += 1
        if self.replies in self.kills:
            self.kill()
        return super().receive()

    def kill(self):
        self.pids.append(self._connection._process.pid)
        with contextlib.suppress(ProcessLookupError):  # what it told before may be unread
            os.kill(self.pids[-1], signal.SIGKILL)
        self._connection._process.wait()


class FragileByVisits(Fragile):
    """Killed after numbers of visits; a large graph's take so long that the host keeps up."""

    def receive(self):
        reply = Place.receive(self)
        self.replies += "graph" in reply
        if "graph" in reply and self.replies in self.kills:
            self.kill()
        return reply


@pytest.mark.parametrize("inner", [(), ("b", "c")])
def test_a_runner_that_is_killed_goes_on_and_visits_nothing_twice(tmp_path, recorder, inner):
    place = FragileByVisits({1, 3, 6, 9, 12}, workdir=str(tmp_path))
    turns = turns_of(place, LARGE, a=1, b=2, c=3)
    turns.progress, turns.inner = recorder(), inner
    found = [it for chunk in turns.visit({"a": 6, "b": 6, "c": 6}) for it in chunk]
    place.drop()
    assert len(place.pids) == 5
    assert sorted(it.graph for it in found) == sorted("abc" * 6)
    assert all("taking it up again" in line for line in turns.progress.lines)
    assert len(turns.progress.lines) == 5


def test_a_runner_that_is_killed_before_it_has_told_anything_goes_on(tmp_path):
    place = Fragile({1, 2, 3}, workdir=str(tmp_path))
    found = [it for chunk in turns_of(place, a=1, b=2).visit({"a": 2, "b": 2}) for it in chunk]
    place.drop()
    assert len(place.pids) == 3
    assert sorted(it.graph for it in found) == sorted("aabb")


def test_a_graph_that_kills_the_runner_each_time_is_an_error(tmp_path):
    place = Fragile(range(3, 100), workdir=str(tmp_path))
    turns = turns_of(place, a=1, b=2)
    with pytest.raises(UserError, match=r"the runtime's process died of signal 9"):
        list(turns.visit({"a": 2, "b": 2}))


def test_what_nobody_reads_on_is_forgotten(tmp_path):
    place = Place(Device(workdir=str(tmp_path)))
    turns = turns_of(place, a=1, b=2)
    stopped = turns.visit({"a": 8, "b": 8})
    monkey = next(stopped)
    assert monkey
    stopped.close()
    assert place._connection is None
    found = [it.graph for chunk in turns.visit({"a": 1, "b": 2}) for it in chunk]
    assert sorted(found) == ["a", "b", "b"]
    place.drop()


def test_a_device_that_stays_away_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "PATIENCE_SECONDS", 0.0)
    place = Fragile({3}, workdir=str(tmp_path))
    turns = turns_of(place, a=1)
    monkeypatch.setattr(Device, "words", lambda self, token: python_words("/nowhere/python"))
    place._connection = Process(python_words("", "--workdir", str(tmp_path)))
    with pytest.raises(UserError, match="died of signal 9"):
        list(turns.visit({"a": 4}))
