"""What a lead at the same latency is, by frontiers of known difference."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nas.data.generated import CLASSES
from nas.errors import UserError

FOLDER = Path(__file__).parents[2] / "benchmarks"
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "path", [str(FOLDER), *sys.path])  # as for a script of that folder
    BENCHMARK = runpy.run_path(str(FOLDER / "helps.py"))
Cell, Pair, compared = (BENCHMARK[name] for name in ("Cell", "Pair", "compared"))


@pytest.mark.parametrize("name", ["shapes_mobile", "shapes_mobilenet"])
def test_a_space_for_generated_pictures_has_their_classes(name):
    assert BENCHMARK["SETTINGS"][name].space().classes == len(CLASSES)


def cells(lead, *, noise=0.0, slower=1.0, seed=0):
    """Two methods on one frontier, 2 points for each doubling, but for the lead of slimming."""
    rng = np.random.default_rng(seed)
    for part in ("supernet 0", "supernet 1"):
        for target in (1.0, 0.7, 0.5):
            for method, ahead, over in (("slimmed", lead, 1.0), ("uniform", 0.0, slower)):
                ms = target * over * rng.uniform(0.9, 1.0)
                for number in range(3):
                    share = 0.8 + 0.02 * np.log2(ms) + ahead + noise * rng.standard_normal()
                    yield Cell(part, method, target, ms, "scratch", number, share)


@pytest.mark.parametrize("slower", [1.0, 0.97])
def test_a_lead_is_told_at_the_same_latency(slower):
    (row,) = compared("a setting", list(cells(0.013, slower=slower)))
    assert row[:5] == ("a setting", "scratch", "uniform", "2", "+1.30")
    assert row[5] == "+1.30 to +1.30"


def test_intervals_hold_the_lead_and_grow_with_noise():
    held, widths = 0, []
    for seed in range(6):
        (row,) = compared("", list(cells(0.01, noise=0.01, seed=seed)))
        low, high = map(float, row[5].split(" to "))
        held += low <= 1.0 <= high
        widths.append(high - low)
    assert held >= 3  # three seeds resampled are too narrow, but no point estimates
    assert 0.5 < np.mean(widths) < 3


def test_beyond_a_frontier_its_last_line_goes_on():
    found = BENCHMARK["at_latencies"](np.array([-1.0, 0.5, 2.0]), np.arange(2.0), np.arange(2.0))
    assert found.tolist() == [-1.0, 0.5, 2.0]


def test_a_cell_that_was_cut_short_is_made_anew_and_another_effort_is_refused(tmp_path):
    path, effort = tmp_path / "cells.jsonl", BENCHMARK["Effort"]()
    trials_at, accuracy_in = BENCHMARK["trials_at"], BENCHMARK["accuracy_in"]
    with trials_at(path, effort) as trials:
        assert accuracy_in(trials, "a", "scratch", 0, lambda: 0.5) == 0.5
    with path.open("a") as file:
        file.write('{"network": "b", "way": "scratch", "seed": 0, "accuracy": 0.')
    with trials_at(path, effort._replace(seeds=7)) as trials:
        assert accuracy_in(trials, "a", "scratch", 0, lambda: 1 / 0) == 0.5
        assert accuracy_in(trials, "b", "scratch", 0, lambda: 0.25) == 0.25
    assert len(path.read_text().splitlines()) == 3
    with pytest.raises(UserError, match="was started with epochs 8, got 9; name another --out"):
        trials_at(path, effort._replace(epochs=9))


@pytest.mark.slow
def test_all_of_it_runs_on_digits(tmp_path):
    picture = tmp_path / "frontiers.png"
    subprocess.run(
        [sys.executable, FOLDER / "helps.py", "--smoke", "--out", tmp_path, "--picture", picture],
        check=True,
        cwd=FOLDER.parent,
    )
    assert picture.exists()
