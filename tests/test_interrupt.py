"""Ctrl-C in real processes: one line, exit code 130, and what was done stays usable."""

import json
import signal
import sys
import time

import pytest

from nas import cli
from nas.latency.build import BuildSettings, MeasuringPlan, build_table
from nas.latency.table import visits_path
from nas.latency.target import detect_target
from nas.space import SearchSpace
from nas.training.run import Run


def interrupt_when(ready, process):
    """Press Ctrl-C as soon as ``ready()``; the exit code of a process and its last line."""
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=180)
    assert "Traceback" not in errors
    return process.returncode, errors.splitlines()[-1]


@pytest.mark.slow
def test_training_stops_at_a_finished_epoch_and_goes_on(tmp_path, nas_process):
    log = tmp_path / "r" / "log.jsonl"
    train = ("train-supernet", "--space", "tiny.yaml", "--run", "r", "--limit", "300")
    code, line = interrupt_when(
        lambda: log.exists() and log.read_text().count("\n") >= 2,
        nas_process(tmp_path, *train, "--epochs", "500"),
    )
    assert code == 130
    assert line.startswith("nas: stopped in epoch ")
    assert "to continue: nas train-supernet --run r --resume" in line
    run = Run.open(tmp_path / "r")
    assert 1 <= run.finished_epochs < 500
    assert not run.load_supernet().training


@pytest.mark.slow
def test_measuring_keeps_its_visits_and_goes_on(tmp_path, nas_process):
    path = tmp_path / "t.csv"
    measure = ("build-lut", "--space", "tiny.yaml", "--minutes", "9", "--out", "t.csv")
    code, line = interrupt_when(
        lambda: visits_path(path).exists() and visits_path(path).read_text().count("\n") >= 2,
        nas_process(tmp_path, *measure),
    )
    assert code == 130
    assert line == (
        "nas: stopped; what was measured is kept, to continue: nas build-lut --space tiny.yaml "
        "--device cpu --runtime onnxruntime --threads 1 --batch 1 --precision float32 "
        "--minutes 9 --out t.csv --resume"
    )
    assert not path.exists()
    kept = visits_path(path).read_text().splitlines()
    assert len(json.loads(kept[1])["visits"]) > 9
    table = build_table(
        SearchSpace.load(tmp_path / "tiny.yaml"),
        detect_target(),
        path,
        settings=BuildSettings(plan=MeasuringPlan(6, 4, least_visits=2, error=1.0, seconds=0.0)),
        resume=True,
    )
    assert table.validation is not None
    assert visits_path(path).read_text().splitlines()[: len(kept)] == kept


class Deleted:
    """An object while whose deletion Ctrl-C is pressed."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


def delete_one():
    thing = Deleted()
    del thing
    time.sleep(60)


def test_ctrl_c_while_an_object_is_deleted_is_not_lost(monkeypatch, capfd):
    monkeypatch.setattr(sys, "unraisablehook", cli.interrupt_again)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            delete_one()
    finally:
        signal.signal(signal.SIGINT, before)
    assert "ignored" not in capfd.readouterr().err
