"""The frontier of accuracy against a cost, as a table and as a picture."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nas.documents import write_atomically

INK, GREY, BLUE, ORANGE, GREEN = "#1f2430", "#b9bfca", "#2f6fde", "#e8762c", "#2a9d6f"
COLORS = {
    "largest": INK,
    "uniform": ORANGE,
    "random": GREY,
    "evolution": BLUE,
    "slimmed": GREEN,
    "searched": GREEN,
}
MARKERS = {
    "largest": "s",
    "uniform": "D",
    "random": "o",
    "evolution": "^",
    "slimmed": "*",
    "searched": "*",
}
LABELS = {"params": "parameters", "macs": "multiply-accumulates"}


class Point(NamedTuple):
    """An evaluated network: its assignment, its predicted costs, its accuracy in [0, 1].

    ``methods`` are the names of those that evaluated it.
    """

    assignment: tuple[int, ...]
    costs: Mapping[str, float]
    accuracy: float
    methods: tuple[str, ...]


class Final(NamedTuple):
    """A network of the final table: who found it, its cost, its accuracy in [0, 1]."""

    method: str
    cost: float
    accuracy: float


def frontier(points: Sequence[Point], measure: str) -> list[Point]:
    """The points that none is both cheaper and at least as accurate as, cheapest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda it: (it.costs[measure], -it.accuracy)):
        if not best or point.accuracy > best[-1].accuracy:
            best.append(point)
    return best


def write_frontier(
    path: Path,
    points: Sequence[Point],
    measure: str,
    score: Callable[[Mapping[str, float]], float],
) -> None:
    """Every evaluated network as CSV, cheapest first, with a mark on those of the frontier."""
    chosen = {point.assignment for point in frontier(points, measure)}
    rows = [
        {
            **point.costs,
            "mes": score(point.costs),
            "accuracy": point.accuracy,
            "on_frontier": point.assignment in chosen,
            "methods": " ".join(point.methods),
            "assignment": " ".join(map(str, point.assignment)),
        }
        for point in sorted(points, key=lambda it: it.costs[measure])
    ]
    write_atomically(path, pd.DataFrame(rows).to_csv(index=False))


def draw_frontier(
    path: Path,
    points: Sequence[Point],
    *,
    measure: str,
    finals: Sequence[Final],
    bounds: Sequence[float],
    walk: Sequence[tuple[int, ...]],
    title: str,
) -> None:
    """A PNG: what each method evaluated and its frontier, the walk, the final networks, the bounds.

    ``measure`` is the cost on the horizontal axis, of which ``bounds`` are drawn.
    """
    with mpl.rc_context({"font.size": 10, "axes.edgecolor": INK, "axes.labelcolor": INK}):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        for method in COLORS:
            _draw_method(axes, [it for it in points if method in it.methods], measure, method)
        by_assignment = {point.assignment: point for point in points}
        steps = [by_assignment[one] for one in walk if one in by_assignment]
        axes.plot(
            [point.costs[measure] for point in steps],
            [100 * point.accuracy for point in steps],
            color=GREEN, linewidth=1, linestyle=":", label="walk", zorder=3,
        )  # fmt: skip
        for method, cost, accuracy in finals:
            axes.scatter(
                cost, 100 * accuracy, s=150 if MARKERS[method] == "*" else 50,
                color=COLORS[method], marker=MARKERS[method], edgecolor="white",
                label="largest" if method == "largest" else None, zorder=5,
            )  # fmt: skip
        for bound in bounds:
            axes.axvline(bound, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                f"target {bound:g}", (bound, 0.02), xycoords=("data", "axes fraction"),
                xytext=(4, 0), textcoords="offset points", color=INK, fontsize=9,
            )  # fmt: skip
        latency = measure.replace("latency_ms", "predicted latency (ms)")
        axes.set_xlabel(LABELS.get(measure, latency))
        axes.set_ylabel("accuracy (%)")
        axes.set_title(title, loc="left", fontweight="bold", color=INK)
        axes.grid(color="#eceef2", zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower right")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
    write_atomically(path, buffer.getvalue())


def _draw_method(axes: Axes, points: Sequence[Point], measure: str, method: str) -> None:
    """Small markers for what a method evaluated, and the steps of its frontier."""
    if not points:
        return
    axes.scatter(
        [point.costs[measure] for point in points],
        [100 * point.accuracy for point in points],
        s=10, color=COLORS[method], marker=MARKERS[method], alpha=0.5, linewidth=0, zorder=2,
    )  # fmt: skip
    best = frontier(points, measure)
    axes.step(
        [point.costs[measure] for point in best],
        [100 * point.accuracy for point in best],
        where="post", color=COLORS[method], linewidth=1.6, label=method, zorder=3,
    )  # fmt: skip
