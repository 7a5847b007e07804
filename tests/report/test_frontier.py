from __future__ import annotations

from pathlib import Path

import pandas as pd

from nas.report.frontier import Final, Point, draw_frontier, frontier, write_frontier

POINTS = [
    Point((0,), {"latency_ms": 1.0, "params": 3.0}, 0.5, ("uniform", "slimmed")),
    Point((1,), {"latency_ms": 2.0, "params": 1.0}, 0.4, ("random",)),
    Point((2,), {"latency_ms": 3.0, "params": 2.0}, 0.6, ("slimmed",)),
]


def test_the_frontier_is_that_of_the_given_cost() -> None:
    assert [it.assignment for it in frontier(POINTS, "latency_ms")] == [(0,), (2,)]
    assert [it.assignment for it in frontier(POINTS, "params")] == [(1,), (2,)]


def test_the_csv_says_who_evaluated_what(tmp_path: Path) -> None:
    write_frontier(tmp_path / "f.csv", POINTS, "params", lambda costs: 10 / costs["params"])
    found = pd.read_csv(tmp_path / "f.csv")
    assert list(found["params"]) == [1, 2, 3]
    assert list(found["mes"]) == [10, 5, 10 / 3]
    assert list(found["on_frontier"]) == [True, True, False]
    assert list(found["methods"]) == ["random", "slimmed", "uniform slimmed"]


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    draw_frontier(
        tmp_path / "f.png",
        POINTS,
        measure="latency_ms",
        finals=[Final("largest", 4.0, 0.7), Final("slimmed", 3.0, 0.6)],
        bounds=[3.0, 2.0],
        walk=[(2,), (0,)],
        title="tiny",
    )
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
