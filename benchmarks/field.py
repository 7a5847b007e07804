"""All published networks through one runtime on this machine, beside their published accuracy.

    .venv/bin/python benchmarks/field.py
    .venv/bin/python benchmarks/field.py --networks efficientvit_m0 pvt_v2_b0 --in-timm --visits 8

Our networks, and what a user would pick from timm instead (--in-timm, by timm's names): its own
definitions, branches folded (the runtime folds norms), at the size of their training. All are timed
in turns in one run, in float32 and (--int8) in int8 as well. Writes field.csv and field.png into
--out: parameters, MACs, latency with its 95 % interval, its ratio to that of EfficientFormer V2 S0,
Mobile Efficiency Score, and ImageNet top-1 accuracy with its source, of published_accuracies.csv.
Figures of accuracy are the authors'; recipes differ between families, in teachers above all.
Latencies need an idle machine.
"""

from __future__ import annotations

import os

from nas.machine import OPENMP

os.environ.update(OPENMP | os.environ)  # as the command line does

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pandas as pd
import torch
from families import import_timm
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nas.architecture import Architecture
from nas.deploy.export import export_folded
from nas.latency.estimator import Measurement
from nas.latency.graphs import LayerGraphs
from nas.latency.measure import Patience, Session
from nas.latency.runtimes import RUNTIMES
from nas.latency.target import Target, detect_target, in_precision
from nas.network import Size, measure_size
from nas.report.terminal import ProgressBar, count, print_table
from nas.search import mobile_efficiency_score
from nas.space import built_in_architectures

ACCURACIES = Path(__file__).parent / "published_accuracies.csv"

OTHERS = "#9aa5b1"
"""The colour of families that are not ours."""

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
    "lcnet": ("LCNet", OTHERS),
    "hardcorenas": ("HardCoRe-NAS", OTHERS),
    "efficientnet_b": ("EfficientNet", OTHERS),
    "ghostnet": ("GhostNet", OTHERS),
    "edgenext": ("EdgeNeXt", OTHERS),
    "mobileone": ("MobileOne", OTHERS),
    "repvit": ("RepViT", OTHERS),
    "fastvit": ("FastViT", OTHERS),
    "efficientvit_b": ("EfficientViT-B", OTHERS),
    "starnet": ("StarNet", OTHERS),
    "shvit": ("SHViT", OTHERS),
    "hgnetv2": ("HGNetV2", OTHERS),
    "cpubone": ("CPUBone", OTHERS),
}
"""Each family's title and colour, by how the names of its networks begin; the longest counts."""

IN_TIMM = (
    *("lcnet_050", "lcnet_075", "lcnet_100", "hardcorenas_a", "hardcorenas_c", "hardcorenas_f"),
    *("efficientnet_b0", "ghostnet_100", "ghostnetv3_100", "edgenext_xx_small", "edgenext_x_small"),
    *("edgenext_small", "mobileone_s0", "mobileone_s1", "mobileone_s2", "mobileone_s3"),
    *("mobileone_s4", "repvit_m0_9", "repvit_m1_0", "repvit_m1_1", "repvit_m1_5", "fastvit_t8"),
    *("fastvit_t12", "fastvit_s12", "fastvit_sa12", "efficientvit_b1", "efficientvit_b2"),
    *("starnet_s1", "starnet_s2", "starnet_s3", "starnet_s4", "shvit_s1", "shvit_s2", "shvit_s3"),
    *("shvit_s4", "hgnetv2_b0", "hgnetv2_b1", "hgnetv2_b2", "hgnetv2_b3", "cpubone_nano"),
    *("cpubone_b0_bfrobust", "cpubone_b1_bfrobust", "cpubone_b2_bfrobust", "cpubone_b3"),
)
"""Networks that a user may pick instead, by their names in timm."""

REFERENCE = "efficientformer_v2_s0"

APART = 1.12
"""Times as slow must a family's next network be for a label to fit between the two."""

COLUMNS = (
    *("network", "family", "input_size", "params", "macs", "ms", "ms_low", "ms_high"),
    *("ratio", "int8_ms", "mes", "top1", "source"),
)


class Candidate(NamedTuple):
    """A network of the field: what makes its graph, its size, and that of its images."""

    name: str
    model: Callable[[], onnx.ModelProto]
    size: Size
    input_size: int


