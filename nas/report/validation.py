"""How far a latency table can be trusted, for the terminal."""

from __future__ import annotations

from pathlib import Path

from nas.latency.networks import Drift
from nas.latency.table import LatencyTable
from nas.report.tables import print_table
from nas.statistics import Interval


def print_validation(table: LatencyTable) -> None:
    """Errors on whole networks that had no part in the calibration, and those of MACs alone."""
    found = table.validation
    title = (
        f"{len(table.rows)} layers on {table.target.hardware}, {table.target.runtime} "
        f"{table.target.runtime_version}, {table.target.threads} thread(s)"
    )
    if found is None:
        print_table((title,), [("not validated",)])
        return
    modelled = sum(group.modelled for group in table.provenance.modelled)
    if modelled:
        title += f"; {modelled} of the layers modelled"
    print_table(
        ("prediction", "mean error", "bias", "largest", "within 5 %", "Spearman", "Kendall"),
        [
            (
                name,
                f"{100 * row.mape:.1f} %",
                f"{100 * row.bias:+.1f} %",
                f"{100 * row.max_error:.1f} %",
                f"{100 * row.within_5:.0f} %",
                _correlation(row.spearman, row.spearman_interval),
                _correlation(row.kendall, row.kendall_interval),
            )
            for name, row in (
                ("table", found.calibrated),
                ("table, uncalibrated", found.raw),
                ("MACs alone", found.macs),
            )
        ],
        title=title,
    )
    print(
        f"on {found.calibrated.networks} held-out networks of {found.least_ms:.2f} to "
        f"{found.most_ms:.2f} ms; measuring one twice differs by {100 * found.noise_floor:.1f} %"
    )


def print_drift(drift: Drift, path: Path) -> None:
    """What was predicted and what is measured now, and what that means for the table."""
    print_table(
        ("networks", "shift", "mean error", "after shifting", "Spearman", "Kendall"),
        [
            (
                str(drift.networks),
                f"{100 * drift.shift:+.1f} %",
                f"{100 * drift.mape_before:.1f} %",
                f"{100 * drift.mape_after:.1f} %",
                f"{drift.spearman:.3f}",
                f"{drift.kendall:.3f}",
            )
        ],
        title=f"{path}: whole networks measured again",
    )


def _correlation(value: float, interval: Interval | None) -> str:
    """``0.998 (0.991 to 0.999)``."""
    text = f"{value:.3f}"
    return text if interval is None else f"{text} ({interval[0]:.3f} to {interval[1]:.3f})"
