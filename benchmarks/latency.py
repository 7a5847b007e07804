"""Every figure that latencies are judged by, idle and beside a busy process, in one run.

    .venv/bin/python benchmarks/latency.py                     # an hour and a half on two x86 cores
    .venv/bin/python benchmarks/latency.py --parts tables loop --conditions idle
    .venv/bin/python benchmarks/latency.py --parts tables --runtime mnn --out runs/benchmark_mnn

``simulated``: a machine of known truth. ``tables``: a table of each space, its time and its errors,
of any runtime, while the other parts are of onnxruntime. ``loop``: a user's own loop over 16
networks (benchmarks/loop.py). ``builds``: what the tables of the conditions predict for 40
networks. ``closed``: all methods slimmed to three targets, and what they deliver measured again.
``shares``: prices of layers. ``demo``: ``nas demo``, from its table to its page. The idle condition
needs an idle machine.
"""

from __future__ import annotations

import os

from nas.machine import OPENMP

os.environ.update(OPENMP | os.environ)  # as the command line does

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from load import load
from loop import time_apart
from simulated import score_estimator

from nas import pipeline
from nas.latency.build import BuildSettings
from nas.latency.calibration import judge
from nas.latency.estimator import STATES, Estimate, State
from nas.latency.graphs import LayerGraphs
from nas.latency.measure import Session
from nas.latency.runtimes import RUNTIMES
from nas.latency.survey import network_name, pick_networks
from nas.latency.table import LatencyTable
from nas.latency.target import detect_target
from nas.latency.unit import Reference, describe_machine
from nas.report.terminal import ProgressBar, print_table
from nas.slim.plan import Plan
from nas.space import DEFAULT_SPACE, SearchSpace
from nas.training.run import Run
from nas.training.settings import SupernetSettings

PARTS = ("simulated", "tables", "loop", "builds", "closed", "shares", "demo")
CONDITIONS = ("idle", "loaded")
MAPE: dict[tuple[str, State], float] = {
    ("idle", "cold"): 0.025,
    ("loaded", "cold"): 0.035,
    ("idle", "warm"): 0.03,
    ("loaded", "warm"): 0.04,
}
SECONDS = {"idle": 150, "loaded": 150}
"""Of the default space's table; 60 on a quiet machine."""
LOOP_NETWORKS, LOOP_VISITS, COMPARED = 16, 60, 40
LOOP_KINDS: dict[str, tuple[State, str]] = {
    "warm": ("warm", "warm"),
    "cold": ("cold", "cold"),
    "behind_own": ("cold", "cold, memory read once"),
}
"""What the loop times, the table's state that it is compared with, and its name."""
TARGET_SHARES = 0.8, 0.6, 0.45
"""Of the largest network's latency."""
UNIT_ERROR = 0.015
"""Of a reference's latency in a loop or in another table, beside what its three numbers miss."""
CLOSED_SPACE, CLOSED_EPOCHS, CLOSED_EVALUATIONS = "demo_64px", 3, 30


class Line(NamedTuple):
    """One figure; ``good`` is None where nothing was promised."""

    subject: str
    figure: str
    value: str
    bound: str = ""
    good: bool | None = None


class Bench(NamedTuple):
    """What the parts share: a condition, all conditions' folders, the spaces, a runtime."""

    condition: str
    out: Path
    spaces: list[str]
    runtime: str

    def table_path(self, space: str, condition: str | None = None) -> Path:
        return self.out / (condition or self.condition) / f"{space}.csv"


