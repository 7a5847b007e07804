"""How many bytes of graphs are open at once: the time that it takes, and what visits tell.

    .venv/bin/python benchmarks/rooms.py                            # six minutes on two x86 cores

Every layer and some networks of a space are visited with each limit in turn, by a process of its
own. Printed: the seconds of such a pass, and of the visits in it; what warm and cold runs take,
over those with the largest limit, for networks and for layers; and what it takes to write memory
that this process gave back some seconds ago, which the host of a virtual machine may have taken
away, and just now. All are medians over the passes.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import torch

from nas.latency.device import reach
from nas.latency.estimator import Visit
from nas.latency.graphs import LayerGraphs
from nas.latency.measure import HIDDEN
from nas.latency.survey import Survey, network_name, pick_candidates, pick_networks
from nas.latency.target import Target, detect_target
from nas.latency.visits import Turns
from nas.report.terminal import print_table
from nas.space import SearchSpace

ROOMS = (200, 400, 1500)
"""In MB."""

NETWORKS, PASSES, PAUSE_SECONDS = 40, 4, 10.0
MEMORY_MB = 1500


def main() -> None:
    """Visit with each limit in turn, and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="mobile_64px")
    parser.add_argument("--rooms", type=int, nargs="+", default=ROOMS, help="in MB")
    parser.add_argument("--passes", type=int, default=PASSES)
    given = parser.parse_args()
    torch.set_num_threads(1)
    space, rng, target = SearchSpace.load(given.space), np.random.default_rng(0), detect_target()
    networks = pick_networks(space, rng, NETWORKS)
    survey = Survey(networks, pick_candidates(space, rng)[:1], LayerGraphs())
    survey.add(space.layers())
    for make in survey.makers.values():  # layers are exported beforehand
        make()
    seconds: dict[int, list[tuple[float, float]]] = defaultdict(list)
    visits: dict[int, list[Visit]] = defaultdict(list)
    writes = []
    for _ in range(given.passes):
        time.sleep(PAUSE_SECONDS)
        writes.append((write_memory(), write_memory()))
        for room in rng.permutation(given.rooms).tolist():
            whole, made = visit_all(survey, target, rng, room)
            seconds[room].append((whole, sum(visit.seconds for visit in made)))
            visits[room] += made
    largest = medians(visits[max(given.rooms)])
    names = {network_name(it) for it in networks}, survey.inner
    rows = []
    for room in given.rooms:
        found = medians(visits[room])
        ratios = [
            np.median([found[name][state] / largest[name][state] for name in kind])
            for state in (0, 1)
            for kind in names
        ]
        taken = np.median(seconds[room], axis=0)
        rows.append((f"{room} MB", *(f"{it:.1f}" for it in taken), *(f"{it:.3f}" for it in ratios)))
    print_table(
        ("open", "a pass, s", "visits, s", "warm networks", "layers", "cold networks", "layers"),
        rows,
    )
    print_table(
        ("memory given back", "ms to write a MB"),
        [
            (when, f"{ms:.2f}")
            for when, ms in zip(
                (f"{PAUSE_SECONDS:.0f} s ago", "just now"), np.median(writes, axis=0), strict=True
            )
        ],
    )


def write_memory() -> float:
    """The ms of CPU time that it takes to write a MB of new memory."""
    begun = time.thread_time()
    np.ones(MEMORY_MB * 10**6 // 8)
    return 1e3 * (time.thread_time() - begun) / MEMORY_MB


def visit_all(
    survey: Survey, target: Target, rng: np.random.Generator, room: int
) -> tuple[float, list[Visit]]:
    """The seconds of a pass of two visits to each graph, and its visits."""
    reach(target.place).drop()
    time.sleep(PAUSE_SECONDS)
    turns = Turns(target, survey.makers, rng, survey.regular, inner=survey.inner)
    turns._room = room * 10**6  # what a device tells otherwise
    counts = {name: 2 for name in survey.makers if name not in (*survey.regular, HIDDEN)}
    begun = time.monotonic()
    visits = [visit for chunk in turns.visit(counts) for visit in chunk]
    return time.monotonic() - begun, visits


def medians(visits: list[Visit]) -> Mapping[str, tuple[float, float]]:
    """The median warm and cold ms of each graph."""
    found = defaultdict(list)
    for visit in visits:
        found[visit.graph].append((visit.warm, visit.cold))
    return {name: tuple(np.median(ms, axis=0)) for name, ms in found.items()}


if __name__ == "__main__":
    main()
