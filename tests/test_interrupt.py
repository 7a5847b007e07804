"""Ctrl-C in real processes: one line, exit code 130, and what was done stays usable."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from nas.latency.build import BuildSettings, MeasuringPlan, build_table
from nas.latency.table import visits_path
from nas.latency.target import detect_target
from nas.space import SearchSpace
from nas.training.run import Run

SPACE = """\
name: tiny
input_size: 32
classes: 10
stem: {kind: conv_stem}
stages:
  - width: [8, 16]
    blocks:
      - ffn: {kind: conv_ffn, expansion: [1, 2]}
  - width: [16, 24]
    downsample: {kind: conv_downsample}
    blocks:
      - ffn: [identity, {kind: conv_ffn, expansion: [1, 2]}]
head: {kind: classifier}
"""


HEARS_CTRL_C = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from nas.cli import main
main()
"""
"""A shell's background jobs ignore Ctrl-C, and so would what these tests start in one."""


def interrupt_when(ready, folder, *arguments):
    """Start ``nas``, press Ctrl-C as soon as ``ready()``, and return its exit code and last line."""
    (folder / "tiny.yaml").write_text(SPACE)
    process = subprocess.Popen(
        [sys.executable, "-c", HEARS_CTRL_C, *arguments],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=180)
    assert "Traceback" not in errors
    return process.returncode, errors.splitlines()[-1]


def test_training_stops_at_a_finished_epoch_and_goes_on(tmp_path):
    log = tmp_path / "r" / "log.jsonl"
    train = ("train-supernet", "--space", "tiny.yaml", "--run", "r", "--limit", "300")
    code, line = interrupt_when(
        lambda: log.exists() and log.read_text().count("\n") >= 2,
        tmp_path, *train, "--epochs", "500",
    )  # fmt: skip
    assert code == 130
    assert line.startswith("nas: stopped in epoch ")
    assert "to continue: nas train-supernet --run r --resume" in line
    run = Run.open(tmp_path / "r")
    assert 1 <= run.finished_epochs < 500
    assert not run.load_supernet().training


@pytest.mark.slow
def test_measuring_keeps_its_visits_and_goes_on(tmp_path):
    path = tmp_path / "t.csv"
    measure = ("build-lut", "--space", "tiny.yaml", "--minutes", "9", "--out", "t.csv")
    code, line = interrupt_when(
        lambda: visits_path(path).exists() and visits_path(path).read_text().count("\n") >= 2,
        tmp_path, *measure,
    )  # fmt: skip
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
