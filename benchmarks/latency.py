"""Every figure that a latency table is judged by, in one run.

    .venv/bin/python benchmarks/latency.py                       # about 10 minutes on two x86 cores
    .venv/bin/python benchmarks/latency.py --spaces mobile_64px --parts full quick

For each space: a full and a quick build with their times, a second build that predicts networks
measured with the first after it is re-anchored on eight of them, and two threads. For the
default space a table of OpenVINO, where that is installed. Then the published EfficientFormer V2
S0, S1 and S2 at 224 px, predicted, measured, and exported from timm (which the development
dependencies bring); quick tables of theirs that are in --out are used again.
Times and the two-thread table need an idle machine.
"""

from __future__ import annotations

import os

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # as the command line does; see nas/cli/__init__.py

import argparse
import importlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch

from nas.architecture import Architecture
from nas.deploy.export import export_folded, to_onnx
from nas.deploy.timm import load_timm_state_dict
from nas.errors import UserError
from nas.latency.build import BuildSettings, build_table
from nas.latency.calibration import Calibration, RowSums, reanchor
from nas.latency.measure import PATIENT, Measurement, measure
from nas.latency.networks import Runner, network_sums, pick_networks
from nas.latency.runtimes.onnxruntime import OnnxRuntime
from nas.latency.table import LatencyTable
from nas.latency.target import detect_target
from nas.network import build
from nas.report.pictures import draw_calibration
from nas.report.terminal import ProgressBar, print_table
from nas.space import DEFAULT_SPACE, SearchSpace

PARTS = ("full", "quick", "second", "threads", "openvino", "published")
PUBLISHED = ("s0", "s1", "s2")
ANCHORS, CHECKED = 8, 24


class Line(NamedTuple):
    """One figure of the final table; ``good`` is None where nothing was promised."""

    subject: str
    figure: str
    value: str
    bound: str = ""
    good: bool | None = None


