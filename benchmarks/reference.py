"""How well networks of several sizes serve as a unit, from session to session.

    .venv/bin/python benchmarks/reference.py                 # about 4 minutes on two x86 cores

Each session measures the same networks, then pauses. Printed is the standard deviation over the
sessions of a network's latency: in ms, and over each candidate for a reference.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch

from nas.architecture import Architecture
from nas.latency.estimator import STATES, estimate
from nas.latency.graphs import LayerGraphs
from nas.latency.target import detect_target
from nas.latency.visits import Turns
from nas.network import measure_size
from nas.report.terminal import print_table
from nas.space import SearchSpace

SPACES = ("demo_64px", "mobile_64px")
SESSIONS, VISITS, PAUSE_SECONDS = 7, 30, 4.0
TARGETS = (0.35, 0.45, 0.6, 0.75)
"""MACs of the measured networks, over the largest's."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spaces", nargs="+", default=SPACES)
    torch.set_num_threads(1)
    lines = []
    for name in parser.parse_args().spaces:
        units, networks = pick(SearchSpace.load(name))
        found = log_latencies({**units, **networks})
        for state in STATES:
            of_state = found[state]
            spreads = [np.std([it[one] for it in of_state], ddof=1) for one in networks]
            lines.append((name, state, "ms", percent(spreads)))
            for unit in units:
                ratios = [
                    np.std([it[one] - it[unit] for it in of_state], ddof=1) for one in networks
                ]
                lines.append((name, state, unit, percent(ratios)))
    print_table(("space", "state", "unit", "standard deviation over sessions"), lines)


def pick(space: SearchSpace) -> tuple[dict[str, Architecture], dict[str, Architecture]]:
    """Candidates for a reference, and networks to measure."""
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(400)]
    least, most = (measure_size(it).macs for it in (space.smallest(), space.largest()))

    def nearest(macs: float, among: list[Architecture]) -> Architecture:
        return min(among, key=lambda it: abs(np.log(measure_size(it).macs / macs)))

    wanted = {"small": 2 * least, "middle": (least * most) ** 0.5, "half": most / 2}
    units = {name: nearest(macs, drawn[:200]) for name, macs in wanted.items()}
    return units, {f"{share:g}": nearest(share * most, drawn[200:]) for share in TARGETS}


def log_latencies(networks: Mapping[str, Architecture]) -> dict[str, list[dict[str, float]]]:
    """Of each state and session the log latency of each network."""
    graphs = LayerGraphs()
    makers = {name: partial(graphs.network, network) for name, network in networks.items()}
    turns = Turns(detect_target(), makers, np.random.default_rng(0))
    found: dict[str, list[dict[str, float]]] = {state: [] for state in STATES}
    for _ in range(SESSIONS):
        counts = dict.fromkeys(makers, VISITS)
        visits = [visit for chunk in turns.visit(counts) for visit in chunk]
        for state, (by_name, _) in estimate(visits).items():
            found[state].append({name: float(np.log(it.ms)) for name, it in by_name.items()})
        time.sleep(PAUSE_SECONDS)
    return found


def percent(spreads: list[np.floating]) -> str:
    """The mean of standard deviations of logarithms, as ``1.9 %``."""
    return f"{100 * float(np.mean(spreads)):.1f} %"


if __name__ == "__main__":
    main()
