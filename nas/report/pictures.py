"""Pictures (PNG): a search's frontier, a table's calibration, a check of ranks, a profile."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from nas.documents import write_atomically
from nas.latency.calibration import Validation
from nas.latency.estimator import STATES, State
from nas.latency.profile import OPERATORS, PARTS, Profile
from nas.latency.table import LatencyTable
from nas.latency.target import Target
from nas.report.measurements import Classes, class_names
from nas.slim.result import Point, SearchResult, frontier
from nas.training.check import Check

INK, GREY, PALE = "#1f2430", "#b9bfca", "#eceef2"
BLUE, ORANGE, GREEN, YELLOW, VIOLET = "#2f6fde", "#e8762c", "#2a9d6f", "#f2c14e", "#7a5bc7"
SKY, ROSE, BROWN, SLATE = "#8fc1f5", "#d9587e", "#a4703c", "#6b7486"
MINT, FOREST = "#7cc9ac", "#17614a"
METHODS = {
    "largest": (INK, "s"),
    "uniform": (ORANGE, "D"),
    "random": (GREY, "o"),
    "evolution": (BLUE, "^"),
    "slimmed": (GREEN, "*"),
    "searched": (GREEN, "*"),
}
"""The colour and the marker of each method, in the order in which they are drawn."""
COST_LABELS = {"params": "parameters", "macs": "multiply-accumulates"}
PART_COLORS = dict(zip(PARTS.values(), (YELLOW, ORANGE, BLUE, GREEN, SLATE), strict=True))
PALETTE = (GREEN, MINT, FOREST, BLUE, YELLOW, ORANGE, VIOLET, ROSE, BROWN, SKY, SLATE)
OPERATOR_COLORS = dict(zip(OPERATORS, PALETTE, strict=True))
BAND = 0.05
"""Errors up to this share lie within the grey band of a calibration."""
TICKS = tuple(digit * 10.0**power for power in range(-3, 4) for digit in (1, 1.5, 2, 3, 5, 7))


def draw_frontier(path: Path, result: SearchResult) -> None:
    """Draw what each method evaluated, its frontier, the walk, the final networks, the bounds."""
    measure, points = result.measure, result.points()
    with _picture(path, 8, 5) as figure:
        axes = figure.subplots()
        for method, (color, marker) in METHODS.items():
            found = [point for point in points if method in point.methods]
            if found:
                axes.scatter(
                    *_places(found, measure),
                    s=10, color=color, marker=marker, alpha=0.5, linewidth=0, zorder=2,
                )  # fmt: skip
                best = _places(frontier(found, measure), measure)
                axes.step(*best, where="post", color=color, linewidth=1.6, label=method, zorder=3)
        by_assignment = {point.assignment: point for point in points}
        steps = [by_assignment[one] for one in result.walk if one in by_assignment]
        walk = _places(steps, measure)
        axes.plot(*walk, color=GREEN, linewidth=1, linestyle=":", label="walk", zorder=3)
        for network in result.networks:
            color, marker = METHODS[network.name]
            axes.scatter(
                network.costs[measure], 100 * network.search_accuracy,
                s=150 if marker == "*" else 50, color=color, marker=marker, edgecolor="white",
                label="largest" if network.name == "largest" else None, zorder=5,
            )  # fmt: skip
        for target in result.targets:
            bound = target[measure]
            axes.axvline(bound, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                f"target {bound:g}", (bound, 0.02), xycoords=("data", "axes fraction"),
                xytext=(4, 0), textcoords="offset points", color=INK, fontsize=9,
            )  # fmt: skip
        latency = measure.replace("latency_ms", "predicted latency (ms)")
        axes.set(xlabel=COST_LABELS.get(measure, latency), ylabel="accuracy (%)")
        _title(axes, f"{result.space}: accuracy on the search slice", size=12)
        _plain(axes)
        axes.legend(frameon=False, loc="lower right")


def _places(points: Sequence[Point], measure: str) -> tuple[list[float], list[float]]:
    return [it.costs[measure] for it in points], [100 * it.accuracy for it in points]


def draw_calibration(path: Path, table: LatencyTable) -> None:
    """Draw predicted against measured latency of a validated table, and below it the errors.

    Warm latencies are on the left, cold ones on the right.
    """
    found, target = table.validation, table.target
    if found is None:
        raise ValueError(f"{path}: a table without validation has no picture")
    with _picture(path, 11, 7.5) as figure:
        figure.suptitle(
            f"{table.space} on {target.hardware}, {target.runtime}, {target.threads} thread(s)",
            x=0.01, ha="left", fontweight="bold", color=INK, fontsize=11,
        )  # fmt: skip
        panes = figure.subplots(2, len(STATES), sharex="col", height_ratios=(3, 1))
        for (above, below), state in zip(panes.T, STATES, strict=True):
            _draw_state(above, below, found, state)
        panes[0, 0].set_ylabel("predicted latency (ms)")
        panes[1, 0].set_ylabel("error (%)")
        panes[0, 0].legend(frameon=False, loc="lower right")
        errors = [limit for axes in panes[1] for limit in axes.get_ylim()]
        for axes in panes[1]:
            axes.set_ylim(min(errors), max(errors))


def _draw_state(above: Axes, below: Axes, found: Validation, state: State) -> None:
    """The points of one state, and below them their errors."""
    measured = [point.of(state).measured_ms for point in found.points]
    line = np.geomspace(min(measured) / 1.15, max(measured) * 1.15, 50)
    above.plot(line, line, color=INK, linewidth=1, zorder=2, label="equal")
    above.fill_between(
        line, (1 - BAND) * line, (1 + BAND) * line,
        color=GREY, alpha=0.35, linewidth=0, zorder=1, label=f"within {100 * BAND:g} %",
    )  # fmt: skip
    below.axhline(0, color=INK, linewidth=1, zorder=2)
    below.axhspan(-100 * BAND, 100 * BAND, color=GREY, alpha=0.35, linewidth=0, zorder=1)
    for is_held_out, color, marker, label in (
        (False, ORANGE, "D", "calibrate the table"),
        (True, BLUE, "o", "held out"),
    ):
        points = [point.of(state) for point in found.points if point.held_out is is_held_out]
        predicted = [point.predicted_ms for point in points]
        errors = [100 * (point.predicted_ms / point.measured_ms - 1) for point in points]
        for axes, heights in ((above, predicted), (below, errors)):
            axes.scatter(
                [point.measured_ms for point in points], heights, color=color, marker=marker,
                s=26, linewidth=0, zorder=3, label=label,
            )  # fmt: skip
    ends = line[[0, -1]]
    above.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    low, high = below.get_ylim()
    below.set_ylim(min(low, -150 * BAND), max(high, 150 * BAND))
    below.set_xlabel(f"measured latency, {state} (ms)")
    for axis in (above.xaxis, above.yaxis):
        axis.set_ticks([tick for tick in TICKS if line[0] <= tick <= line[-1]])
        axis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
        axis.set_minor_formatter(NullFormatter())
    _plain(above, below)
    held_out = found.of(state).calibrated
    _title(
        above,
        f"{state}: {held_out.networks} held-out networks, mean error {100 * held_out.mape:.1f} %,\n"
        f"{100 * held_out.within_5:.0f} % within 5 %, Spearman {held_out.spearman:.3f}",
    )


def draw_check(path: Path, check: Check, *, title: str) -> None:
    """Draw each network's two accuracies, larger networks larger; lines span the seeds."""
    compared = check.compared
    inherited = [100 * network.inherited for network in compared]
    alone = [100 * network.mean_alone for network in compared]
    most = max(network.macs for network in compared)
    every_seed = [100 * accuracy for network in compared for accuracy in network.alone]
    ends = [min(inherited + every_seed) - 1, max(inherited + every_seed) + 1]
    with _picture(path, 6, 6) as figure:
        axes = figure.subplots()
        axes.plot(ends, ends, color=INK, linewidth=1, zorder=2)
        axes.scatter(
            inherited, alone, s=[20 + 100 * network.macs / most for network in compared],
            color=BLUE, alpha=0.8, linewidth=0, zorder=4,
        )  # fmt: skip
        for network, x in zip(compared, inherited, strict=True):
            spread = [100 * min(network.alone), 100 * max(network.alone)]
            axes.plot([x, x], spread, color=BLUE, linewidth=1, zorder=3)
        axes.set(xlim=ends, ylim=ends, aspect="equal", xlabel="inherited accuracy (%)")
        axes.set_ylabel("accuracy of the network trained alone (%)")
        low, high = check.tau_interval
        _title(
            axes,
            f"{title}\nKendall tau {check.tau:.2f} ({low:.2f} to {high:.2f}), "
            f"mean gap {100 * check.gap:+.1f} points",
        )
        _plain(axes)


