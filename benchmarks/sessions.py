"""Sessions of one network differ: where their weights lie decides how they share the caches.

    .venv/bin/python benchmarks/sessions.py                  # two minutes on two x86 cores

Each network is there several times, by names of their own, and all are visited in random order.
Printed is the spread of what these take, over the standard error that the visits of one leave, and
the mean of them: with sessions that stay open, with all sessions closed together after a few visits
(as ``nas.latency.visits.Turns`` does), and with each closed by itself when another one is open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import onnx
import torch

from nas.latency import runner
from nas.latency.estimator import STATES, State, Visit, estimate
from nas.latency.graphs import LayerGraphs
from nas.latency.survey import pick_networks
from nas.latency.target import detect_target
from nas.latency.visits import Turns
from nas.network import measure_size
from nas.report.terminal import print_table
from nas.space import DEFAULT_SPACE, SearchSpace

NETWORKS, COPIES, VISITS = 6, 6, 16
LIFE, LONG = runner.LIFE, 10**6

Makers = dict[str, Callable[[], onnx.ModelProto]]


class Spread(NamedTuple):
    """Of a network's copies: their mean in ms, their standard deviation and that of noise."""

    ms: float
    deviation: float
    noise: float


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    rng, graphs = np.random.default_rng(7), LayerGraphs()
    networks = pick_networks(SearchSpace.load(DEFAULT_SPACE), rng, NETWORKS)
    makers: Makers = {
        f"{place} {copy}": partial(graphs.network, network)
        for place, network in enumerate(networks)
        for copy in range(COPIES)
    }
    ways = {
        "stay open": in_rounds_of(makers, LONG),
        "closed together": in_rounds_of(makers, LIFE),
        "closed one by one": one_by_one(makers),
    }
    for state in STATES:
        lines = [
            (f"{4e-6 * measure_size(network).params:.1f} MB", *cells(ways, place, state))
            for place, network in enumerate(networks)
        ]
        print_table(("weights", *ways), lines, title=f"{state}: ms, spread of copies, of noise")


def cells(ways: dict[str, list[Visit]], place: int, state: State) -> Iterator[str]:
    """A network's copies by each way."""
    for found in ways.values():
        ms, deviation, noise = spread(found, place, state)
        yield f"{ms:.3f}, {100 * deviation:.1f} %, {100 * noise:.1f} %"


def spread(found: list[Visit], place: int, state: State) -> Spread:
    """How the copies of a network differ."""
    of_state = estimate(found)[state].graphs
    copies = [of_state[f"{place} {copy}"] for copy in range(COPIES)]
    ms = np.array([it.ms for it in copies])
    noise = float(np.mean([it.error / it.ms for it in copies]))
    return Spread(float(ms.mean()), float(ms.std(ddof=1) / ms.mean()), noise)


def in_rounds_of(makers: Makers, life: int) -> list[Visit]:
    """Visits to all graphs, whose sessions are closed after so many."""
    with patch.object(runner, "LIFE", life):
        turns = Turns(detect_target(), makers, np.random.default_rng(0))
        return [visit for chunk in turns.visit(dict.fromkeys(makers, VISITS)) for visit in chunk]


def one_by_one(makers: Makers) -> list[Visit]:
    """Visits where each session makes way for a new one of its graph after a few."""
    with patch.object(runner, "LIFE", LONG):
        turns = OneByOne(detect_target(), makers, np.random.default_rng(0))
        return [visit for chunk in turns.visit(dict.fromkeys(makers, VISITS)) for visit in chunk]


class OneByOne(Turns):
    """Turns that open a session anew after a few visits, before they close the old one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.counts = Counter[str]()

    def _visits(self, turns: Sequence[runner.Turn]) -> Iterator[Visit]:
        for turn in turns:
            for name in turn:
                self.counts[name] += 1
                if self.counts[name] % LIFE == 0:
                    self._open.discard(name)
            yield from super()._visits([turn])


if __name__ == "__main__":
    main()
