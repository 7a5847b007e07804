"""Tables and progress bars on the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import rich.progress
from rich import box
from rich.console import Console
from rich.table import Table

from nas.documents import write_atomically

if TYPE_CHECKING:
    from nas.latency.estimator import State
    from nas.latency.networks import Drift
    from nas.latency.profile import Profile
    from nas.latency.table import LatencyTable
    from nas.latency.target import Target
    from nas.slim.result import FinalNetwork, SearchResult
    from nas.statistics import Interval
    from nas.training.check import Check

Classes = Sequence[Mapping[str, float]]
"""Of each profile the ms of its classes of layers, or of operators."""
LINE_SECONDS = 20.0
"""Between two lines of progress where standard error is no terminal."""


class ProgressBar:
    """The ``Progress`` of a terminal: a bar on standard error, elsewhere now and then a line."""

    def __init__(self, title: str, *, quiet: bool = False) -> None:
        self._title, self._quiet = title, quiet
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._progress: rich.progress.Progress | None = None
        if self._console.is_terminal and not quiet:
            self._progress = rich.progress.Progress(
                rich.progress.TextColumn("{task.fields[text]}"),
                rich.progress.BarColumn(),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TimeElapsedColumn(),
                rich.progress.TextColumn("left"),
                rich.progress.TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._progress.add_task(title, text=title, total=None)
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress:
            self._progress.stop()

    def update(self, text: str, done: int, total: int | None = None) -> None:
        if self._progress:
            label = f"{self._title}: {text}" if text else self._title
            self._progress.update(self._task, text=label, completed=done, total=total)
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self.say(f"{self._title}: {text} {done}" + (f" of {total}" if total else ""))

    def say(self, line: str) -> None:
        if self._quiet:
            return
        self._last_line = time.monotonic()
        if self._progress:
            self._progress.console.print(line)
        else:
            print(line, file=sys.stderr, flush=True)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None
) -> None:
    """Print aligned columns; all but the first are right-aligned."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    # without markup: the name latency_ms[cpu] is no style
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # a pipe or a file has no edge at which to wrap
        console.width = 160
    console.print(table)


