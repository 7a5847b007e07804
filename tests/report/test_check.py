from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from nas.architecture import Architecture
from nas.report.check import draw_check, print_check, write_check
from nas.training.check import Check, Compared, judge_ranks
from nas.training.settings import RECIPES


@pytest.fixture(scope="module")
def check() -> Check:
    architecture = Architecture.load("efficientformer_v2_s0")
    rows = [(0.1, (0.2, 0.3)), (0.2, (0.4, 0.5)), (0.5, (0.3, 0.3))]
    compared = [
        Compared(
            architecture=architecture, params=1000 * n, macs=10**n, inherited=mine, alone=theirs
        )
        for n, (mine, theirs) in enumerate(rows, start=4)
    ]
    return judge_ranks(compared, RECIPES["light"], images=200)


def test_the_table_ends_with_correlation_and_gap(
    check: Check, capsys: pytest.CaptureFixture[str]
) -> None:
    print_check(check)
    printed = capsys.readouterr().out
    assert "accuracy on 200 images of the search slice" in printed
    assert "5.00 k" in printed
    assert "40.0 % 50.0 %" in printed
    assert "-25.0" in printed
    assert "Kendall tau 0.33 (95 %: -1.00 to 1.00)" in printed
    assert "0.82 between the seeds; mean gap -6.7 points" in printed


def test_the_csv_holds_every_training(check: Check, tmp_path: Path) -> None:
    write_check(tmp_path / "c.csv", check)
    found = pd.read_csv(tmp_path / "c.csv")
    assert list(found.columns) == ["params", "macs", "inherited", "alone", "alone_0", "alone_1"]
    assert list(found["alone"]) == pytest.approx([0.25, 0.45, 0.3])


def test_the_picture_is_a_png(check: Check, tmp_path: Path) -> None:
    draw_check(tmp_path / "c.png", check, title="tiny, digits")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
