"""Graphs whose weights are made up on the device take as long as with weights of their own.

    .venv/bin/python benchmarks/light.py                     # two minutes on two x86 cores
    .venv/bin/python benchmarks/light.py --runtime mnn --space efficientformer_v2_s0_224px

Networks and layers of a space are there twice, sent whole and sent light, and all are visited in
turns. Printed are the bytes of both, and what light graphs take over whole ones, with the standard
error that the visits leave. Layers of one structure and width have the same weights of their own
within a network: a runtime may keep these once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
import onnx
import torch

from nas.latency.estimator import STATES, estimate
from nas.latency.graphs import LayerGraphs
from nas.latency.survey import pick_networks
from nas.latency.target import detect_target
from nas.latency.visits import Turns, pack
from nas.report.terminal import ProgressBar, print_table
from nas.space import DEFAULT_SPACE, SearchSpace

NETWORKS, LAYERS, VISITS = 5, 8, 24


def main() -> None:
    """Measure both ways and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default=DEFAULT_SPACE)
    parser.add_argument("--runtime", default="onnxruntime")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rng, target = np.random.default_rng(0), detect_target(runtime=given.runtime)
    makers = pick_graphs(SearchSpace.load(given.space), rng)
    both = {f"{name}, light": make for name, make in makers.items()}
    both |= {f"{name}, whole": partial(whole, make) for name, make in makers.items()}
    with ProgressBar("measuring") as bar:
        chunks = Turns(target, both, rng, progress=bar).visit(dict.fromkeys(both, VISITS))
        found = estimate([visit for chunk in chunks for visit in chunk])
    lines = []
    for name in makers:
        light, own = [f"{name}, {way}" for way in ("light", "whole")]
        sizes = [len(pack(both[it](), target)[1]) / 1e6 for it in (own, light)]
        cells = []
        for state in STATES:
            one, other = found[state].graphs[light], found[state].graphs[own]
            error = np.hypot(one.error / one.ms, other.error / other.ms)
            cells += [
                f"{other.ms:.3f}",
                f"{100 * (one.ms / other.ms - 1):+.1f} ± {100 * error:.1f} %",
            ]
        lines.append((name, *(f"{size:.2f}" for size in sizes), *cells))
    columns = ("MB whole", "MB light", "warm ms", "light over whole", "cold ms", "light over whole")
    print_table(("graph", *columns), lines)


def pick_graphs(
    space: SearchSpace, rng: np.random.Generator
) -> dict[str, Callable[[], onnx.ModelProto]]:
    """Networks from the smallest to the largest, and layers at random."""
    graphs, networks = LayerGraphs(), pick_networks(space, rng, NETWORKS)
    layers = [(layer, shape) for (_, shape), layer in space.layers().items()]
    found = {
        f"network {place}": partial(graphs.network, it) for place, it in enumerate(networks, 1)
    }
    for index in sorted(rng.choice(len(layers), LAYERS, replace=False)):
        layer, shape = layers[index]
        name = f"{layer.signature} on {'x'.join(map(str, shape))}"
        found[name] = partial(graphs.graph, layer, shape)
    return found


def whole(make: Callable[[], onnx.ModelProto]) -> onnx.ModelProto:
    """The graph as if its weights were a user's own."""
    found = onnx.ModelProto()
    found.CopyFrom(make())
    for tensor in found.graph.initializer:
        tensor.ClearField("doc_string")
    return found


if __name__ == "__main__":
    main()
