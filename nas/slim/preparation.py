"""Before a search: whether the tables fit the run and this machine, and the folder is free."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nas.errors import UserError
from nas.latency.calibration import judge
from nas.latency.prices import Prices
from nas.latency.table import LatencyTable
from nas.latency.target import detect_again
from nas.progress import Progress
from nas.slim.journal import Identity
from nas.slim.plan import Plan
from nas.slim.result import FILES
from nas.training.run import Run

JOURNAL = "journal.jsonl"


def usable_tables(
    run: Run, prices: Prices, *, accept_tables: bool, must_measure: bool = True
) -> dict[str, LatencyTable]:
    """The tables of this machine, by the names of their latencies.

    Raises:
        UserError: there is none and there must be one, or a table misses layers or failed its
            validation.
    """
    measured = prices.measurable()
    if must_measure and not measured:
        table = next(iter(prices.tables.values()))
        table.require_target(detect_again(table.target))
    for table in prices.tables.values():
        table.require_layers(run.space, str(run.space_path))
        if not accept_tables:
            table.require_trust()
    return measured


def tell_doubts(prices: Prices, measured: Mapping[str, LatencyTable], progress: Progress) -> None:
    """A line for each table that is used in spite of its validation, or only predicts."""
    for name, table in prices.latencies.items():
        doubts = [doubt for kind in judge(table.validation) for doubt in kind]
        if doubts:
            progress.say(f"{table.path} is used although {'; '.join(doubts)}")
        if name not in measured:
            progress.say(f"{name} is predicted only: {table.path} is of another machine or runtime")


def require_free(out: Path, *, resume: bool, force: bool) -> None:
    """Raise UserError if a search, finished or stopped, would be written over."""
    if resume or force:
        return
    if (out / FILES["result"]).exists():
        raise UserError(f"{out}: holds the results of a search; --force replaces them, or --out")
    if (out / JOURNAL).exists():
        raise UserError(
            f"{out}: holds a search that was stopped; --resume goes on, --force starts anew"
        )


def identify(run: Run, plan: Plan) -> Identity:
    """The identity of a search, which its journal begins with."""
    return Identity(weights_sha256=run.weights_sha256, images_sha256=run.split_sha256, plan=plan)
