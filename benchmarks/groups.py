"""Layers cold one by one, each behind a reading of the caches, and many behind one, in turns.

    .venv/bin/python benchmarks/groups.py                           # two minutes on two x86 cores
    .venv/bin/python benchmarks/groups.py --space mobilenet_64px

Printed: what a visit takes, and the noise of its cold run; that run by its place among the layers
of a turn, over the median of all places; and by how much sums of cold rows miss cold networks,
plain, and calibrated on the others. A stem is alone in its turn both ways, as networks are.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from visits import opened

from nas.latency.calibration import RowSums
from nas.latency.estimator import Estimates, State, Visit, estimate
from nas.latency.fit import fit_calibration
from nas.latency.graphs import LayerGraphs
from nas.latency.measure import HIDDEN
from nas.latency.runner import CACHES_BYTES, GROUP, Stopwatch, Turn, batches
from nas.latency.survey import Survey, layer_latency, network_name, pick_networks
from nas.network import measure_size
from nas.report.terminal import print_table
from nas.space import SearchSpace

NETWORKS, ROUNDS, PLACES = 16, 16, 6
WAYS = {"one by one": False, f"about {GROUP} together": True}

Found = Mapping[State, Estimates]


def main() -> None:
    """Visit, and print what both ways tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="mobile_64px")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    space, rng = SearchSpace.load(given.space), np.random.default_rng(0)
    networks = pick_networks(space, rng, NETWORKS)
    survey = Survey(networks, networks[:1], LayerGraphs())
    survey.add({(it.signature, shape): it for one in networks for it, shape in one.placed()})
    references = *survey.regular, HIDDEN
    runs = {name: opened(make()) for name, make in survey.makers.items() if name not in references}
    visits, places = visit_both(runs, survey.inner, given.rounds, rng)
    found = {way: estimate(made) for way, made in visits.items()}
    print_table(
        ("layers cold", "ms of a visit", "noise of a cold run, ms", "noise, %"),
        [(way, *visit_cells(visits[way], found[way], survey.inner)) for way in WAYS],
    )
    middle = float(np.median(np.concatenate([*places.values()])))
    parts = np.array_split(np.arange(len(places)), PLACES)
    print_table(
        ("place in a turn", "cold, over the median of all places"),
        [
            (
                f"{part[0] + 1} to {part[-1] + 1}",
                f"{np.median(np.concatenate([places[it] for it in part])) / middle:.2f}",
            )
            for part in parts
        ],
    )
    print_table(
        ("cold networks", "sum of rows: error", "bias", "calibrated: error of left-out ones"),
        [(way, *error_cells(survey, found[way])) for way in WAYS],
    )


def visit_both(
    runs: Mapping[str, Callable[[], object]], inner: set[str], rounds: int, rng: np.random.Generator
) -> tuple[dict[str, list[Visit]], dict[int, list[float]]]:
    """The visits of each way, with turns of both in random order; and cold runs by their places.

    Those are over the median cold run of the same graph in turns of its own.
    """
    watch = Stopwatch(time.thread_time_ns, np.ones(CACHES_BYTES // 8, np.int64))
    visits: dict[str, list[Visit]] = {way: [] for way in WAYS}
    cold: dict[int, list[tuple[str, float]]] = defaultdict(list)
    counts = dict.fromkeys(runs, 1)
    for _ in range(rounds):
        turns: list[tuple[Turn, str]] = []
        for way, is_shared in WAYS.items():
            layers = inner if is_shared else set[str]()
            (batch,) = batches(counts, len, 10**9, rng, layers)
            turns += [(turn, way) for turn in batch]
        for index in rng.permutation(len(turns)):
            turn, way = turns[index]
            begun = time.monotonic()
            samples = watch.visit({name: runs[name] for name in turn})
            seconds = (time.monotonic() - begun) / len(turn)
            for place, (name, sample) in enumerate(samples.items()):
                visits[way].append(Visit(name, sample.warm, sample.cold, sample.runs, seconds))
                if len(turn) > 1:
                    cold[place].append((name, sample.cold))
    alone = defaultdict(list)
    for visit in visits["one by one"]:
        alone[visit.graph].append(visit.cold)
    usual = {name: float(np.median(ms)) for name, ms in alone.items()}
    return visits, {place: [ms / usual[name] for name, ms in them] for place, them in cold.items()}


def visit_cells(visits: Sequence[Visit], found: Found, inner: set[str]) -> tuple[str, ...]:
    """The time of a visit to a layer, and the noise of its cold run; medians."""
    graphs = [it for name, it in found["cold"].graphs.items() if name in inner]
    seconds = np.median([visit.seconds for visit in visits if visit.graph in inner])
    noise, share = (
        np.median(it) for it in ([g.noise * g.ms for g in graphs], [g.noise for g in graphs])
    )
    return f"{1e3 * seconds:.2f}", f"{noise:.4f}", f"{100 * share:.1f}"


def error_cells(survey: Survey, found: Found) -> tuple[str, ...]:
    """Error and bias of plain sums of cold rows; and the error of calibrations on left-out ones."""
    rows = {key: layer_latency(probe, found) for key, probe in survey.probes.items()}
    sums = []
    for network in survey.networks:
        placed = [rows[it.signature, shape] for it, shape in network.placed()]
        warm, cold = (sum(it.of(state).ms for it in placed) for state in ("warm", "cold"))
        size = measure_size(network)
        sums.append(RowSums(warm, cold, size.params, size.macs))
    warm_ms, cold_ms = (
        np.array([found[state].graphs[network_name(it)].ms for it in survey.networks])
        for state in ("warm", "cold")
    )
    plain = np.array([it.cold for it in sums]) / cold_ms - 1
    errors = []
    for left in range(len(sums)):
        others = [it for it in range(len(sums)) if it != left]
        fitted = fit_calibration([sums[it] for it in others], warm_ms[others], cold_ms[others])
        errors.append(fitted.latency(sums[left], "cold") / cold_ms[left] - 1)
    return tuple(
        f"{100 * it:{sign}.1f} %"
        for it, sign in (
            (np.abs(plain).mean(), ""),
            (plain.mean(), "+"),
            (np.abs(errors).mean(), ""),
        )
    )


if __name__ == "__main__":
    main()
