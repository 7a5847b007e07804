"""Each family's spaces through the whole pipeline, and its networks against timm's exports.

    .venv/bin/python benchmarks/families.py
    .venv/bin/python benchmarks/families.py --parts slim --families EfficientViT

Part `slim`: two epochs on digits, a quick latency table, and a slim to 60 % of what the largest
network is predicted to take; the delivered network is measured, and must meet it. Part `around`:
the same with few images and one epoch in the space that `nas new-space` writes around a published
network of each family, at its own size. Part `timm`: published networks of each family and timm's
exports of the same weights, through the same runtime. Runs and tables that are in --out are used
again. Latencies need an idle machine.
"""

from __future__ import annotations

import os

from nas.machine import OPENMP

os.environ.update(OPENMP | os.environ)  # as the command line does

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

from nas.architecture import Architecture
from nas.deploy.export import export_folded, to_onnx
from nas.deploy.timm import load_timm_state_dict
from nas.latency.estimator import Measurement
from nas.latency.measure import measure
from nas.latency.table import LatencyTable
from nas.latency.target import detect_target
from nas.network import build
from nas.report.terminal import count, print_table
from nas.space import SearchSpace


class Family(NamedTuple):
    """A family's small space, and networks that timm has, too, with their names there."""

    space: str
    in_timm: Mapping[str, str]


FAMILIES = {
    "EfficientFormer V1": Family(
        "efficientformer_v1_64px", {"efficientformer_v1_l1": "efficientformer_l1"}
    ),
    "EfficientFormer V2": Family("mobile_64px", {"efficientformer_v2_s0": "efficientformerv2_s0"}),
    "EfficientViT": Family("efficientvit_64px", {"efficientvit_m0": "efficientvit_m0"}),
    "PVT v2": Family("pvt_v2_64px", {"pvt_v2_b0": "pvt_v2_b0"}),
    "MobileNet": Family(
        "mobilenet_64px",
        {"mobilenet_v2_100": "mobilenetv2_100", "efficientnet_lite_0": "tf_efficientnet_lite0"},
    ),
    "LeViT": Family("levit_64px", {"levit_128s": "levit_128s"}),
    "MobileViT": Family(
        "mobilevit_64px",
        {"mobilevit_v1_xxs": "mobilevit_xxs", "mobilevit_v2_050": "mobilevitv2_050"},
    ),
}

FEW_IMAGES = ("--limit", 256, "--batch-size", 32)
"""For spaces around published networks, of which nothing but that they work is shown."""
PARTS = ("slim", "around", "timm")
SHARE = 0.6
"""Of the largest network's predicted latency: what the slimmed one may take."""


def main() -> None:
    """Run the parts that were asked for, and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--evaluations", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_families"))
    arguments = parser.parse_args()
    out, evaluations = arguments.out, arguments.evaluations
    if "slim" in arguments.parts:
        results = {
            name: slimmed(FAMILIES[name].space, out, arguments.epochs, evaluations)
            for name in arguments.families
        }
        show_slimmed(results)
    if "around" in arguments.parts:
        results = {
            name: slimmed(space_around(name, out), out, 1, evaluations, *FEW_IMAGES)
            for name in arguments.families
        }
        show_slimmed(results)
    if "timm" in arguments.parts:
        show_against_timm(arguments.families)


def space_around(family: str, out: Path) -> str:
    """The file of a space around the family's first published network, at its own size."""
    name = next(iter(FAMILIES[family].in_timm))
    path = out / "spaces" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        nas(["new-space", name, "--classes", 10, "--out", path])
    return str(path)


def slimmed(
    space: str, out: Path, epochs: int, evaluations: int, *settings: object
) -> dict[str, Any]:
    """What ``nas slim`` says of the space, and its target in ms; ``settings`` of the training."""
    run, table = out / Path(space).stem, out / f"{Path(space).stem}.csv"
    if not run.is_dir():
        nas(["train-supernet", "--space", space, "--data", "digits", "--run", run]
            + ["--epochs", epochs, *settings])  # fmt: skip
    if not table.exists():
        nas(["build-lut", "--space", space, "--device", "cpu", "--quick", "--out", table])
    largest = SearchSpace.load(space).largest()
    target_ms = round(SHARE * LatencyTable.load(table).predict(largest), 3)
    found = nas(
        ["slim", "--run", run, "--table", table, "--target-ms", target_ms, "--accept-table"]
        + ["--evaluations", evaluations, "--out", run / "slim", "--force"]
    )
    return {"target_ms": target_ms, **found}


def nas(command: Sequence[object]) -> dict[str, Any]:
    """What a command of nas says with --json; its progress is shown."""
    words = [sys.executable, "-m", "nas", *map(str, command), "--json"]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"nas {command[0]}: ended with {done.returncode}")
    return json.loads(done.stdout)


def show_slimmed(results: dict[str, dict[str, Any]]) -> None:
    """Three networks a family: the largest, the uniformly scaled, the slimmed."""
    lines = []
    for family, result in results.items():
        target_ms = result["target_ms"]
        for row in result["networks"]:
            met = "met" if row["measured_ms"] <= target_ms else "MISSED"
            lines.append(
                (
                    *(family, row["name"], f"{100 * row['test_accuracy']:.1f} %"),
                    *(count(row["params"]), f"{row['predicted_ms']:.3f}"),
                    *(f"{row['measured_ms']:.3f}", f"{target_ms:.3f}"),
                    met if row["name"] == "slimmed" else "",
                )
            )
    columns = ("family", "network", "test accuracy", "parameters", "predicted ms", "measured ms")
    print_table((*columns, "target ms", ""), lines, title=f"slimmed to {SHARE:.0%} of the largest")


def show_against_timm(families: Sequence[str]) -> None:
    """Ours and timm's export of the same random weights, and the median of their ratios."""
    timm, target = import_timm(), detect_target()
    networks = {ours: name for it in families for ours, name in FAMILIES[it].in_timm.items()}
    models = []
    for name, in_timm in networks.items():
        architecture = Architecture.load(name)
        theirs = timm.create_model(in_timm, pretrained=False).eval()
        ours = build(architecture).eval()
        load_timm_state_dict(ours, architecture, theirs.state_dict())
        models.append(to_onnx(ours, architecture.input_shape))
        models.append(export_folded(theirs, architecture.input_shape))
    found = [it.warm for it in measure(models, target, rng=np.random.default_rng(0))]
    pairs = list(zip(found[::2], found[1::2], strict=True))
    ratios = [ours.ms / theirs.ms for ours, theirs in pairs]
    lines = [
        (
            *(name, f"{ours.ms:.2f}", f"{theirs.ms:.2f}"),
            *(f"{ratio:.3f}", f"{100 * noise(ours, theirs):.1f} %"),
        )
        for name, (ours, theirs), ratio in zip(networks, pairs, ratios, strict=True)
    ]
    lines.append(("median", "", "", f"{np.median(ratios):.3f}", ""))
    print_table(
        ("network", "ours ms", "timm's ms", "ratio", "noise"),
        lines,
        title=f"{target.hardware}, {target.runtime} {target.runtime_version}",
    )


def noise(one: Measurement, other: Measurement) -> float:
    """Half the 95 % interval of the ratio of two latencies, as a share."""
    halves = [(it.ms_high - it.ms_low) / 2 / it.ms for it in (one, other)]
    return float(np.hypot(*halves))


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