def draw_profiles(path: Path, profiles: Sequence[Profile], target: Target) -> None:
    """Draw a stacked bar for each network, by kind of layer and by class of operator."""
    operators = [profile.operators for profile in profiles if profile.operators is not None]
    panels = 2 if operators else 1
    with _picture(path, 8, panels * (1.1 + 0.45 * len(profiles)) + 0.7) as figure:
        figure.suptitle(
            f"{target.hardware}, {target.runtime} {target.runtime_version}, "
            f"{target.threads} thread{'s' if target.threads > 1 else ''}, batch {target.batch}",
            x=0.01, ha="left", fontweight="bold", color=INK, fontsize=11,
        )  # fmt: skip
        panes = figure.subplots(panels, 1, squeeze=False)[:, 0]
        parts = [profile.parts for profile in profiles]
        _draw_bars(panes[0], "layers", profiles, parts, PART_COLORS)
        for place, profile in enumerate(profiles):
            panes[0].plot([profile.whole.warm.ms] * 2, [place - 0.36, place + 0.36], color=INK)
        if operators:
            _draw_bars(panes[1], "operators", profiles, operators, OPERATOR_COLORS)
        panes[-1].set_xlabel("latency, warm (ms); the line marks the whole network as measured")
        limit = max(axes.get_xlim()[1] for axes in panes)
        for axes in panes:
            axes.set_xlim(0, limit)


