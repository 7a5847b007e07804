"""What a run takes depends on the runs before it, on the call, and on the memory of its session.

    .venv/bin/python benchmarks/visits.py                    # half a minute on two x86 cores

Printed, of networks of growing size: the n-th run after the caches were read over, over that of
runs 30 to 40; the first run after that, behind runs of its own and behind those of other networks,
and where memory is read once and not part by part twice;
the first run by ``session.run`` and with inputs and outputs bound; and the first run, with its
spread from one opening of the session to the next, in the memory of a process that has opened other
sessions and tensors, and closed most, and in that of a thread of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import onnx
import onnxruntime
import torch

from nas.latency.graphs import LayerGraphs
from nas.latency.runner import CACHES_BYTES, evict
from nas.latency.runtimes.base import random_inputs
from nas.latency.survey import pick_networks
from nas.network import measure_size
from nas.report.terminal import print_table
from nas.space import SearchSpace

SPACE, NETWORKS, VISITS, OPENINGS = "demo_64px", 4, 20, 6
SHOWN, RUNS = (1, 2, 4, 7, 12, 16, 20), 40
OTHERS, TENSORS = 12, 300
"""Sessions and tensors that are opened before an opening; every third and every second stays."""

Run = Callable[[], object]
CACHES = np.ones(CACHES_BYTES // 8)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    space, graphs, rng = SearchSpace.load(SPACE), LayerGraphs(), np.random.default_rng(0)
    larger = pick_networks(SearchSpace.load("mobile_64px"), rng, NETWORKS)
    small = pick_networks(space, rng, NETWORKS)
    networks = [*small, *larger]
    models = [graphs.network(network) for network in networks]
    megabytes = [f"{4e-6 * measure_size(network).params:.1f} MB" for network in networks]

    times = visit([opened(model) for model in models], RUNS, rng)
    rows = [
        (size, *(f"{it[run - 1] / np.median(it[29:]):.2f}" for run in SHOWN))
        for size, it in zip(megabytes, np.median(times, axis=1), strict=True)
    ]
    print_table(("weights", *(f"run {run}" for run in SHOWN)), rows)

    order = [
        (size, *map("{:.3f}".format, it))
        for size, it in zip(megabytes, behind(models, rng), strict=True)
    ]
    columns = "its own runs", "others'", "its own, read once", "others', read once"
    print_table(("weights", *(f"cold ms behind {name}" for name in columns)), order)

    called, bound = (
        first_runs([make(it) for it in models], rng) for make in (opened, with_binding)
    )
    lines = [
        (size, f"{one:.3f}", f"{other:.3f}")
        for size, one, other in zip(megabytes, called, bound, strict=True)
    ]
    print_table(("weights", "session.run, cold ms", "bound, cold ms"), lines)

    others = [graphs.network(network) for network in pick_networks(space, rng, OTHERS)]
    kept: list[object] = []
    here, apart, threads = list[list[Run]](), list[list[Run]](), list[ThreadPoolExecutor]()
    for _ in range(OPENINGS):
        sessions = [opened(model) for model in others]
        tensors = [torch.randn(*rng.integers(10, 400, 2).tolist()) for _ in range(TENSORS)]
        kept += [*sessions[::3], *tensors[::2]]
        del tensors
        here.append([opened(model) for model in models[:NETWORKS]])
        threads.append(ThreadPoolExecutor(1))
        del sessions
        apart.append(threads[-1].submit(lambda: [opened(it) for it in models[:NETWORKS]]).result())
    found = first_runs([run for runs in (*here, *apart) for run in runs], rng)
    by_opening = found.reshape(2, OPENINGS, NETWORKS)
    spread = [
        (size, *(f"{np.median(it):.3f}, {100 * np.log(it).std(ddof=1):.1f} %" for it in both))
        for size, both in zip(megabytes, by_opening.transpose(2, 0, 1), strict=False)
    ]
    print_table(("weights", "cold ms, spread: this process", "a thread of its own"), spread)


def opened(model: onnx.ModelProto) -> Run:
    """A session with default options but for one thread."""
    session, inputs = session_of(model), dict(random_inputs(model))
    return lambda: session.run(None, inputs)


def with_binding(model: onnx.ModelProto) -> Run:
    """The same with inputs and outputs bound."""
    session = session_of(model)
    binding = session.io_binding()
    for name, values in random_inputs(model).items():
        binding.bind_cpu_input(name, values)
    for value in model.graph.output:
        binding.bind_output(value.name)
    return lambda: session.run_with_iobinding(binding)


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A session of one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def visit(runs: Sequence[Run], count: int, rng: np.random.Generator) -> np.ndarray:
    """Milliseconds of so many runs after the caches were read over: (graphs, visits, count)."""
    found = np.zeros((len(runs), VISITS, count))
    for place in range(VISITS):
        for graph in rng.permutation(len(runs)).tolist():
            evict(CACHES)
            for run in range(count):
                start = time.thread_time_ns()
                runs[graph]()
                found[graph, place, run] = (time.thread_time_ns() - start) / 1e6
    return found


def behind(models: Sequence[onnx.ModelProto], rng: np.random.Generator) -> np.ndarray:
    """The median first run of each model (models, 4) after memory was read.

    Columns: behind own runs, behind others' runs, and both where memory is read once.
    """
    readings = partial(evict, CACHES), CACHES.sum
    runs = [[opened(model) for model in models] for _ in np.ndindex(2, 2)]
    found = np.zeros((len(models), 2, 2, VISITS))
    # one way after the other: a thorough reading in between would clear the caches for all
    for reading, way, place, graph in np.ndindex(2, 2, VISITS, len(models)):
        own = runs[2 * reading + way]
        other = (graph + 1 + int(rng.integers(len(own) - 1))) % len(own)
        for _ in range(SHOWN[-2]):
            own[other if way else graph]()
        readings[reading]()
        start = time.thread_time_ns()
        own[graph]()
        found[graph, reading, way, place] = (time.thread_time_ns() - start) / 1e6
    return np.asarray(np.median(found, axis=3).reshape(len(models), 4))


def first_runs(runs: Sequence[Run], rng: np.random.Generator) -> np.ndarray:
    """The median of the first run of each graph, in ms."""
    return np.asarray(np.median(visit(runs, 12, rng)[:, :, 0], axis=1))


if __name__ == "__main__":
    main()
