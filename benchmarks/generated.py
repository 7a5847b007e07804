"""Is the generated data set one on which a search can win? Hand-picked networks of equal latency.

    .venv/bin/python benchmarks/generated.py                    # ten minutes on one core
    .venv/bin/python benchmarks/generated.py --networks largest uniform early --seeds 0

No search takes part. From the smallest network of the demo's space, `early` raises the options of
the first stage as far as the latency allows, then those of the second and so on; `late` begins with
the last stage, `middle` with the second and third; `even` raises all alike, one option at a time;
`uniform` is the uniformly scaled network, whose predicted latency is what the others may take.
Each is trained alone from scratch, by the recipe `light`, and judged by the 2,000 test pictures;
p is of McNemar's test against `uniform` with the same seed. What is in --out is used again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from prepared import table_at

from nas.data import Dataset
from nas.latency.table import LatencyTable
from nas.report.terminal import print_table
from nas.space import Assignment, SearchSpace
from nas.statistics import mcnemar
from nas.training.alone import train_alone
from nas.training.evaluation import find_hits
from nas.training.settings import RECIPES, DataSettings

SPACE = "demo_64px"
ORDERS: Mapping[str, Sequence[Sequence[int]]] = {
    "early": ([1], [2], [3], [4]),
    "middle": ([2, 3], [4, 1]),
    "late": ([4], [3], [2], [1]),
    "even": ([1, 2, 3, 4],),
}
"""Which stages are raised together, the first ones first."""
NETWORKS = ("largest", "uniform", *ORDERS)


def main() -> None:
    """Train what is missing, and print all that is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_generated"))
    parser.add_argument("--data", default="shapes")
    parser.add_argument("--share", type=float, default=0.3, help="most of the largest's latency")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    data = DataSettings(spec=arguments.data, search_share=0.02)  # it judges nothing
    dataset = data.load(64)
    space = SearchSpace.load(SPACE)  # its head has other classes, which cost the same
    table = table_at(arguments.out / "table.csv", space, quick=True)
    networks = picked(space, table, arguments.share)
    file = arguments.out / f"{arguments.epochs}_epochs_of_{arguments.batch_size}.json"
    hits: dict[str, list[int]] = json.loads(file.read_text()) if file.exists() else {}
    for seed in arguments.seeds:
        for name in arguments.networks:
            key = f"{name} {seed} {networks[name]}"
            if key not in hits:
                print(f"training {name}, seed {seed}", flush=True)
                hits[key] = trained(space, networks[name], dataset, seed, arguments)
                file.write_text(json.dumps(hits))
    found = {
        (name, seed): np.array(hits[key], dtype=bool)
        for name in arguments.networks
        for seed in arguments.seeds
        if (key := f"{name} {seed} {networks[name]}") in hits
    }
    show(space, table, networks, found)


def picked(space: SearchSpace, table: LatencyTable, share: float) -> dict[str, Assignment]:
    """The networks by name; all but the largest take at most the latency of ``uniform``."""

    def ms(assignment: Assignment) -> float:
        return table.predict(space.decode(assignment))

    largest = space.uniform(1.0)
    scale = [space.uniform(step / 100) for step in range(101)]
    uniform = max((it for it in scale if ms(it) <= share * ms(largest)), key=ms)
    picks = {"largest": largest, "uniform": uniform}
    for name, order in ORDERS.items():
        found = space.uniform(0.0)
        for stages in order:
            found = raised(space, found, stages, lambda it: ms(it) <= 1.005 * ms(uniform))
        picks[name] = found
    return picks


def raised(
    space: SearchSpace,
    start: Assignment,
    stages: Sequence[int],
    fits: Callable[[Assignment], bool],
) -> Assignment:
    """The network whose options in ``stages`` were raised one after another while it ``fits``."""
    prefixes = tuple(f"stage{stage}." for stage in stages)
    places = [place for place, name in enumerate(space.choices) if name.startswith(prefixes)]
    sizes, current, is_done = [len(it) for it in space.choices.values()], start, False
    while not is_done:
        is_done = True
        for place in places:
            higher = (*current[:place], current[place] + 1, *current[place + 1 :])
            if current[place] + 1 < sizes[place] and fits(higher):
                current, is_done = higher, False
    return current


def trained(
    space: SearchSpace,
    assignment: Assignment,
    dataset: Dataset,
    seed: int,
    arguments: argparse.Namespace,
) -> list[int]:
    """Which test pictures a network gets right, as 0 and 1, after its training."""
    settings = {"epochs": arguments.epochs, "batch_size": arguments.batch_size, "seed": seed}
    recipe = RECIPES["light"].model_copy(update=settings)
    architecture = space.with_classes(len(dataset.classes)).decode(assignment)
    network = train_alone(architecture, dataset, recipe)
    found: list[int] = find_hits(network, dataset.test).int().tolist()
    return found


def show(
    space: SearchSpace,
    table: LatencyTable,
    networks: Mapping[str, Assignment],
    found: Mapping[tuple[str, int], np.ndarray],
) -> None:
    """One line for each network."""
    seeds = sorted({seed for _, seed in found})
    rows = []
    for name in dict.fromkeys(name for name, _ in found):
        architecture = space.decode(networks[name])
        hits = [found[name, seed] for seed in seeds]
        against = [found.get(("uniform", seed)) for seed in seeds]
        chances = [
            "" if name == "uniform" or other is None else f"{mcnemar(one, other):.1g}"
            for one, other in zip(hits, against, strict=True)
        ]
        cost = table.cost(architecture)
        rows.append(
            (
                name,
                f"{cost['latency_ms']:.3f}",
                f"{cost['macs'] / 1e6:.1f} M",
                *(f"{100 * one.mean():.1f} %" for one in hits),
                f"{100 * np.mean(hits):.1f} %",
                " ".join(chances),
            )
        )
    accuracies = (f"seed {seed}" for seed in seeds)
    print_table(("network", "predicted ms", "MACs", *accuracies, "mean", "p by seed"), rows)


if __name__ == "__main__":
    main()