def main() -> None:
    """Measure, write the table and the picture, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = list(built_in_architectures())
    parser.add_argument("--networks", nargs="*", choices=names, default=names, metavar="NAME")
    parser.add_argument("--in-timm", nargs="*", default=IN_TIMM, metavar="NAME")
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--runtime", choices=sorted(RUNTIMES), default="onnxruntime")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--visits", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_field"))
    arguments = parser.parse_args()
    target = detect_target(runtime=arguments.runtime, threads=arguments.threads)
    graphs = LayerGraphs()
    candidates = [ours(name, graphs) for name in arguments.networks]
    candidates += in_timm(arguments.in_timm)
    models = {it.name: it.model for it in candidates}
    if arguments.int8:
        rounded = target.model_copy(update={"precision": "int8"})
        models |= {f"{it.name} int8": partial(quantized, it.model, rounded) for it in candidates}
    patience = Patience(least=arguments.visits, most=arguments.visits)
    with ProgressBar("measuring") as bar:
        rng = np.random.default_rng(arguments.seed)
        session = Session(target, models, rng, patience=patience, progress=bar)
        found = {name: it.warm for name, it in session.measure().latencies.items()}
    table = field(candidates, found)
    arguments.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.out / "field.csv", index=False, float_format="%.6g")
    draw(arguments.out / "field.png", table, target)
    show(table, title_of(target))


def ours(name: str, graphs: LayerGraphs) -> Candidate:
    """A built-in network."""
    network = Architecture.load(name)
    return Candidate(
        name, partial(graphs.network, network), measure_size(network), network.input_size
    )


def in_timm(names: Sequence[str]) -> Iterator[Candidate]:
    """Networks by timm's definitions, which are not trained."""
    if not names:
        return
    timm = import_timm()
    known = timm.list_models()
    for name in names:
        if name not in known:
            print(f"{name}: timm {timm.__version__} does not have it")
            continue
        network = timm.create_model(name, pretrained=False)
        shape = network.default_cfg["input_size"]
        network = timm.utils.model.reparameterize_model(network.eval())
        macs, params = count_macs(network, shape), sum(it.numel() for it in network.parameters())
        model = export_folded(network, shape)
        yield Candidate(name, partial(copy_of, model), Size(params=params, macs=macs), shape[-1])


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself: a session only reads it."""
    return model


def quantized(make: Callable[[], onnx.ModelProto], target: Target) -> onnx.ModelProto:
    """The network in int8 as the target's runtime expects it."""
    return in_precision(make(), target)


def count_macs(network: nn.Module, shape: Sequence[int]) -> int:
    """Multiplications of convolutions, linear layers and matrix products, of one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *shape))
    return int(counter.get_total_flops() // 2)


def field(candidates: Sequence[Candidate], found: Mapping[str, Measurement]) -> pd.DataFrame:
    """One row a network, the fastest first."""
    published = pd.read_csv(ACCURACIES).set_index("network")
    reference = found[REFERENCE].ms if REFERENCE in found else np.nan
    rows = []
    for it in candidates:
        known = published.loc[it.name] if it.name in published.index else {}
        measured, rounded = found[it.name], found.get(f"{it.name} int8")
        rows.append(
            {
                "network": it.name,
                "family": family_of(it.name),
                "input_size": it.input_size,
                **it.size._asdict(),
                **{key: getattr(measured, key) for key in ("ms", "ms_low", "ms_high")},
                "ratio": measured.ms / reference,
                "int8_ms": rounded.ms if rounded else np.nan,
                "mes": mobile_efficiency_score(
                    {"params": it.size.params, "latency_ms": measured.ms}
                ),
                "top1": known.get("top1", np.nan),
                "source": known.get("source", ""),
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS)).sort_values("ms", ignore_index=True)


def family_of(name: str) -> str:
    """The family that a network is of."""
    return max((family for family in FAMILIES if name.startswith(family)), key=len)


def title_of(target: Target) -> str:
    """What was measured on."""
    runtime = f"{target.runtime} {target.runtime_version}"
    return f"{target.hardware}, {runtime}, {target.threads} thread(s), batch {target.batch}"


def show(table: pd.DataFrame, title: str) -> None:
    """The table on the terminal."""
    columns = ("network", "pixels", "parameters", "MACs", "ms", "95 % interval", "ratio")
    columns += ("int8 ms", "MES", "top-1")
    lines = [
        (
            *(row.network, str(row.input_size), count(row.params), count(row.macs)),
            *(f"{row.ms:.2f}", f"{row.ms_low:.2f} to {row.ms_high:.2f}", f"{row.ratio:.2f}"),
            f"{row.int8_ms:.2f}" if pd.notna(row.int8_ms) else "",
            f"{row.mes:.1f}",
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
    draw_others(axes, known)
    for family, (title, color) in FAMILIES.items():
        rows = known[known.family == family].sort_values("ms")
        if rows.empty or color == OTHERS:
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


def draw_others(axes: Axes, known: pd.DataFrame) -> None:
    """Points of the families that are not ours; named where no faster network is as accurate."""
    of_others = [family for family, (_, color) in FAMILIES.items() if color == OTHERS]
    rows = known[known.family.isin(of_others)]
    if rows.empty:
        return
    axes.plot(rows.ms, rows.top1, "o", color=OTHERS, markersize=4.5, label="others, by timm")
    for row in rows.itertuples():
        if known[known.ms < row.ms].top1.max() < row.top1:
            axes.annotate(
                row.network.replace("_", " "), (row.ms, row.top1), textcoords="offset points",
                xytext=(-4, 4), ha="right", fontsize=6.5, color="#6b7280", zorder=4,
            )  # fmt: skip


def label_of(size: str) -> str:
    """``B2 LI`` for ``b2_linear``, as others call it; ``0.75`` for a width of ``075``."""
    if len(size) == 3 and size.isdigit() and int(size) % 25 == 0:
        return f"{int(size) / 100:g}"
    short = size.replace("_linear", "_li").replace("_conv_", " ").removesuffix("_100")
    return short.replace("_", " ").upper()


if __name__ == "__main__":
    main()