def count(number: float) -> str:
    """``3600256`` as ``3.60 M``."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.2f} {unit}"
    return f"{number:g}"


def share(number: float | None) -> str:
    """``0.913`` as ``91.3 %``."""
    return "-" if number is None else f"{100 * number:.1f} %"


class Column(NamedTuple):
    """A column of the final table of a search."""

    title: str
    text: Callable[[FinalNetwork], str]


ACCURACY = Column("test accuracy", lambda network: share(network.test_accuracy))
SIZES = (
    Column("parameters", lambda network: count(network.costs["params"])),
    Column("MACs", lambda network: count(network.costs["macs"])),
)
OF_TARGET = Column("of target", lambda network: share(network.of_target))
SCORES = (Column("MES", lambda network: f"{network.score:.1f}"),)
"""Sizes and scores are columns of the terminal's table and of the page's: add others here."""


STATES_MEAN = (
    "warm: the network runs again and again, as a benchmark's loop does; cold: its first run after "
    "other work had the caches, as in an application."
)
"""What the two latencies of a network are; stands below tables that show both."""


def print_networks(networks: Sequence[FinalNetwork], *, title: str) -> None:
    """Print the final table of a search: a network a line, with the latency of every table."""
    several = len({str(network.target) for network in networks if network.target}) > 1
    times = [it for cost in latencies(networks[0].costs) for it in _latency_columns(cost, networks)]
    targets = [Column("target", _bounds)] if several else []
    near = [OF_TARGET] if any(network.of_target for network in networks) else []
    columns = [*targets, ACCURACY, *SIZES, *times, *near, *SCORES]
    print_table(
        ("network", *(column.title for column in columns)),
        [(network.name, *(column.text(network) for column in columns)) for network in networks],
        title=title,
    )
    for network in networks:
        if network.remark:
            owner = f"{network.name} to {_bounds(network)}" if several else network.name
            print(f"{owner}: {network.remark}")
    if has_states(networks):
        print(STATES_MEAN)


def has_states(networks: Iterable[FinalNetwork]) -> bool:
    """Whether latencies were measured in both states; version 0.1 knew one."""
    return len({latency.state for network in networks for latency in network.latencies}) > 1


def latencies(costs: Iterable[str]) -> list[str]:
    """The names of those costs that are latencies: one for each table."""
    return [name for name in costs if name.partition("[")[0] == "latency_ms"]


def _bounds(network: FinalNetwork) -> str:
    return ", ".join(f"{bound:g}" for bound in (network.target or {}).values()) or "-"


def measured_text(network: FinalNetwork, cost: str, state: State) -> str:
    """``1.234``, or ``-`` where nothing was measured."""
    found = network.measured(cost, state)
    return f"{found.measured:.3f}" if found else "-"


def _latency_columns(cost: str, networks: Sequence[FinalNetwork]) -> list[Column]:
    """The predicted and the measured latency ``latency_ms[cpu]``, titled ``ms [cpu]``.

    Those of the target's state stand first, then what was measured in the other.
    """
    name, state = "ms" + cost.removeprefix("latency_ms").replace("[", " ["), networks[0].state
    columns = [
        Column(f"predicted {state} {name}", lambda network: f"{network.costs[cost]:.3f}"),
        Column(f"measured {state} {name}", lambda network: measured_text(network, cost, state)),
    ]
    other: State = "cold" if state == "warm" else "warm"
    if any(network.measured(cost, other) for network in networks):
        columns.append(
            Column(f"{other} {name}", lambda network: measured_text(network, cost, other))
        )
    return columns


def print_search(result: SearchResult, *, title: str | None = None) -> None:
    """Print the final table of a search and the verdict for each target."""
    print_networks(result.networks, title=title or f"{result.space}, {result.data}")
    print(*result.verdicts, sep="\n", end="\n\n")


def print_retrained(result: Mapping[str, Any]) -> None:
    """Print test accuracies of a retrained network, beside the inherited ones."""
    sizes = count(result["params"]), count(result["macs"])
    accuracies = share(result["inherited_test_accuracy"]), share(result["test_accuracy"])
    print_table(
        ("network", "parameters", "MACs", "inherited", "retrained"),
        [(result["architecture"] or "-", *sizes, *accuracies)],
        title=f"accuracy on {result['test_images']} test images of {result['data']}",
    )


def print_validation(table: LatencyTable) -> None:
    """Print a table's errors on networks that it was not calibrated on, beside those of MACs."""
    found = table.validation
    target, modelled = table.target, sum(group.modelled for group in table.provenance.modelled)
    title = (
        f"{len(table.rows)} layers on {target.hardware}, {target.runtime} "
        f"{target.runtime_version}, {target.threads} thread(s)"
    )
    if found is None:
        print_table((title,), [("not validated",)])
        return
    if modelled:
        title += f"; {modelled} of the layers modelled"
    errors = {"table": found.calibrated, "table, uncalibrated": found.raw, "MACs alone": found.macs}
    print_table(
        ("prediction", "mean error", "bias", "largest", "within 5 %", "Spearman", "Kendall"),
        [
            (
                name,
                *(share(it.mape), f"{100 * it.bias:+.1f} %", share(it.max_error)),
                f"{100 * it.within_5:.0f} %",
                _correlation(it.spearman, it.spearman_interval),
                _correlation(it.kendall, it.kendall_interval),
            )
            for name, it in errors.items()
        ],
        title=title,
    )
    print(
        f"on {found.calibrated.networks} held-out networks of {found.least_ms:.2f} to "
        f"{found.most_ms:.2f} ms; measuring one twice differs by {100 * found.noise_floor:.1f} %"
    )


def print_drift(drift: Drift, path: Path, *, rebuild: str) -> None:
    """Print whether a table holds; ``rebuild`` is the command that builds it again."""
    shift, errors = f"{100 * drift.shift:+.1f} %", (drift.mape_before, drift.mape_after)
    ranks = f"{drift.spearman:.3f}", f"{drift.kendall:.3f}"
    print_table(
        ("networks", "shift", "mean error", "after shifting", "Spearman", "Kendall"),
        [(str(drift.networks), shift, *map(share, errors), *ranks)],
        title=f"{path}: whole networks measured again",
    )
    verdicts = {
        "none": "the table holds",
        "re-anchor": f"shifted: all latencies by {shift}; {path.stem}.json "
        "keeps the earlier calibration",
        "rebuild": f"the table does not hold any more; build it again: {rebuild}",
    }
    print(verdicts[drift.action])