def _draw_bars(
    axes: Axes, title: str, profiles: Sequence[Profile], classes: Classes, colors: Mapping[str, str]
) -> None:
    places = range(len(profiles))
    axes.set_title(title, loc="left", color=INK)
    left = [0.0] * len(profiles)
    for name in class_names(classes):
        widths = [times.get(name, 0.0) for times in classes]
        axes.barh(
            places, widths, 0.6, left, color=colors.get(name, GREY), label=name,
            edgecolor="white", linewidth=0.6, zorder=2,
        )  # fmt: skip
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(places, [profile.name for profile in profiles])
    axes.invert_yaxis()
    _plain(axes, grid="x")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5)


@contextmanager
def _picture(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches, written to ``path`` as a PNG at the end of the block."""
    with mpl.rc_context({"font.size": 10, "axes.edgecolor": INK, "axes.labelcolor": INK}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
    write_atomically(path, buffer.getvalue())


def _plain(*panes: Axes, grid: Literal["both", "x"] = "both") -> None:
    """A pale grid, and no line above or to the right."""
    for axes in panes:
        axes.grid(axis=grid, color=PALE, zorder=0)
        axes.spines[["top", "right"]].set_visible(False)


def _title(axes: Axes, text: str, size: float = 10) -> None:
    axes.set_title(text, loc="left", fontsize=size, fontweight="bold", color=INK)
