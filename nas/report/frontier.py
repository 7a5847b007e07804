"""The frontier of accuracy against latency, as a table and as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from nas.documents import write_atomically
from nas.search import mobile_efficiency_score

INK, GREY, BLUE, ORANGE, GREEN = "#1f2430", "#b9bfca", "#2f6fde", "#e8762c", "#2a9d6f"
COLORS = {"largest": INK, "uniform": ORANGE, "slimmed": GREEN}
MARKERS = {"largest": "s", "uniform": "D", "slimmed": "*"}


class Point(NamedTuple):
    """An evaluated network: its assignment, its predicted costs, its accuracy in [0, 1]."""

    assignment: tuple[int, ...]
    costs: Mapping[str, float]
    accuracy: float


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that none is both faster and at least as accurate as, fastest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda it: (it.costs["latency_ms"], -it.accuracy)):
        if not best or point.accuracy > best[-1].accuracy:
            best.append(point)
    return best


def write_frontier(path: Path, points: Sequence[Point]) -> None:
    """Every evaluated network as CSV, fastest first, with a mark on those of the frontier."""
    chosen = {point.assignment for point in frontier(points)}
    rows = [
        {
            **point.costs,
            "mes": mobile_efficiency_score(point.costs),
            "accuracy": point.accuracy,
            "on_frontier": point.assignment in chosen,
            "assignment": " ".join(map(str, point.assignment)),
        }
        for point in sorted(points, key=lambda it: it.costs["latency_ms"])
    ]
    write_atomically(path, pd.DataFrame(rows).to_csv(index=False))


def draw_frontier(
    path: Path,
    points: Sequence[Point],
    *,
    walk: Sequence[tuple[int, ...]],
    named: Mapping[str, tuple[float, float]],
    target_ms: float | None,
    title: str,
) -> None:
    """A PNG: evaluated networks, the frontier, the walk of the slimming, the networks by name."""
    with mpl.rc_context({"font.size": 10, "axes.edgecolor": INK, "axes.labelcolor": INK}):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        axes.scatter(
            [point.costs["latency_ms"] for point in points],
            [100 * point.accuracy for point in points],
            s=14, color=GREY, label="evaluated", zorder=2,
        )  # fmt: skip
        best = frontier(points)
        axes.step(
            [point.costs["latency_ms"] for point in best],
            [100 * point.accuracy for point in best],
            where="post", color=BLUE, linewidth=1.6, label="frontier", zorder=3,
        )  # fmt: skip
        by_assignment = {point.assignment: point for point in points}
        steps = [by_assignment[one] for one in walk if one in by_assignment]
        axes.plot(
            [point.costs["latency_ms"] for point in steps],
            [100 * point.accuracy for point in steps],
            color=GREEN, linewidth=1, alpha=0.7, label="slimming", zorder=3,
        )  # fmt: skip
        for name, (latency_ms, accuracy) in named.items():
            axes.scatter(
                latency_ms, 100 * accuracy, s=150 if MARKERS[name] == "*" else 50,
                color=COLORS[name], marker=MARKERS[name], edgecolor="white", label=name, zorder=5,
            )  # fmt: skip
        if target_ms is not None:
            axes.axvline(target_ms, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                f"target {target_ms:g} ms", (target_ms, 0.02), xycoords=("data", "axes fraction"),
                xytext=(4, 0), textcoords="offset points", color=INK, fontsize=9,
            )  # fmt: skip
        axes.set_xlabel("predicted latency (ms)")
        axes.set_ylabel("accuracy (%)")
        axes.set_title(title, loc="left", fontweight="bold", color=INK)
        axes.grid(color="#eceef2", zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower right")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
    write_atomically(path, buffer.getvalue())
