"""Tables and progress bars on the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import rich.progress
from rich import box
from rich.console import Console
from rich.table import Table

from nas.documents import write_atomically
from nas.printing import MOST_OF_A_CELL, print_line, readable

if TYPE_CHECKING:
    from nas.latency.estimator import State
    from nas.slim.result import FinalNetwork, RivalNetwork, SearchResult
    from nas.training.check import Check

LINE_SECONDS = 20.0
"""Between two lines of progress where standard error is no terminal."""

LITTLE_KNOWN = 0.05
"""Of a latency: half an interval beyond which it is shown."""


class ProgressBar:
    """The ``Progress`` of a terminal: a bar on standard error, elsewhere now and then a line."""

    def __init__(self, title: str, *, quiet: bool = False) -> None:
        self._title, self._quiet = title, quiet
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._progress: rich.progress.Progress | None = None
        if self._console.is_terminal and not quiet:
            self._progress = rich.progress.Progress(
                rich.progress.TextColumn("{task.fields[text]}", markup=False),
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
            label = readable(label, MOST_OF_A_CELL)
            self._progress.update(self._task, text=label, completed=done, total=total)
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self.say(f"{self._title}: {text} {done}" + (f" of {total}" if total else ""))

    def say(self, line: str) -> None:
        if self._quiet:
            return
        self._last_line = time.monotonic()
        if self._progress:
            self._progress.console.print(readable(line))
        else:
            print_line(line, file=sys.stderr)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None
) -> None:
    """Print aligned columns; all but the first are right-aligned."""
    heading = title and readable(title, MOST_OF_A_CELL)
    table = Table(title=heading, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        side: Literal["left", "right"] = "left" if index == 0 else "right"
        table.add_column(readable(column, MOST_OF_A_CELL), justify=side, overflow="fold")
    for row in rows:
        table.add_row(*(readable(cell, MOST_OF_A_CELL) for cell in row))
    # without markup: the name latency_ms[cpu] is no style
    console = Console(highlight=False, markup=False, emoji=False)
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
    text: Callable[[FinalNetwork | RivalNetwork], str]


ACCURACY = Column("test accuracy", lambda network: share(network.test_accuracy))
SIZES = (
    Column("parameters", lambda network: count(network.costs["params"])),
    Column("MACs", lambda network: count(network.costs["macs"])),
)
OF_TARGET = Column("of target", lambda network: share(network.of_target))
SCORES = (Column("MES", lambda it: "-" if it.score is None else f"{it.score:.1f}"),)
"""Sizes and scores are columns of the terminal's table and of the page's: add others here."""


STATES_MEAN = (
    "warm: the network runs again and again, as a benchmark's loop does; cold: its first run after "
    "other work had the caches, as in an application."
)
"""What the two latencies of a network are; stands below tables that show both."""


def print_networks(
    networks: Sequence[FinalNetwork], *, title: str, rivals: Sequence[RivalNetwork] = ()
) -> None:
    """Print the final table of a search: a network a line, with the latency of every table."""
    several = len({str(network.target) for network in networks if network.target}) > 1
    times = [it for cost in latencies(networks[0].costs) for it in _latency_columns(cost, networks)]
    targets = [Column("target", _bounds)] if several else []
    near = [OF_TARGET] if any(network.of_target for network in networks) else []
    columns = [*targets, ACCURACY, *SIZES, *times, *near, *SCORES]
    rows: list[FinalNetwork | RivalNetwork] = [*networks, *rivals]
    print_table(
        ("network", *(column.title for column in columns)),
        [(network.name, *(column.text(network) for column in columns)) for network in rows],
        title=title,
    )
    for network in networks:
        if network.remark:
            owner = f"{network.name} to {_bounds(network)}" if several else network.name
            print_line(f"{owner}: {network.remark}")
    if has_states(networks):
        print_line(STATES_MEAN)


def has_states(networks: Iterable[FinalNetwork]) -> bool:
    """Whether latencies were measured in both states; version 0.1 knew one."""
    return len({latency.state for network in networks for latency in network.latencies}) > 1


def latencies(costs: Iterable[str]) -> list[str]:
    """The names of those costs that are latencies: one for each table."""
    return [name for name in costs if name.partition("[")[0] == "latency_ms"]


def _bounds(network: FinalNetwork | RivalNetwork) -> str:
    return ", ".join(f"{bound:g}" for bound in (network.target or {}).values()) or "-"


def predicted_text(network: FinalNetwork | RivalNetwork, cost: str) -> str:
    """``1.234``, or ``-`` where nothing can be predicted."""
    found = network.predicted(cost)
    return "-" if found is None else f"{found:.3f}"


def measured_text(network: FinalNetwork | RivalNetwork, cost: str, state: State) -> str:
    """``1.234``, ``1.234 ± 0.150`` where that is little known, ``-`` where nothing was measured."""
    found = network.measured(cost, state)
    if found is None:
        return "-"
    half = (found.high - found.low) / 2
    is_known = half <= LITTLE_KNOWN * found.measured
    return f"{found.measured:.3f}" if is_known else f"{found.measured:.3f} ± {half:.3f}"


def _latency_columns(cost: str, networks: Sequence[FinalNetwork]) -> list[Column]:
    """The predicted and the measured latency ``latency_ms[cpu]``, titled ``ms [cpu]``.

    Those of the target's state stand first, then what was measured in the other.
    """
    name, state = "ms" + cost.removeprefix("latency_ms").replace("[", " ["), networks[0].state
    columns = [
        Column(f"predicted {state} {name}", lambda network: predicted_text(network, cost)),
        Column(f"measured {state} {name}", lambda network: measured_text(network, cost, state)),
    ]
    other: State = "cold" if state == "warm" else "warm"
    if any(network.measured(cost, other) for network in networks):
        columns.append(
            Column(f"{other} {name}", lambda network: measured_text(network, cost, other))
        )
    return columns


def print_search(result: SearchResult, *, title: str | None = None) -> None:
    """Print the final table of a search, the verdict for each target, and what it is worth."""
    print_networks(
        result.networks, title=title or f"{result.space}, {result.data}", rivals=result.rivals
    )
    for line in (*result.verdicts, *filter(None, [result.evidence]), ""):
        print_line(line)


def print_retrained(result: Mapping[str, Any]) -> None:
    """Print test accuracies of a retrained network, beside the inherited ones."""
    sizes = count(result["params"]), count(result["macs"])
    accuracies = share(result["inherited_test_accuracy"]), share(result["test_accuracy"])
    print_table(
        ("network", "parameters", "MACs", "inherited", "retrained"),
        [(result["architecture"] or "-", *sizes, *accuracies)],
        title=f"accuracy on {result['test_images']} test images of {result['data']}",
    )


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
    print_line(
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


def shape_text(shape: Iterable[int]) -> str:
    """``(3, 64, 64)`` as ``3x64x64``."""
    return "x".join(map(str, shape))
