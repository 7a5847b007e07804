"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


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
        console = Console(highlight=False, markup=False, width=160)
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


def print_networks(rows: Sequence[Mapping[str, Any]], *, title: str) -> None:
    """The final table of a search: one network a line, with every latency among its costs."""
    latencies = list(rows[0]["latencies"])
    targets = {str(row["target"]) for row in rows if row["target"]}
    several = len(targets) > 1
    print_table(
        (
            "network",
            *(("target",) if several else ()),
            *("test accuracy", "parameters", "MACs"),
            *(
                f"{kind} {_latency(name)}"
                for name in latencies
                for kind in ("predicted", "measured")
            ),
            "MES",
        ),
        [
            (
                str(row["name"]),
                *((_bounds(row["target"]),) if several else ()),
                share(row["test_accuracy"]),
                count(row["params"]),
                count(row["macs"]),
                *(
                    milliseconds(row["latencies"][name][kind])
                    for name in latencies
                    for kind in ("predicted", "measured")
                ),
                f"{row['mes']:.1f}",
            )
            for row in rows
        ],
        title=title,
    )


def milliseconds(number: float | None) -> str:
    """``0.2345`` as ``0.234``."""
    return "-" if number is None else f"{number:.3f}"


def _latency(name: str) -> str:
    """``latency_ms[cpu]`` as ``ms [cpu]``."""
    return "ms" + name.removeprefix("latency_ms").replace("[", " [")


def _bounds(target: Mapping[str, float] | None) -> str:
    return ", ".join(f"{bound:g}" for bound in target.values()) if target else "-"


def print_retrained(result: Mapping[str, Any]) -> None:
    """Test accuracies of a retrained network, beside what it had inherited."""
    print_table(
        ("network", "parameters", "MACs", "inherited", "retrained"),
        [
            (
                result["architecture"] or "-",
                count(result["params"]),
                count(result["macs"]),
                share(result["inherited_test_accuracy"]),
                share(result["test_accuracy"]),
            )
        ],
        title=f"accuracy on {result['test_images']} test images of {result['data']}",
    )
