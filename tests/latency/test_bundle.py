"""A bundle is measured by its own file alone, and comes back as a table; damage is one line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import onnx
import pytest

from nas.deploy.quantize import precision_of
from nas.errors import UserError
from nas.latency import bundle, runner
from nas.latency.build import BuildSettings, MeasuringPlan, purpose_of
from nas.latency.bundle import import_bundle, write_bundle
from nas.latency.by_hand import RUN, read_folder, target_to_be
from nas.latency.table import LatencyTable

FEW = MeasuringPlan(fitted=3, held_out=4, least_visits=2, error=1.0, seconds=0.6)
SPACE = """\
name: small
input_size: 32
classes: 4
stem: {kind: conv_stem}
stages:
  - width: [8, 16]
    blocks:
      - {repeat: 2, ffn: [identity, {kind: conv_ffn, expansion: [1, 2]}]}
head: {kind: classifier}
"""


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    from nas.space import SearchSpace

    path = tmp_path_factory.mktemp("space") / "small.yaml"
    path.write_text(SPACE)
    return SearchSpace.load(path), str(path)


@pytest.fixture(scope="module")
def written(space, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "THOROUGH", FEW)
        folder = tmp_path_factory.mktemp("bundle") / "b"
        settings = BuildSettings(space_argument=space[1])
        write_bundle(
            space[0], folder, target_to_be("cpu", "onnxruntime", threads=1, batch=1), settings
        )
        yield folder


def run(folder, *words):
    """Run the bundle as a user does there, with nothing of this package."""
    source = (folder / RUN).read_text().replace("96_000_000", "96_000")  # the protocol is tested
    (folder / RUN).write_text(source)
    environment = {name: it for name, it in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, folder / RUN, *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def measured(written, tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured") / "b"
    shutil.copytree(written, folder)
    found = run(folder)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.splitlines()[-1].startswith("done: ")
    return folder


@pytest.fixture
def copy(measured, tmp_path):
    return shutil.copytree(measured, tmp_path / "b")


def imported(folder, path, **more):
    return import_bundle(folder, lambda space, target: path, **more)


def test_a_bundle_comes_back_as_a_table(space, measured, tmp_path):
    path = tmp_path / "t.csv"
    made = imported(measured, path, name="phone")
    table = LatencyTable.load(path)
    assert table.rows == LatencyTable.load(path).rows
    assert made.rows.keys() == table.rows.keys() == space[0].layers().keys()
    assert (table.target.device, table.target.clock) == ("hand:phone", "thread_cpu")
    assert table.validation is not None
    assert purpose_of(path).is_of_this_version, "its visits may be joined by others"
    assert table.provenance.conditions.python == sys.version.split()[0]
    with pytest.raises(UserError, match=r"t.csv: exists.*--force"):
        imported(measured, path)
    imported(measured, path, force=True)


def test_the_first_round_is_whole_and_references_come_between(measured):
    plan = json.loads((measured / runner.PLAN).read_text())
    made = Counter(visit.graph for visit in read_folder(measured).visits)
    regular = plan["regular"]
    alone = [name for name in plan["graphs"] if name not in plan["inner"]]
    assert all(name.startswith(("network", "reference", "conv_stem")) for name in alone)
    assert len(alone) < len(plan["graphs"]) / 2
    for name in plan["graphs"].keys() - set(regular):
        assert runner.LEAST_ROUNDS * runner.LIFE <= made[name] <= bundle.MOST_VISITS
    others = sum(made.values()) - sum(made[name] for name in regular)
    assert sum(made[name] for name in regular) >= others // runner.REGULAR


def hear_ctrl_c():
    """Undo what a shell does to its background jobs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.slow
