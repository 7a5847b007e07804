"""A short run of the benchmark that kills commands: it finds nothing to complain of."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "kills.py"


@pytest.mark.slow
def test_a_killed_training_and_one_on_a_full_disk_go_on_to_the_same_end():
    command = [sys.executable, BENCHMARK, "--kills", "2", "--places", "2", "--commands", "train"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    words = [line.split() for line in done.stdout.splitlines()]
    (row,) = [row for row in words if row[:1] == ["train"]]
    assert row[-2:] == ["4", "0"]  # the same results, and failures
