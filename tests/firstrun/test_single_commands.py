"""The commands that ``nas run`` prints do, one after the other by a shell, what the run does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nas.architecture import Architecture
from nas.firstrun.begin import begin
from nas.firstrun.estimate import STAGES, Effort
from nas.firstrun.facts import DataFacts, SpaceFacts
from nas.firstrun.request import Request
from nas.firstrun.schedule import schedule_of

REQUEST = Request(data="digits", space="tiny.yaml", target_ms=50.0, seed=3)
OUT = "my run"  # the shell has to keep the words together


def schedule():
    """A plan of a few epochs, as if it had been made by measurements."""
    data = DataFacts(classes=10, train=1078, search=360, test=359, search_share=0.25,
                     has_test=False, side=8, seconds=0.0001)  # fmt: skip
    place = SpaceFacts(word="tiny.yaml", name="tiny", input_size=32, layers=12,
                       sandwich_seconds=0.001, largest_seconds=0.0005,
                       forward_seconds=(0.0002, 0.0001, 0.0001), visit_seconds=0.02,
                       largest_ms=0.1, smallest_ms=0.03)  # fmt: skip
    effort = Effort(epochs=2, evaluations=6, retraining_epochs=2, batch_size=48)
    return schedule_of(data, place, effort, target_ms=50.0)


@pytest.fixture
def path_with_nas(tmp_path):
    """A PATH on which ``nas`` is what these tests run."""
    program = tmp_path / "bin" / "nas"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m nas "$@"\n')
    program.chmod(0o755)
    return f"{program.parent}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.slow
def test_the_printed_commands_lead_to_the_result_of_the_run(
    nas_process, path_with_nas, tmp_path, monkeypatch
):
    whole, single = tmp_path / "whole", tmp_path / "single"
    for folder in (whole, single):
        folder.mkdir()
    monkeypatch.chdir(whole)
    begin(REQUEST, Path(OUT), lambda *_: schedule())
    process = nas_process(whole, "run", "--data", "digits", "--space", "tiny.yaml", "--target-ms",
                          "50", "--seed", "3", "--out", OUT)  # fmt: skip
    printed, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    # below the commands a last one names what follows
    *commands, following = [it.strip() for it in printed.splitlines() if it.startswith("  nas ")]
    assert len(commands) == len(STAGES), printed
    (single / "tiny.yaml").write_bytes((whole / "tiny.yaml").read_bytes())
    for line in commands:
        done = subprocess.run(
            line, shell=True, cwd=single, capture_output=True, text=True, check=False,
            env={**os.environ, "PATH": path_with_nas, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, f"{line}: {done.stderr}"
    # every network is within the target, so that prices decide nothing and both find the largest
    results = [json.loads((it / OUT / "retrained/result.json").read_text())
               for it in (whole, single)]  # fmt: skip
    for name in ("test_accuracy", "inherited_test_accuracy", "params", "test_images"):
        assert results[0][name] == results[1][name], name
    one, other = (Architecture.load(it / OUT / "retrained/architecture.json")
                  for it in (whole, single))  # fmt: skip
    assert one == other
    for name in ("report.html", "delivered/slimmed/model.onnx"):
        assert (single / OUT / name).is_file(), name
    assert following == f"nas classify '{OUT}/delivered/slimmed' PICTURE.jpg"
