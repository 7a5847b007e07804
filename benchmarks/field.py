"""All published networks through one runtime on this machine, beside their published accuracy.

    .venv/bin/python benchmarks/field.py
    .venv/bin/python benchmarks/field.py --networks efficientvit_m0 pvt_v2_b0 --visits 8

Writes field.csv and field.png into --out: parameters, MACs, latency with its 95 % interval, Mobile
Efficiency Score, and ImageNet top-1 accuracy with its source, of published_accuracies.csv. Figures
of accuracy are the authors'; recipes differ between families, in teachers above all. Latencies need
an idle machine.
"""

from __future__ import annotations

import os

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # as the command line does; see nas/cli/__init__.py

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from nas.architecture import Architecture
from nas.latency.estimator import Measurement
from nas.latency.graphs import LayerGraphs
from nas.latency.measure import Patience, Session
from nas.latency.runtimes import RUNTIMES
from nas.latency.target import Target, detect_target
from nas.network import measure_size
from nas.report.terminal import ProgressBar, count, print_table
from nas.search import mobile_efficiency_score
from nas.space import built_in_architectures

ACCURACIES = Path(__file__).parent / "published_accuracies.csv"

FAMILIES = {
    "efficientformer_v1": ("EfficientFormer V1", "#7a5195"),
    "efficientformer_v2": ("EfficientFormer V2", "#2f6fde"),
    "efficientvit": ("EfficientViT", "#2a9d6f"),
    "pvt_v2": ("PVT v2", "#1f2430"),
    "levit": ("LeViT", "#6b8e23"),
    "mobilenet": ("MobileNet", "#00838f"),
    "efficientnet_lite": ("EfficientNet-Lite", "#8d6e63"),
    "mobilevit_v1": ("MobileViT v1", "#e9b44c"),
    "mobilevit_v2": ("MobileViT v2", "#e8762c"),
    "mobilevit_v3": ("MobileViT v3", "#c8384f"),
}
"""Each family's title and colour, by how the names of its networks begin."""

APART = 1.12
"""Times as slow must a family's next network be for a label to fit between the two."""

COLUMNS = (
    *("network", "family", "input_size", "params", "macs", "ms", "ms_low", "ms_high"),
    *("mes", "top1", "source"),
)


def main() -> None:
    """Measure, write the table and the picture, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = list(built_in_architectures())
    parser.add_argument("--networks", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--runtime", choices=sorted(RUNTIMES), default="onnxruntime")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--visits", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_field"))
    arguments = parser.parse_args()
    target = detect_target(runtime=arguments.runtime, threads=arguments.threads)
    networks = [Architecture.load(name) for name in arguments.networks]
    graphs = LayerGraphs()
    models = {network.name: partial(graphs.network, network) for network in networks}
    patience = Patience(least=arguments.visits, most=arguments.visits)
    with ProgressBar("measuring") as bar:
        rng = np.random.default_rng(arguments.seed)
        session = Session(target, models, rng, patience=patience, progress=bar)
        found = session.measure().latencies
    table = field(networks, [found[network.name].warm for network in networks])
    arguments.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.out / "field.csv", index=False, float_format="%.6g")
    draw(arguments.out / "field.png", table, target)
    show(table, title_of(target))


def field(networks: Sequence[Architecture], found: Sequence[Measurement]) -> pd.DataFrame:
    """One row a network, the fastest first."""
    published = pd.read_csv(ACCURACIES).set_index("network")
    rows = []
    for architecture, measured in zip(networks, found, strict=True):
        size, name = measure_size(architecture), architecture.name
        known = published.loc[name] if name in published.index else {}
        rows.append(
            {
                "network": name,
                "family": family_of(name),
                "input_size": architecture.input_size,
                **size._asdict(),
                **{key: getattr(measured, key) for key in ("ms", "ms_low", "ms_high")},
                "mes": mobile_efficiency_score({"params": size.params, "latency_ms": measured.ms}),
                "top1": known.get("top1", np.nan),
                "source": known.get("source", ""),
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS)).sort_values("ms", ignore_index=True)


def family_of(name: str) -> str:
    """The family that a network is of."""
    return next(family for family in FAMILIES if name.startswith(family))


def title_of(target: Target) -> str:
    """What was measured on."""
    runtime = f"{target.runtime} {target.runtime_version}"
    return f"{target.hardware}, {runtime}, {target.threads} thread(s), batch {target.batch}"


def show(table: pd.DataFrame, title: str) -> None:
    """The table on the terminal."""
    columns = ("network", "pixels", "parameters", "MACs", "ms", "95 % interval", "MES", "top-1")
    lines = [
        (
            *(row.network, str(row.input_size), count(row.params), count(row.macs)),
            *(f"{row.ms:.2f}", f"{row.ms_low:.2f} to {row.ms_high:.2f}", f"{row.mes:.1f}"),
            f"{row.top1:.1f} %" if pd.notna(row.top1) else "",
        )
        for row in table.itertuples()
    ]
    print_table(columns, lines, title=title)


def draw(path: Path, table: pd.DataFrame, target: Target) -> None:
    """A PNG of accuracy against latency: one line and colour a family, sizes beside the points."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    known = table.dropna(subset=["top1"])
    for family, (title, color) in FAMILIES.items():
        rows = known[known.family == family].sort_values("ms")
        if rows.empty:
            continue
        axes.plot(rows.ms, rows.top1, color=color, linewidth=1.4, alpha=0.55, zorder=2)
        axes.errorbar(
            rows.ms, rows.top1, xerr=(rows.ms - rows.ms_low, rows.ms_high - rows.ms),
            fmt="o", color=color, markersize=7, markeredgecolor="white", elinewidth=1,
            label=title, zorder=3,
        )  # fmt: skip
        slower = [*rows.ms[1:], np.inf]
        for row, next_ms in zip(rows.itertuples(), slower, strict=True):
            apart = next_ms > APART * row.ms
            axes.annotate(
                label_of(row.network.removeprefix(f"{family}_")),
                (row.ms, row.top1), textcoords="offset points", color=color, fontsize=7.5, zorder=4,
                xytext=(5, -9) if apart else (-5, 4), ha="left" if apart else "right",
            )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.tick_params(which="both", labelsize=8, color="#b9bfca", length=3, pad=4)
    axes.set_xlabel("measured latency (ms, logarithmic)")
    axes.set_ylabel("published ImageNet top-1 accuracy (%)")
    axes.set_title("Published networks on one device", loc="left", fontweight="bold")
    axes.set_title(title_of(target), loc="right", fontsize=8, color="#6b7280")
    axes.grid(color="#eceef2", which="both", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=140)


def label_of(size: str) -> str:
    """``B2 LI`` for ``b2_linear``, as others call it; ``0.75`` for a width of ``075``."""
    if size.isdigit():
        return f"{int(size) / 100:g}"
    return size.replace("_linear", "_li").replace("_", " ").upper()


if __name__ == "__main__":
    main()