def main() -> None:
    """Run the parts that were asked for in each condition, and print all figures side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    spaces = [DEFAULT_SPACE, "efficientformer_v2_s0_224px"]
    parser.add_argument("--spaces", nargs="+", default=spaces)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=CONDITIONS)
    parser.add_argument("--runtime", choices=sorted(RUNTIMES), default="onnxruntime")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_latency"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[tuple[str, str], dict[str, Line]] = {}
    for condition in arguments.conditions:
        bench = Bench(condition, arguments.out, arguments.spaces, arguments.runtime)
        bench.table_path("any").parent.mkdir(parents=True, exist_ok=True)
        with load(wanted=condition == "loaded"):
            for part in arguments.parts:
                for line in PART_LINES[part](bench):
                    found.setdefault((line.subject, line.figure), {})[condition] = line
                    print(condition, *line[:4], {True: "", None: "", False: "MISSED"}[line.good])
                write_figures(arguments.out, found)
    print_table(
        ("subject", "figure", *(word for it in arguments.conditions for word in (it, "bound"))),
        [
            (*names, *(cell for it in arguments.conditions for cell in cells(lines.get(it))))
            for names, lines in found.items()
        ],
        title=f"{detect_target().cpu_model}, {' '.join(detect_target().cpu_flags)}",
    )


def cells(line: Line | None) -> tuple[str, str]:
    """A figure and its bound, marked where it was missed."""
    if line is None:
        return "", ""
    return line.value, f"{line.bound}{' MISSED' if line.good is False else ''}"


def write_figures(out: Path, found: dict[tuple[str, str], dict[str, Line]]) -> None:
    """Keep the figures so far."""
    lines = [
        {"condition": condition, **line._asdict()}
        for of_figure in found.values()
        for condition, line in of_figure.items()
    ]
    (out / "figures.json").write_text(json.dumps(lines, indent=2) + "\n")


def of_simulated(bench: Bench) -> Iterator[Line]:
    """The estimator on a simulated machine."""
    del bench
    for state, score in score_estimator(range(8)).items():
        subject = f"simulated machine, {state}"
        yield bounded(subject, "mean error", score.error, 0.01, percent)
        inside = 0.90 <= score.coverage <= 0.98
        yield Line(subject, "intervals cover", percent(score.coverage), "90 to 98 %", inside)
        yield Line(subject, "runs of a graph", f"{score.runs:.0f}", "≤ 112", score.runs <= 112)


def of_tables(bench: Bench) -> Iterator[Line]:
    """A table of each space: its time, its errors in both states, the noise."""
    for name in bench.spaces:
        begun = time.perf_counter()
        with ProgressBar(f"{name}, {bench.condition}") as bar:
            table = pipeline.build_table(
                SearchSpace.load(name),
                bench.table_path(name),
                target=detect_target(runtime=bench.runtime),
                settings=BuildSettings(seed=CONDITIONS.index(bench.condition)),
                force=True,
                progress=bar,
            )
        seconds = time.perf_counter() - begun
        bound = SECONDS[bench.condition] if name == DEFAULT_SPACE else np.inf
        yield bounded(name, f"seconds, {len(table.rows)} rows", seconds, bound, "{:.0f}".format)
        slowest, fastest = table.provenance.spread[::-1]
        yield Line(name, "the machine's speed", f"{100 * fastest:+.0f} to {100 * slowest:+.0f} %")
        verdict = judge(table.validation)
        text = "passes" if not verdict.failures else "; ".join(verdict.failures)
        yield Line(name, "its own validation", text, "passes", not verdict.failures)
        for state in STATES:
            yield from of_state(f"{name}, {state}", bench, table, state)


def of_state(subject: str, bench: Bench, table: LatencyTable, state: State) -> Iterator[Line]:
    """How well a table predicts held-out networks in one state."""
    assert table.validation is not None
    found = table.validation.of(state)
    error, noise = found.calibrated.mape, found.noise_floor
    bound = max(MAPE[bench.condition, state], 1.5 * noise)
    yield Line(subject, "noise floor", percent(noise))
    yield Line(subject, "reference against itself", percent(found.reference_deviation))
    yield bounded(subject, "mean error", error, bound, percent)
    yield Line(subject, "the table's own error", percent(found.table_error))
    yield Line(subject, "sums of rows, not calibrated", percent(found.raw.mape))
    yield bounded(subject, "error over that of MACs", error / found.macs.mape, 0.5, "{:.2f}".format)
    rank = found.calibrated.spearman
    yield Line(subject, "Spearman", f"{rank:.4f}", "≥ 0.99", rank >= 0.99)


def of_loop(bench: Bench) -> Iterator[Line]:
    """A user's own loop against the table's predictions; its own noise beside it."""
    name = bench.spaces[0]
    table, space = LatencyTable.load(bench.table_path(name)), SearchSpace.load(name)
    networks, graphs = pick_networks(space, np.random.default_rng(99), LOOP_NETWORKS), LayerGraphs()
    references = table.unit.references
    every = [*networks, *(it.network for it in references)]
    models = [graphs.network(network).SerializeToString() for network in every]
    timed = time_apart(models, visits=LOOP_VISITS, seed=0)
    found, of_references = timed[: len(networks)], timed[len(networks) :]
    now = {
        state: [exactly(float(np.median(getattr(it, state)))) for it in of_references]
        for state in STATES
    }
    change = table.unit.find_change(now)
    yield Line("a user's loop", "the machine, against its table", describe_machine(change.machine))
    for kind, (state, title) in LOOP_KINDS.items():
        predicted = np.array([table.predict(network, state) for network in networks])
        measured = np.array([np.median(getattr(times, kind)) for times in found])
        errors, subject = predicted / measured - 1, f"a user's loop, {title}"
        noise = float(np.mean([times.noise(kind) for times in found]))
        yield bounded(subject, "mean error", float(np.abs(errors).mean()), 0.04, percent)
        bias = float(errors.mean())
        yield Line(subject, "bias", f"{100 * bias:+.1f} %", "≤ 3 %", abs(bias) <= 0.03)
        yield Line(subject, "noise of the loop", percent(noise))
        shift = float(np.median(getattr(of_references[0], kind))) / references[0].ms(state) - 1
        yield Line(subject, "the reference, against its table", f"{100 * shift:+.1f} %")
        factors = [table.unit.factor(change, table.sums(it), state).value for it in networks]
        in_unit = float(np.abs(predicted / (measured * factors) - 1).mean())
        yield Line(subject, "mean error in the table's unit", percent(in_unit))


def of_builds(bench: Bench) -> Iterator[Line]:
    """Predictions by the first condition's table and by this one's, in ms and in one unit."""
    name, first = bench.spaces[0], bench.table_path(bench.spaces[0], CONDITIONS[0])
    if bench.condition == CONDITIONS[0] or not first.exists():
        return
    one, other = LatencyTable.load(first), LatencyTable.load(bench.table_path(name))
    networks = pick_networks(SearchSpace.load(name), np.random.default_rng(7), COMPARED)
    unit = replace(one.unit, references=tuple(map(partial(as_predicted, one), one.unit.references)))
    there = [as_predicted(other, it) for it in unit.references]
    change = unit.find_change({state: [exactly(it.ms(state)) for it in there] for state in STATES})
    yield Line("two builds", "the machine, by the references", describe_machine(change.machine))
    for state in STATES:
        ratios = np.array([other.predict(it, state) / one.predict(it, state) for it in networks])
        subject = f"two builds, {state}"
        hours = f"{one.provenance.date} and {other.provenance.date}"
        yield Line(subject, "built", hours)
        differences = np.abs(ratios - 1)
        yield bounded(subject, "mean difference", float(differences.mean()), 0.03, percent)
        yield Line(subject, "largest difference", percent(float(differences.max())))
        factors = [unit.factor(change, one.sums(it), state).value for it in networks]
        rest = np.abs(ratios * factors - 1)
        yield Line(subject, "mean difference in the first one's unit", percent(float(rest.mean())))


def as_predicted(table: LatencyTable, reference: Reference) -> Reference:
    """A reference with the latencies that a table tells for it."""
    network = reference.network
    warm_ms, cold_ms = (table.predict(network, state) for state in STATES)
    return Reference(network=network, warm_ms=warm_ms, cold_ms=cold_ms)


def exactly(ms: float) -> Estimate:
    """A latency of which nothing but its value is known."""
    return Estimate(ms, UNIT_ERROR * ms, 2)


def of_closed(bench: Bench) -> Iterator[Line]:
    """All methods slimmed to three targets; what is delivered, measured again afterwards."""
    space, out = SearchSpace.load(CLOSED_SPACE), bench.out
    run_path, path = out / "run", bench.table_path(CLOSED_SPACE)
    with ProgressBar("closed loop") as bar:
        if (run_path / "run.json").exists():
            run = Run.open(run_path)
        else:
            settings = SupernetSettings(epochs=CLOSED_EPOCHS)
            run = pipeline.train(space, run_path, settings=settings, progress=bar)
        table = pipeline.build_table(run.space, path, force=True, progress=bar)
        for state in STATES:
            largest = table.predict(run.space.largest(), state)
            targets = tuple({"latency_ms": share * largest} for share in TARGET_SHARES)
            plan = Plan(targets=targets, state=state, evaluations=CLOSED_EVALUATIONS)
            folder = out / bench.condition / f"slim_{state}"
            result = pipeline.slim(
                run, table, plan, folder, accept_tables=True, force=True, progress=bar
            )
            yield from of_delivered(f"closed loop, {state}", result, run.space, table, state)


def of_delivered(
    subject: str, result: object, space: SearchSpace, table: LatencyTable, state: State
) -> Iterator[Line]:
    """Measured again over the target, of every delivered network.

    One that says why it is not near its target, in brackets, need not be.
    """
    finals = [it for it in result.networks if it.target]
    made = {it.assignment: space.decode(it.assignment) for it in finals}
    graphs = LayerGraphs()
    models = {network_name(it): partial(graphs.network, it) for it in made.values()}
    rng = np.random.default_rng(123)
    sums = {network_name(it): table.sums(it) for it in made.values()}
    again = Session(table.target, models, rng, table.unit, sums=sums).measure()
    for target in result.targets:
        of_target = [it for it in finals if it.target == target]
        ratios = {
            it.name: again.latencies[network_name(made[it.assignment])].of(state).ms
            / target["latency_ms"]
            for it in of_target
        }
        far = {it.name for it in of_target if it.remark}
        text = ", ".join(
            f"({name} {ratio:.3f})" if name in far else f"{name} {ratio:.3f}"
            for name, ratio in ratios.items()
        )
        figure = f"{target['latency_ms']:.3f} ms, measured again over target"
        near = [ratio for name, ratio in ratios.items() if name not in far]
        good = all(it <= 1.02 for it in ratios.values()) and all(it >= 0.93 for it in near)
        yield Line(subject, figure, text, "0.93 to 1.02", good)
        apart = max(near) / min(near) - 1 if near else 0.0
        yield bounded(subject, f"{figure}, apart", apart, 0.04, percent)
    noise = np.mean([again.latencies[name].of(state).half_width / 2 for name in models])
    yield Line(subject, "noise of measuring again", percent(float(noise)))


def of_shares(bench: Bench) -> Iterator[Line]:
    """Prices of layers add up to the prediction."""
    name = bench.spaces[0]
    table, worst = LatencyTable.load(bench.table_path(name)), 0.0
    for network in pick_networks(SearchSpace.load(name), np.random.default_rng(3), COMPARED):
        for state in STATES:
            total = table.predict(network, state)
            worst = max(worst, abs(sum(table.shares(network, state)) / total - 1))
    yield bounded("prices of layers", "sum over prediction, less 1", worst, 1e-9, "{:.0e}".format)


def of_demo(bench: Bench) -> Iterator[Line]:
    """``nas demo`` as a user runs it."""
    folder = bench.out / bench.condition / "demo"
    begun = time.perf_counter()
    command = [sys.executable, "-m", "nas", "demo", "--out", str(folder), "--json"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    minutes = (time.perf_counter() - begun) / 60
    most = 4 if bench.condition == "idle" else 7
    yield bounded("nas demo", "minutes", minutes, most, "{:.1f}".format)
    if found.returncode:
        yield Line("nas demo", "ended with", found.stderr.strip().splitlines()[-1], "", False)
        return
    table = LatencyTable.load(folder / "demo_64px_cpu.csv")
    failures = judge(table.validation).failures
    yield Line("nas demo", "its table", "; ".join(failures) or "passes", "passes", not failures)


PART_LINES: dict[str, Callable[[Bench], Iterator[Line]]] = {
    "simulated": of_simulated,
    "tables": of_tables,
    "loop": of_loop,
    "builds": of_builds,
    "closed": of_closed,
    "shares": of_shares,
    "demo": of_demo,
}


def bounded(
    subject: str, figure: str, value: float, bound: float, text: Callable[[float], str]
) -> Line:
    """A figure with its upper bound."""
    if not np.isfinite(bound):
        return Line(subject, figure, text(value))
    return Line(subject, figure, text(value), f"≤ {text(bound)}", bool(value <= bound))


def percent(share: float) -> str:
    """``0.0123`` as ``1.2 %``."""
    return f"{100 * share:.1f} %"


if __name__ == "__main__":
    main()
