"""The costs of a space's networks, by one latency table or by those of several devices."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from nas.documents import did_you_mean
from nas.errors import UserError
from nas.latency.table import LatencyTable
from nas.latency.target import detect_again
from nas.space import Assignment, SearchSpace

LATENCY = "latency_ms"


def latency_names(tables: Collection[str]) -> dict[str, str]:
    """The name of each table's latency among the costs; ``latency_ms`` where there is one table."""
    if len(tables) == 1:
        return dict.fromkeys(tables, LATENCY)
    return {name: f"{LATENCY}[{name}]" for name in tables}


@dataclass(frozen=True, eq=False)
class Prices:
    """The costs of assignments by tables with names: ``latency_ms``, ``params`` and ``macs``.

    With several tables each has a latency of its own: ``latency_ms[cpu]``.
    """

    space: SearchSpace
    tables: Mapping[str, LatencyTable]

    @cached_property
    def latencies(self) -> Mapping[str, LatencyTable]:
        """The table behind each latency among the costs."""
        names = latency_names(self.tables)
        return {names[name]: table for name, table in self.tables.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the costs."""
        return (*self.latencies, "params", "macs")

    def cost(self, assignment: Assignment) -> dict[str, float]:
        """``LatencyTable.cost`` of the architecture, by every table."""
        placed = list(self.space.placed(assignment))
        found = {name: table.cost_of(placed) for name, table in self.latencies.items()}
        latencies = {name: costs.pop(LATENCY) for name, costs in found.items()}
        return {**latencies, **next(iter(found.values()))}

    def require_name(self, name: str, where: str) -> None:
        """Raise UserError unless ``name`` is one of the costs."""
        if name not in self.names:
            raise UserError(
                f"{where}: no cost is called '{name}'{did_you_mean(name, self.names)}; "
                f"there are {', '.join(self.names)}"
            )

    def measurable(self) -> dict[str, LatencyTable]:
        """The tables that were built on this machine's devices, by their latencies."""
        return {name: table for name, table in self.latencies.items() if _is_here(table)}


def _is_here(table: LatencyTable) -> bool:
    try:
        return not table.target.difference(detect_again(table.target))
    except UserError:  # there is no such device or runtime here
        return False
