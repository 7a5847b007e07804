"""Whole networks, predicted against measured, as a picture."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from nas.documents import write_atomically
from nas.latency.table import LatencyTable
from nas.report.frontier import BLUE, GREY, INK, ORANGE

BAND = 0.05
TICKS = tuple(digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5))


def draw_calibration(path: Path, table: LatencyTable) -> None:
    """A PNG of all networks of the validation: the identity, a band of 5 %, the errors below.

    Both latencies are on logarithmic axes, so that an error is the same distance everywhere.
    """
    found = table.validation
    if found is None:
        raise ValueError(f"{path}: a table without validation has no picture")
    ends = [min(it.measured_ms for it in found.points), max(it.measured_ms for it in found.points)]
    line = np.geomspace(ends[0] / 1.15, ends[1] * 1.15, 50)
    with mpl.rc_context({"font.size": 10, "axes.edgecolor": INK, "axes.labelcolor": INK}):
        figure = Figure(figsize=(7, 7.5), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.plot(line, line, color=INK, linewidth=1, zorder=2, label="equal")
        above.fill_between(
            line, (1 - BAND) * line, (1 + BAND) * line,
            color=GREY, alpha=0.35, linewidth=0, zorder=1, label=f"within {100 * BAND:g} %",
        )  # fmt: skip
        below.axhline(0, color=INK, linewidth=1, zorder=2)
        below.axhspan(-100 * BAND, 100 * BAND, color=GREY, alpha=0.35, linewidth=0, zorder=1)
        for held_out, color, marker, label in (
            (False, ORANGE, "D", "calibrate the table"),
            (True, BLUE, "o", "held out"),
        ):
            points = [it for it in found.points if it.held_out is held_out]
            measured = [it.measured_ms for it in points]
            predicted = [it.predicted_ms for it in points]
            errors = [100 * (it.predicted_ms / it.measured_ms - 1) for it in points]
            for axes, heights in ((above, predicted), (below, errors)):
                axes.scatter(
                    measured, heights, color=color, marker=marker, s=26, linewidth=0, zorder=3,
                    label=label,
                )  # fmt: skip
        above.set(xscale="log", yscale="log", xlim=line[[0, -1]], ylim=line[[0, -1]])
        above.set_ylabel("predicted latency (ms)")
        low, high = below.get_ylim()
        below.set_ylim(min(low, -150 * BAND), max(high, 150 * BAND))
        below.set_xlabel("measured latency (ms)")
        below.set_ylabel("error (%)")
        for axis in (above.xaxis, above.yaxis):
            axis.set_ticks([tick for tick in TICKS if line[0] <= tick <= line[-1]])
            axis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
            axis.set_minor_formatter(NullFormatter())
        for axes in (above, below):
            axes.grid(color="#eceef2", zorder=0)
            axes.spines[["top", "right"]].set_visible(False)
        above.set_title(_title(table), loc="left", fontsize=10, fontweight="bold", color=INK)
        above.legend(frameon=False, loc="lower right")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
    write_atomically(path, buffer.getvalue())


def _title(table: LatencyTable) -> str:
    assert table.validation is not None
    found = table.validation.calibrated
    return (
        f"{table.space} on {table.target.hardware}, {table.target.runtime}, "
        f"{table.target.threads} thread(s)\n{found.networks} held-out networks: mean error "
        f"{100 * found.mape:.1f} %, {100 * found.within_5:.0f} % within 5 %, "
        f"Spearman {found.spearman:.3f}"
    )