def _correlation(value: float, interval: Interval | None) -> str:
    """``0.998 (0.991 to 0.999)``."""
    text = f"{value:.3f}"
    return text if interval is None else f"{text} ({interval[0]:.3f} to {interval[1]:.3f})"


def print_check(check: Check) -> None:
    """Print inherited and stand-alone accuracies, smallest network first, and their correlation."""
    rows = []
    for number, network in enumerate(check.compared, start=1):
        sizes = count(network.params), count(network.macs)
        alone = " ".join(map(share, network.alone))
        gap = f"{100 * (network.inherited - network.mean_alone):+.1f}"
        rows.append((str(number), *sizes, share(network.inherited), alone, gap))
    print_table(
        ("network", "parameters", "MACs", "inherited", "alone", "gap"),
        rows,
        title=f"accuracy on {check.images} images of the search slice",
    )
    (low, high), between = check.tau_interval, check.tau_between_seeds
    seeds = "" if between is None else f"; {between:.2f} between the seeds"
    print(
        f"Kendall tau {check.tau:.2f} (95 %: {low:.2f} to {high:.2f}) between inherited and "
        f"stand-alone accuracy{seeds}; mean gap {100 * check.gap:+.1f} points"
    )


def write_check(path: Path, check: Check) -> None:
    """Write a network of a check a line as CSV, smallest first."""
    import pandas as pd

    rows = [
        {
            **network.model_dump(include={"params", "macs", "inherited"}),
            "alone": network.mean_alone,
            **{f"alone_{seed}": accuracy for seed, accuracy in enumerate(network.alone)},
        }
        for network in check.compared
    ]
    write_atomically(path, pd.DataFrame(rows).to_csv(index=False))


def print_profiles(profiles: Sequence[Profile], target: Target) -> None:
    """Print tables by kind of layer and by class of operator; of a single network each layer."""
    if len(profiles) == 1:
        (profile,) = profiles
        total, rows = sum(profile.parts.values()), []
        for it in profile.layers:
            names = it.layer.slot, it.layer.signature, shape_text(it.input_shape)
            rows.append((*names, _cell(it.found.ms, total)))
        print_table(("slot", "layer", "input", "ms"), rows, title=profile.name)
    _print_shares("layers", profiles, [profile.parts for profile in profiles])
    print("measured: the whole network, which also fetches from memory what no cache holds")
    operators = [profile.operators for profile in profiles if profile.operators is not None]
    if operators:
        _print_shares("operators", profiles, operators)
    else:
        print(f"{target.runtime} has no profiler for {target.device}: classes of layers only")


def _print_shares(title: str, profiles: Sequence[Profile], classes: Classes) -> None:
    times = {name: [it.get(name, 0.0) for it in classes] for name in class_names(classes)}
    by_time = sorted(times, key=lambda name: -max(times[name]))
    totals = [sum(it.values()) for it in classes]
    ends = {"sum": totals, "measured": [profile.whole.ms for profile in profiles]}
    print_table(
        (title, *(profile.name for profile in profiles)),
        [
            *((name, *map(_cell, times[name], totals)) for name in by_time),
            *((name, *(f"{ms:.3f} ms      " for ms in found)) for name, found in ends.items()),
        ],
    )


def shape_text(shape: Iterable[int]) -> str:
    """``(3, 64, 64)`` as ``3x64x64``."""
    return "x".join(map(str, shape))


def _cell(ms: float, total: float) -> str:
    return f"{ms:.3f} ms {100 * ms / total:3.0f} %"


def class_names(classes: Classes) -> list[str]:
    """The classes of layers or of operators in these profiles, in the order of their lists."""
    from nas.latency.profile import OPERATORS, PARTS

    order = [*PARTS.values(), *OPERATORS]
    names = dict.fromkeys(name for times in classes for name in times)
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))