def main() -> None:
    """Run the parts that were asked for, and print all their figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    spaces = [DEFAULT_SPACE, "efficientformer_v2_s0_224px"]
    parser.add_argument("--spaces", nargs="+", default=spaces)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_latency"))
    arguments = parser.parse_args()
    load = os.getloadavg()
    lines: list[Line] = []
    for name in arguments.spaces:
        lines += of_space(SearchSpace.load(name), arguments.out, arguments.parts)
    if "published" in arguments.parts:
        lines += of_published(arguments.out)
    print_table(
        ("subject", "figure", "value", "bound", ""),
        [(*line[:4], {True: "met", False: "MISSED", None: ""}[line.good]) for line in lines],
        title=f"{detect_target().cpu_model}; load at the start {load[0]:.1f}, "
        f"at the end {os.getloadavg()[0]:.1f}",
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    figures = json.dumps([line._asdict() for line in lines], indent=2)
    (arguments.out / "figures.json").write_text(figures + "\n")


def of_space(space: SearchSpace, out: Path, parts: list[str]) -> Iterator[Line]:
    """The figures of one space."""
    if "full" in parts or "second" in parts:
        first, seconds = table_of(space, out / f"{space.name}.csv")
        if "full" in parts:
            yield from of_table(f"{space.name}, full", first, seconds)
    if "second" in parts:
        yield from of_second_build(space, first, out)
    if "quick" in parts:
        quick, seconds = table_of(space, out / f"{space.name}_quick.csv", quick=True)
        yield from of_table(f"{space.name}, quick", quick, seconds)
    if "threads" in parts:
        two, seconds = table_of(space, out / f"{space.name}_2.csv", threads=2)
        subject = f"{space.name}, two threads"
        yield bounded(subject, "mean error", two.validation.calibrated.mape, 0.05, percent)
        yield Line(subject, "time", f"{seconds:.0f} s")
    if "openvino" in parts and space.name == DEFAULT_SPACE:
        yield from of_openvino(space, out)


def of_openvino(space: SearchSpace, out: Path) -> Iterator[Line]:
    """The error of a float32 table on the second runtime, or that it is not installed."""
    subject = f"{space.name}, OpenVINO"
    try:
        table, seconds = table_of(space, out / f"{space.name}_openvino.csv", runtime="openvino")
    except UserError as error:
        yield Line(subject, str(error), "")
        return
    yield bounded(subject, "mean error", table.validation.calibrated.mape, 0.04, percent)
    yield Line(subject, "time", f"{seconds:.0f} s")


def of_table(subject: str, table: LatencyTable, seconds: float) -> Iterator[Line]:
    """How well and how fast a table was built; of a quick one only time and error are bounded."""
    found = table.validation
    figures, span = found.calibrated, found.most_ms / found.least_ms
    modelled = sum(group.modelled for group in table.provenance.modelled)
    rows = f"{len(table.rows)} rows, {modelled} modelled"
    networks = f"{figures.networks} networks, a factor of {span:.1f}"
    ratio = figures.mape / found.macs.mape
    most_seconds, most_mape = (25, 0.03) if modelled else (90, 0.02)
    yield bounded(subject, f"time, {rows}", seconds, most_seconds, in_seconds)
    yield bounded(subject, f"mean error, {networks}", figures.mape, most_mape, percent)
    for line in (
        bounded(subject, "Spearman", figures.spearman, 0.99, correlation, least=True),
        bounded(subject, "Kendall", figures.kendall, 0.95, correlation, least=True),
        bounded(subject, "within 5 %", figures.within_5, 0.95, percent, least=True),
        bounded(subject, "error over that of MACs", ratio, 1 / 3, percent),
    ):
        yield line._replace(bound="", good=None) if modelled else line
    yield Line(subject, "noise floor", percent(found.noise_floor))


def of_second_build(space: SearchSpace, first: LatencyTable, out: Path) -> Iterator[Line]:
    """The error of another build on networks measured with the first, one factor fitted anew."""
    rng = np.random.default_rng(7)
    networks = pick_networks(space, first.rows, rng, ANCHORS + CHECKED)
    with ProgressBar("measuring networks") as bar:
        found = Runner(first.target, rng, progress=bar).measure_networks(networks, passes=3)
    second, _ = table_of(space, out / f"{space.name}_second.csv", seed=1)
    sums = [network_sums(second.rows, network) for network in networks]
    measured = [one.ms for one in found]
    anchors = np.linspace(0, len(networks) - 1, 2 * ANCHORS + 1)[1::2].round().astype(int).tolist()
    updated = reanchor(
        second.calibration,
        [sums[index] for index in anchors],
        [measured[index] for index in anchors],
    )
    others = [index for index in range(len(networks)) if index not in anchors]
    checked = [sums[index] for index in others], [measured[index] for index in others]
    subject = f"{space.name}, second build"
    yield Line(subject, "mean error as it is", percent(error_of(second.calibration, *checked)))
    after = error_of(updated, *checked)
    yield bounded(subject, "mean error re-anchored", after, 0.025, percent)


def error_of(calibration: Calibration, sums: Sequence[RowSums], measured: Sequence[float]) -> float:
    """The mean relative error on networks."""
    predicted = np.array([calibration.latency(size.ms, size.params) for size in sums])
    return float(np.abs(predicted / np.asarray(measured) - 1).mean())


def of_published(out: Path) -> Iterator[Line]:
    """Published networks: predicted, measured, and timm's export of the same weights."""
    timm, target = import_timm(), detect_target()
    names = [f"efficientformer_v2_{size}" for size in PUBLISHED]
    models, predicted = [], []
    for name in names:
        architecture = Architecture.load(name)
        theirs = timm.create_model(name.replace("_v2", "v2"), pretrained=False).eval()
        ours = build(architecture).eval()
        load_timm_state_dict(ours, architecture, theirs.state_dict())
        models.append(to_onnx(ours, architecture.input_shape))
        models.append(export_folded(theirs, architecture.input_shape))
        space = SearchSpace.load(f"{name}_224px")
        table, _ = table_of(space, out / f"{space.name}_quick.csv", quick=True, again=False)
        predicted.append(table.predict(architecture))
    runtime = OnnxRuntime(target.provider, target.threads)
    left = [runtime.operators(model)["BatchNormalization"] for model in models]
    found = measure(models, target, rng=np.random.default_rng(0), plan=PATIENT)
    ratios = []
    for index, name in enumerate(names):
        ours, theirs = found[2 * index : 2 * index + 2]
        error = predicted[index] / ours.ms - 1
        ratios.append((ours.ms / theirs.ms, noise(ours, theirs)))
        yield Line(name, "ours, measured", f"{ours.ms:.2f} ms")
        yield Line(
            name, "ours, predicted (quick table)", f"{predicted[index]:.2f} ms ({error:+.1%})"
        )
        norms = f", {left[2 * index + 1]} norms left" if left[2 * index + 1] else ""
        yield Line(name, "timm's, measured", f"{theirs.ms:.2f} ms{norms}")
    ratio, noisy = sorted(ratios)[len(ratios) // 2]
    yield bounded("published", "ours over timm's, median", ratio, 1 + noisy, correlation)


def noise(one: Measurement, other: Measurement) -> float:
    """Half the 95 % interval of the ratio of two latencies, as a share."""
    halves = [(it.ms_high - it.ms_low) / 2 / it.ms for it in (one, other)]
    return float(np.hypot(*halves))


def table_of(
    space: SearchSpace,
    path: Path,
    *,
    runtime: str = "onnxruntime",
    threads: int = 1,
    seed: int = 0,
    quick: bool = False,
    again: bool = True,
) -> tuple[LatencyTable, float]:
    """A table, built here and now unless it is there and need not be, and the seconds it took."""
    if path.exists() and not again:
        return LatencyTable.load(path), 0.0
    start = time.perf_counter()
    with ProgressBar(path.stem) as bar:
        table = build_table(
            space,
            detect_target(runtime=runtime, threads=threads),
            path,
            settings=BuildSettings(seed=seed, quick=quick),
            force=True,
            progress=bar,
        )
    seconds = time.perf_counter() - start
    draw_calibration(path.with_suffix(".png"), table)
    return table, seconds


def bounded(
    subject: str,
    figure: str,
    value: float,
    bound: float,
    text: Callable[[float], str],
    *,
    least: bool = False,
) -> Line:
    """A figure with its bound."""
    good = bool(value >= bound if least else value <= bound)
    return Line(subject, figure, text(value), f"{'≥' if least else '≤'} {text(bound)}", good)


def percent(share: float) -> str:
    """``0.0123`` as ``1.2 %``."""
    return f"{100 * share:.1f} %"


def in_seconds(seconds: float) -> str:
    """``12.3`` as ``12 s``."""
    return f"{seconds:.0f} s"


def correlation(value: float) -> str:
    """Three digits."""
    return f"{value:.3f}"


def import_timm() -> ModuleType:
    """The package timm, without the fakes of torchvision, which fail beside a CPU torch."""
    register_fake = torch.library.register_fake

    def skip(op: object, *args: object, **options: object) -> Callable[..., object]:
        if isinstance(op, str) and op.startswith("torchvision::"):
            return lambda function: function
        return register_fake(op, *args, **options)

    torch.library.register_fake = skip
    try:
        return importlib.import_module("timm")
    finally:
        torch.library.register_fake = register_fake


if __name__ == "__main__":
    main()
