"""Expected latency as a term of the loss: what the mix of all path choices costs on a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from torch import Tensor

from nas.documents import Value

if TYPE_CHECKING:
    from nas.latency.table import LatencyTable
    from nas.space import SearchSpace

Milliseconds = Annotated[float, Field(ge=0)]


class LatencyTerm(Value):
    """``weight`` times the expected ms of all path choices, as a share of the largest network's.

    ``ms`` holds for each path choice what its candidates cost at the largest widths. A run records
    them, so that it goes on alike whatever becomes of ``table``.
    """

    weight: Annotated[float, Field(gt=0)]
    table: str
    largest_ms: Annotated[float, Field(gt=0)]
    ms: dict[str, tuple[Milliseconds, ...]]

    def __str__(self) -> str:
        return f"{self.weight:g} (largest network {self.largest_ms:.3f} ms by {self.table})"

    def __call__(self, logits: Mapping[str, Tensor]) -> Tensor:
        """The term; expected under the softmax of the logits, which noise has no part in."""
        expected = [
            (one.softmax(0) * one.new_tensor(self.ms[slot])).sum() for slot, one in logits.items()
        ]
        total: Tensor = sum(expected[1:], start=expected[0])
        return self.weight * total / self.largest_ms


def price_paths(space: SearchSpace, table: LatencyTable, weight: float) -> LatencyTerm:
    """The term for a space, from the rows of a latency table.

    Raises:
        UserError: the table lacks a layer of the space.
    """
    table.require_layers(space)
    factor = table.calibration.factor
    return LatencyTerm(
        weight=weight,
        table=str(table.path),
        largest_ms=table.predict(space.largest()),
        ms={
            slot: tuple(factor * table.row(*placed).ms if placed else 0.0 for placed in candidates)
            for slot, candidates in space.paths.items()
        },
    )
