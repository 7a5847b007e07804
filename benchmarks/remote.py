"""Tables built over ssh equal those that are built here, and hardly take longer.

    .venv/bin/python benchmarks/remote.py                    # five minutes on two x86 cores

A real ssh server on a loopback port (Debian's openssh-server), and a Python of its own with numpy
and another onnxruntime, which pip installs into ``--folder``. That Python builds tables here and
over ssh in turns. Printed are by how much the predictions of two tables differ, both built here,
both over ssh, or one each; what a build takes, over that through a proxy that adds 30 ms as well;
a build whose connection and whose runner are killed at five moments each; and what all methods
deliver for a target of that device, measured there and here, right after, over the target.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from itertools import combinations, product
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
from sshd import Server, delaying, serving

from nas import pipeline
from nas.latency.build import BuildSettings, MeasuringPlan, build_table
from nas.latency.device import Device, reach
from nas.latency.graphs import LayerGraphs
from nas.latency.measure import Session
from nas.latency.survey import pick_networks
from nas.latency.table import LatencyTable, visits_path
from nas.latency.target import detect_target
from nas.report.terminal import print_table
from nas.slim.plan import Plan
from nas.space import Assignment, SearchSpace
from nas.training.settings import SupernetSettings

RUNTIME, DELAY = "onnxruntime==1.23.2", 0.03
VISITS = MeasuringPlan(fitted=8, held_out=12, least_visits=4, error=np.inf, seconds=0)
"""The same visits in each build, so that times can be compared."""

NETWORKS, KILLS = 40, 5
PARTS = "compare", "cut", "slim"
TARGET_SHARE, EVALUATIONS = 0.6, 12
"""Of the largest network's latency; and of each method."""


