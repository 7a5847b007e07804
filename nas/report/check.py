"""Inherited accuracies against those of networks trained alone, as a table and as a picture."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from nas.documents import write_atomically
from nas.report.frontier import BLUE, INK
from nas.report.tables import count, print_table, share
from nas.training.check import Check


def print_check(check: Check) -> None:
    """One architecture a line, smallest first, and the correlation."""
    print_table(
        ("network", "parameters", "MACs", "inherited", "alone", "gap"),
        [
            (
                str(number),
                count(one.params),
                count(one.macs),
                share(one.inherited),
                " ".join(share(it) for it in one.alone),
                f"{100 * (one.inherited - one.mean_alone):+.1f}",
            )
            for number, one in enumerate(check.compared, start=1)
        ],
        title=f"accuracy on {check.images} images of the search slice",
    )
    print(summary(check))


def summary(check: Check) -> str:
    """Correlation and gap, in a sentence."""
    low, high = check.tau_interval
    seeds = ""
    if check.tau_between_seeds is not None:
        seeds = f"; {check.tau_between_seeds:.2f} between the seeds"
    return (
        f"Kendall tau {check.tau:.2f} (95 %: {low:.2f} to {high:.2f}) between inherited and "
        f"stand-alone accuracy{seeds}; mean gap {100 * check.gap:+.1f} points"
    )


def write_check(path: Path, check: Check) -> None:
    """One architecture a line as CSV, smallest first."""
    rows = [
        {
            "params": one.params,
            "macs": one.macs,
            "inherited": one.inherited,
            "alone": one.mean_alone,
            **{f"alone_{seed}": it for seed, it in enumerate(one.alone)},
        }
        for one in check.compared
    ]
    write_atomically(path, pd.DataFrame(rows).to_csv(index=False))


def draw_check(path: Path, check: Check, *, title: str) -> None:
    """A PNG: each network's two accuracies, larger networks larger, and where they are equal.

    Lines span the seeds.
    """
    inherited = [100 * one.inherited for one in check.compared]
    alone = [100 * one.mean_alone for one in check.compared]
    most = max(one.macs for one in check.compared)
    shown = [*inherited, *(100 * it for one in check.compared for it in one.alone)]
    ends = [min(shown) - 1, max(shown) + 1]
    with mpl.rc_context({"font.size": 10, "axes.edgecolor": INK, "axes.labelcolor": INK}):
        figure = Figure(figsize=(6, 6), layout="constrained")
        axes = figure.subplots()
        axes.plot(ends, ends, color=INK, linewidth=1, zorder=2)
        axes.scatter(
            inherited, alone, s=[20 + 100 * one.macs / most for one in check.compared],
            color=BLUE, alpha=0.8, linewidth=0, zorder=4,
        )  # fmt: skip
        for one, x in zip(check.compared, inherited, strict=True):
            spread = [100 * min(one.alone), 100 * max(one.alone)]
            axes.plot([x, x], spread, color=BLUE, linewidth=1, zorder=3)
        axes.set(xlim=ends, ylim=ends, aspect="equal")
        axes.set_xlabel("inherited accuracy (%)")
        axes.set_ylabel("accuracy of the network trained alone (%)")
        low, high = check.tau_interval
        axes.set_title(
            f"{title}\nKendall tau {check.tau:.2f} ({low:.2f} to {high:.2f}), "
            f"mean gap {100 * check.gap:+.1f} points",
            loc="left", fontsize=10, fontweight="bold", color=INK,
        )  # fmt: skip
        axes.grid(color="#eceef2", zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
    write_atomically(path, buffer.getvalue())