def test_what_was_stopped_goes_on(written, tmp_path):
    folder = shutil.copytree(written, tmp_path / "b")
    source = (folder / RUN).read_text().replace("96_000_000", "96_000")
    (folder / RUN).write_text(source)
    samples = folder / runner.SAMPLES
    for lines, pressed in ((5, signal.SIGKILL), (40, signal.SIGINT)):
        process = subprocess.Popen(
            [sys.executable, folder / RUN],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c,  # noqa: PLW1509
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not (samples.exists() and samples.read_bytes().count(b"\n") > lines):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(pressed)
        _, errors = process.communicate()
        if pressed == signal.SIGINT:
            assert (process.returncode, errors) == (130, "stopped; the same command goes on\n")
    with samples.open("ab") as file:
        file.write(b'{"graph": "half a l')
    kept = samples.read_bytes().split(b"\n")[:-1]
    assert run(folder).returncode == 0
    assert samples.read_bytes().split(b"\n")[: len(kept)] == kept
    made = Counter(visit.graph for visit in read_folder(folder).visits)
    plan = json.loads((folder / runner.PLAN).read_text())
    for name in plan["graphs"].keys() - set(plan["regular"]):
        assert made[name] >= runner.LEAST_ROUNDS * runner.LIFE
    imported(folder, tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "", "is empty; run there first: python3 run.py"),
        (lambda text: text.replace('"ms": [', '"ms": [-', 1), r"samples.jsonl:\d+: is no line of"),
        (
            lambda text: text.replace('"plan": "', '"plan": "0'),
            "are of another plan than plan.json",
        ),
        (lambda text: "\n".join(text.splitlines()[:60]) + "\n", r"\d+ of \d+ graphs have fewer"),
        (lambda text: text.replace('"format": 2', '"format": 1', 1), "of another version of nas"),
        (lambda text: text.replace('"cpu": "', '"gpu": "', 1), "samples.jsonl:1: knows no device"),
    ],
)
def test_samples_that_do_not_fit_are_one_line(copy, tmp_path, damage, message):
    samples = copy / runner.SAMPLES
    samples.write_text(damage(samples.read_text()))
    with pytest.raises(UserError, match=message) as caught:
        imported(copy, tmp_path / "t.csv")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "t.csv").exists()


def test_samples_of_another_machine_are_not_mixed(copy):
    samples = copy / runner.SAMPLES
    samples.write_text(samples.read_text().replace('"cpu_model": "', '"cpu_model": "no ', 1))
    found = run(copy)
    assert found.returncode == 1
    assert "is of another plan, machine or runtime; move it away" in found.stderr
    assert "Traceback" not in found.stderr


def test_what_was_measured_is_not_written_over(measured, space):
    target = target_to_be("cpu", "onnxruntime", threads=1, batch=1)
    with pytest.raises(UserError, match=r"samples.jsonl: was measured; import it, or move it away"):
        write_bundle(space[0], measured, target, BuildSettings(), force=True)


@pytest.mark.slow
def test_an_int8_bundle_measures_int8_and_says_so(space, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "THOROUGH", FEW)
    asked = target_to_be("cpu", "onnxruntime", threads=1, batch=1, precision="int8")
    write_bundle(space[0], tmp_path / "b", asked, BuildSettings(space_argument=space[1]))
    plan = json.loads((tmp_path / "b" / runner.PLAN).read_text())
    for graph in plan["graphs"].values():
        content = (tmp_path / "b" / runner.GRAPHS / f"{graph['sha256']}.graph").read_bytes()
        model = onnx.load_model_from_string(runner.filled(content))
        assert precision_of(model) == "int8"
    assert run(tmp_path / "b").returncode == 0
    assert imported(tmp_path / "b", tmp_path / "t.csv").target.precision == "int8"


def test_a_runtime_without_int8_has_no_int8_bundle(space, tmp_path):
    asked = target_to_be("cpu", "mnn", threads=1, batch=1, precision="int8")
    with pytest.raises(
        UserError, match=r"'int8' is not available to mnn on device 'cpu'; .*: none"
    ):
        write_bundle(space[0], tmp_path / "b", asked, BuildSettings(space_argument=space[1]))
    assert not (tmp_path / "b").exists()