def main() -> None:
    """Build, compare and kill."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="demo_64px")
    parser.add_argument("--tables", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/nas_remote"))
    given = parser.parse_args()
    folder: Path = given.folder.absolute()
    space, python = SearchSpace.load(given.space), make_python(folder)
    keys = folder / "sshd"
    old = [keys, *(folder / name for name in ("kept", "tables", "run", "slim"))]
    subprocess.run(["rm", "-rf", *old], check=True)
    keys.mkdir()
    with serving(keys) as server, patch.dict(os.environ, PATH=server.path):
        if "compare" in given.parts:
            compare(space, python, server, folder, given.tables)
        if "cut" in given.parts:
            cut(space, python, folder)
        if "slim" in given.parts:
            slim(space, python, folder)


def compare(space: SearchSpace, python: str, server: Server, folder: Path, count: int) -> None:
    """Tables in turns, here, over ssh, and over ssh with a delay."""
    ways = {
        "here": Device(python=python),
        "ssh": Device(name="ssh:device", python=python, workdir=str(folder / "kept")),
        "ssh, 30 ms": Device(name="ssh:device/cpu", python=python, workdir=str(folder / "kept")),
    }
    graphs = LayerGraphs()
    tables: dict[str, list[LatencyTable]] = {way: [] for way in ways}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with delaying(server.port, DELAY) as delayed:
        for turn in range(count + 1):
            for way, device in ways.items():
                server.through(delayed if "30" in way else server.port)
                begun = time.monotonic()
                path = folder / "tables" / f"{way.split(',')[0]}_{len(way)}_{turn}.csv"
                settings = BuildSettings(space_argument=space.name, plan=VISITS)
                table = build_table(
                    space, detect_target(device), path, settings=settings, graphs=graphs
                )
                reach(device).drop()
                if turn:  # the first turn sends graphs, and exports templates
                    tables[way].append(table)
                    seconds[way].append(time.monotonic() - begun)
                else:
                    print(f"{way}: the first table took {time.monotonic() - begun:.0f} s")
    server.through(server.port)
    networks = pick_networks(space, np.random.default_rng(1), NETWORKS)
    predicted = {
        way: [np.array([it.predict(network) for network in networks]) for it in found]
        for way, found in tables.items()
    }
    lines = []
    for one, other in (("here", "here"), ("ssh", "ssh"), ("here", "ssh"), ("here", "ssh, 30 ms")):
        same = combinations(predicted[one], 2)
        pairs = same if one == other else product(predicted[one], predicted[other])
        logs = [np.log(a / b) for a, b in pairs]
        sizes, biases = [np.abs(it).mean() for it in logs], [it.mean() for it in logs]
        difference, bias = 100 * np.mean(sizes), 100 * np.mean(biases)
        lines.append((f"{one} / {other}", f"{difference:.2f} %", f"{bias:+.2f} %"))
    print_table(("tables", "predictions differ by", "on average by"), lines)
    here = np.median(seconds["here"])
    print_table(
        ("way", "seconds", "over here"),
        [
            (way, ", ".join(f"{it:.1f}" for it in found), f"{np.median(found) / here:.2f}")
            for way, found in seconds.items()
        ],
    )


def cut(space: SearchSpace, python: str, folder: Path) -> None:
    """A build whose ssh is killed five times, and then the runner; nothing is visited twice."""
    device = Device(name="ssh:device", python=python, workdir=str(folder / "kept"))
    kills: Counter[str] = Counter()

    def killed() -> None:
        rng = np.random.default_rng(0)
        while sum(kills.values()) < 2 * KILLS:
            time.sleep(float(rng.uniform(1, 3)))
            place = reach(device)
            connection, what = place._connection, "ssh" if kills["ssh"] < KILLS else "runner"
            if connection is None:
                continue
            if what == "ssh":
                is_killed = kill(connection._process.pid)  # type: ignore[attr-defined]
            else:
                is_killed = kill_runner(folder / "kept")
            kills[what] += is_killed

    path = folder / "tables" / "cut.csv"
    target = detect_target(device)
    thread = threading.Thread(target=killed, daemon=True)
    thread.start()
    plan = VISITS._replace(least_visits=8)
    settings = BuildSettings(space_argument=space.name, plan=plan)
    table = build_table(space, target, path, settings=settings)
    made = Counter(
        visit[0]
        for line in visits_path(path).read_text().splitlines()[1:]
        for visit in json.loads(line)["visits"]
    )
    regular = {name for name in made if name.startswith("reference")}
    counts = Counter(count for name, count in made.items() if name not in regular)
    print(f"killed {dict(kills)}; visits to a graph: {dict(counts)}; rows: {len(table.rows)}")


def slim(space: SearchSpace, python: str, folder: Path) -> None:
    """All methods slimmed to a target over ssh, by a table that was built so."""
    device = Device(name="ssh:device", python=python, workdir=str(folder / "kept"))
    run = pipeline.train(space, folder / "run", settings=SupernetSettings(epochs=1), force=True)
    path = folder / "tables" / "slim.csv"
    table = pipeline.build_table(space, path, target=detect_target(device), force=True)
    target = {"latency_ms": TARGET_SHARE * table.predict(space.largest())}
    plan = Plan(targets=(target,), evaluations=EVALUATIONS)
    result = pipeline.slim(run, table, plan, folder / "slim", accept_tables=True, force=True)
    finals = [it for it in result.networks if it.target]
    models = {it.name: partial(graph_of, space, it.assignment) for it in finals}
    sums = {it.name: table.sums(space.decode(it.assignment)) for it in finals}
    here, rng = detect_target(Device(python=python)), np.random.default_rng(1)
    again = Session(here, models, rng, table.unit, sums=sums).measure().latencies
    bound = target["latency_ms"]
    lines = [(it.name, it.of_target, again[it.name].of("warm").ms / bound) for it in finals]
    print_table(
        ("method", f"over {bound:.3f} ms, by ssh", "here, right after"),
        [(name, f"{there:.3f}", f"{ms:.3f}") for name, there, ms in lines],
    )


def graph_of(space: SearchSpace, assignment: Assignment) -> onnx.ModelProto:
    """The graph of a network of the space."""
    return LayerGraphs().network(space.decode(assignment))


def kill_runner(workdir: Path) -> bool:
    """Kill the runner that holds a working folder."""
    try:
        return kill(int((workdir / "lock").read_text().split()[0]))
    except (OSError, ValueError, IndexError):
        return False


def kill(process: int) -> bool:
    """Kill a process; False if it has just ended."""
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def make_python(folder: Path) -> str:
    """A Python with numpy and another onnxruntime, and nothing else."""
    python = folder / "python" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder / "python"], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "numpy", RUNTIME], check=True)
    return str(python)


if __name__ == "__main__":
    main()
