"""``nas run`` as a user types it: mistakes in one line; killed anywhere, it ends the same."""

import json
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from nas import cli, pipeline
from nas.documents import write_json
from nas.errors import UserError
from nas.firstrun.begin import Record, begin, find
from nas.firstrun.estimate import STAGES, Effort
from nas.firstrun.facts import DataFacts, SpaceFacts
from nas.firstrun.layout import JOURNAL, PLAN
from nas.firstrun.request import Request
from nas.firstrun.schedule import schedule_of
from nas.firstrun.stages import Finished
from nas.latency.table import LatencyTable, built_in_tables, sidecar_path
from nas.space import SearchSpace

RUN = ("run", "--data", "digits", "--space", "tiny.yaml", "--target-ms", "50", "--minutes", "2")


@pytest.fixture(autouse=True)
def _inside(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def schedule(target_ms=0.3):
    """A plan that nothing was measured for."""
    data = DataFacts(classes=10, train=1078, search=360, test=359, search_share=0.25,
                     has_test=False, side=8, seconds=0.0001)  # fmt: skip
    place = SpaceFacts(word="demo_64px", name="demo_64px", input_size=64, layers=85,
                       sandwich_seconds=0.01, largest_seconds=0.003,
                       forward_seconds=(0.001, 0.0004, 0.0001), visit_seconds=0.03,
                       largest_ms=0.5, smallest_ms=0.08)  # fmt: skip
    effort = Effort(epochs=3, evaluations=30, retraining_epochs=6)
    return schedule_of(data, place, effort, target_ms=target_ms)


def photos(folder, classes, each):
    for number in range(classes):
        for name in range(each):
            path = Path(folder) / f"class {number}" / f"IMG_{name:04}.JPG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((40, 40, 3), 20 * name, np.uint8)).save(path)


def complaint(capsys, *arguments):
    """The one line that a mistaken call prints; a line on progress may stand before it."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["nas", *arguments])
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        with pytest.raises(SystemExit) as caught:
            cli.main()
    assert caught.value.code == 2
    *before, line = capsys.readouterr().err.strip().splitlines()
    assert [it for it in before if not it.startswith("measuring how fast this machine is")] == []
    return line


def test_data_that_cannot_be_used_are_refused_in_one_line(capsys):
    photos("one", 1, 9)
    photos("three", 3, 1)
    for data, told in (
        ("folder:one", "folder:one: needs at least two classes, got 1"),
        ("folder:three", "folder:three: class 'class 0': needs at least 3 images to be split"),
        ("folder:nowhere", "folder:nowhere: no such folder"),
        ("three", "data set 'three': must be digits, "),
    ):
        assert told in complaint(capsys, "run", "--data", data, "--out", "o")
    assert not (Path("o") / PLAN).exists()


def test_options_without_sense_are_refused_in_one_line(capsys):
    run = ("run", "--data", "digits")
    for options, told in (
        (("--target-ms", "0"), "--target-ms: must be above 0, got 0"),
        (("--minutes", "-1"), "--minutes: must be above 0, got -1"),
        (("--weights", "w.pth"), "--weights needs --architecture"),
        (("--space", "s", "--architecture", "a"), "exclude each other"),
        (("--space", "demo_64"), "did you mean 'demo_64px'"),
        (("--device", "tpu"), "device 'tpu' is not available"),
    ):
        assert told in complaint(capsys, *run, *options, "--out", "o")


def test_a_folder_of_other_things_is_left_alone(capsys):
    Path("o").mkdir()
    Path("o/letter.txt").write_text("dear")
    for force in ((), ("--force",)):
        line = complaint(capsys, "run", "--data", "digits", "--out", "o", *force)
        assert line == "nas: o: holds other things than a run of nas run; name another --out"
    assert Path("o/letter.txt").read_text() == "dear"


def test_the_run_of_another_request_is_not_gone_on_with(capsys):
    begin(Request(data="digits", target_ms=0.3), Path("o"), lambda *_: schedule())
    line = complaint(capsys, "run", "--data", "digits", "--target-ms", "0.4", "--out", "o")
    assert line == (
        "nas: o: was started with --target-ms 0.3, now with --target-ms 0.4; name another --out, "
        "or start anew with --force"
    )


def test_a_run_that_has_begun_keeps_its_plan_and_force_replaces_it():
    request = Request(data="digits", target_ms=0.3)
    assert find(request, Path("o")) is None
    first = begin(request, Path("o"), lambda *_: schedule())
    assert find(request, Path("o")) == first
    (first.at.run / "deep").mkdir(parents=True)
    Path("o/stages.jsonl").write_text("")
    Path("o/mine.txt").write_text("kept")
    other = Request(data="digits", target_ms=0.4)
    second = begin(other, Path("o"), lambda *_: schedule(0.4), force=True)
    assert find(other, Path("o")) == second
    assert sorted(it.name for it in Path("o").iterdir()) == ["mine.txt", PLAN]


def test_a_target_that_nobody_named_follows_a_table_that_its_sidecar_completes():
    space, given = SearchSpace.load("mobile_64px"), built_in_tables()["example_cpu"]
    stages = begin(Request(data="digits"), Path("o"), lambda *_: schedule(None))
    pipeline.new_space(space, stages.at.space)
    shutil.copy(given, stages.at.table)
    assert stages.known == stages.schedule, "the build was killed before the sidecar"
    shutil.copy(sidecar_path(given), sidecar_path(stages.at.table))
    largest_ms = LatencyTable.load(stages.at.table).predict(space.largest())
    assert stages.known.place.largest_ms == largest_ms
    assert stages.known.target_ms == pytest.approx(0.5 * largest_ms, rel=0.05)
    assert stages.plan.targets == ({"latency_ms": stages.known.target_ms},)


def test_the_demo_of_an_earlier_version_is_replaced():
    for name in ("run", "slim"):
        (Path("o") / name).mkdir(parents=True)
        (Path("o") / name / "old").write_text("")
    for ending in ("csv", "json", "png", "visits.jsonl"):
        Path(f"o/demo_64px_cpu.{ending}").write_text("")
    request = Request(data="digits", space="demo_64px")
    with pytest.raises(UserError, match="holds other things"):
        begin(request, Path("o"), lambda *_: schedule())
    begin(request, Path("o"), lambda *_: schedule(), force=True)
    assert [it.name for it in Path("o").iterdir()] == [PLAN]


def test_a_plan_is_read_as_it_was_written():
    record = Record(request=Request(data="digits"), schedule=schedule())
    write_json(Path(PLAN), record.model_dump(mode="json"))
    assert Record.model_validate_json(Path(PLAN).read_bytes()) == record


def lines(path):
    return Path(path).read_text().count("\n") if Path(path).exists() else 0


def end_when(ready, process, how):
    """End a run by a signal as soon as something is there; its last line of errors."""
    deadline = time.monotonic() + 300
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(how)
    _, errors = process.communicate(timeout=180)
    assert process.returncode != 0
    return errors.strip().splitlines()[-1:] or [""]


@pytest.mark.slow
def test_a_run_that_is_killed_in_every_stage_ends_as_one_at_a_stretch(nas_process):
    def start(out):
        return nas_process(Path(), *RUN, "--out", out, "--json")

    marks = {
        "table": lambda: lines("a/tiny_cpu.visits.jsonl") >= 3,
        "training": lambda: lines("a/run/log.jsonl") >= 2,
        "slimming": lambda: lines("a/slim/journal.jsonl") >= 3,
        "retraining": lambda: lines("a/retrained/log.jsonl") >= 2,
        "export": lambda: lines("a/stages.jsonl") >= 5,
    }
    process = start("a")
    (line,) = end_when(marks["table"], process, signal.SIGINT)
    assert process.returncode == 130
    assert line.startswith("nas: stopped in the table; what is done is kept, to continue: nas run ")
    for ready in marks.values():
        end_when(ready, start("a"), signal.SIGKILL)
    output, errors = start("a").communicate(timeout=600)
    found = json.loads(output)
    assert [it["stage"] for it in found["stages"]] == list(STAGES), errors
    # at a stretch, by the same plan and the same table: prices are measured, and never the same
    Path("b").mkdir()
    for file in Path("a").glob("tiny*"):
        shutil.copy(file, "b")
    shutil.copy(Path("a") / PLAN, "b")
    done = [Finished(stage=stage, seconds=1.0).model_dump_json() for stage in ("space", "table")]
    (Path("b") / JOURNAL).write_text("\n".join([*done, ""]))
    output, errors = start("b").communicate(timeout=600)
    straight = json.loads(output)
    for name in ("test_accuracy", "inherited_test_accuracy", "test_images"):
        assert found["delivered"][name] == straight["delivered"][name]
    for name in ("architecture", "weights"):
        one, other = (Path(it["delivered"][name]) for it in (found, straight))
        if name == "weights":
            tensors, others = load_file(one), load_file(other)
            assert tensors.keys() == others.keys()
            assert all(np.array_equal(tensors[key], others[key]) for key in tensors)
        else:
            assert one.read_bytes() == other.read_bytes()
    again, _ = start("a").communicate(timeout=120)
    assert json.loads(again) == found  # a finished run only tells what it found
