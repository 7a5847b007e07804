from __future__ import annotations

import re
from typing import Any

import pytest

from nas.report.tables import print_networks


def row(name: str, target: dict[str, float] | None, **latencies: tuple[float, float | None]) -> Any:
    named = {
        f"latency_ms[{table}]": {"predicted": predicted, "measured": measured}
        for table, (predicted, measured) in latencies.items()
    }
    sizes = {"test_accuracy": 0.5, "params": 2_000_000, "macs": 3e8, "mes": 101.25}
    return {"name": name, "target": target, "latencies": named, **sizes}


def test_every_latency_has_its_columns_and_a_family_its_targets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [
        row("largest", None, cpu=(1.5, 1.6), gpu=(0.25, None)),
        row("slimmed", {"latency_ms[cpu]": 1.2}, cpu=(1.1, 1.15), gpu=(0.2, None)),
        row("slimmed", {"latency_ms[cpu]": 0.9}, cpu=(0.8, 0.85), gpu=(0.1, None)),
    ]
    print_networks(rows, title="tiny")
    printed = capsys.readouterr().out
    assert re.search(
        r"target +test accuracy +parameters +MACs +predicted ms \[cpu\] +measured ms \[cpu\] +"
        r"predicted ms \[gpu\] +measured ms \[gpu\] +MES",
        printed,
    )
    assert re.search(r"slimmed +0\.9 +50\.0 % .* 0\.800 +0\.850 +0\.100 +- +101\.2", printed)
    assert re.search(r"largest +- ", printed)


def test_one_target_needs_no_column(capsys: pytest.CaptureFixture[str]) -> None:
    print_networks([row("slimmed", {"params": 1.0}, cpu=(1.0, 1.0))], title="tiny")
    assert "target" not in capsys.readouterr().out
