"""Ctrl-C in real processes: one line, exit code 2, and what was done stays usable."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from nas.training.run import Run

SPACE = """\
name: tiny
input_size: 32
classes: 10
stem: {kind: conv_stem}
stages:
  - width: [8, 16, 24, 32]
    blocks:
      - ffn: {kind: conv_ffn, expansion: [1, 2, 3, 4]}
  - width: [16, 24, 32, 40]
    downsample: {kind: conv_downsample}
    blocks:
      - ffn: [identity, {kind: conv_ffn, expansion: [1, 2, 3, 4]}]
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
    """Start ``nas``, press Ctrl-C as soon as ``ready()``, and give its exit code and last line."""
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


def nas(folder, *arguments):
    subprocess.run([sys.executable, "-m", "nas", *arguments], cwd=folder, check=True)


def test_training_stops_at_a_finished_epoch_and_goes_on(tmp_path):
    log = tmp_path / "r" / "log.jsonl"
    train = ("train-supernet", "--space", "tiny.yaml", "--run", "r", "--limit", "300")
    code, line = interrupt_when(
        lambda: log.exists() and log.read_text().count("\n") >= 2,
        tmp_path, *train, "--epochs", "500",
    )  # fmt: skip
    assert code == 2
    assert line.startswith("nas: stopped in epoch ")
    assert "to continue: nas train-supernet --run r --resume" in line
    run = Run.open(tmp_path / "r")
    assert 1 <= run.finished_epochs < 500
    assert not run.load_supernet().training


def test_measuring_keeps_its_rows_and_goes_on(tmp_path):
    partial = tmp_path / "t.partial.jsonl"
    measure = ("build-lut", "--space", "tiny.yaml", "--out", "t.csv")
    code, line = interrupt_when(
        lambda: partial.exists() and partial.read_text().count("\n") >= 10, tmp_path, *measure
    )
    assert code == 2
    assert "--resume" in line
    kept = [json.loads(line) for line in partial.read_text().splitlines()[1:]]
    assert not Path(tmp_path / "t.csv").exists()
    nas(tmp_path, *measure, "--resume")
    rows = (tmp_path / "t.csv").read_text()
    assert kept
    for row in kept:  # not measured again: the very same milliseconds
        assert f",{row['ms']:.6f},{row['ms_low']:.6f},{row['ms_high']:.6f}," in rows
    assert not partial.exists()
    assert json.loads((tmp_path / "t.json").read_text())["space"] == "tiny"
