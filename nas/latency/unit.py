"""The unit of a table: the latency of a reference network, which survives the day.

From one hour to the next a machine may be faster or slower, whatever it runs. Who measures later
measures the reference in the same turns, and tells latencies in the table's unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from nas.architecture import Architecture
from nas.documents import Value
from nas.latency.estimator import STATES, State

WORTH_TELLING = 0.03
"""A machine that is faster or slower than a table's by more than this is reported."""

WORTH_SPREAD = 0.10
"""A machine whose speed varied by more than this share is reported."""

Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Reference(Value):
    """The network whose latencies are the unit of a table."""

    network: Architecture
    warm_ms: Milliseconds
    cold_ms: Milliseconds

    def ms(self, state: State) -> float:
        return self.warm_ms if state == "warm" else self.cold_ms

    def describe_shift(self, shift: Mapping[State, float], subject: str) -> str | None:
        """A line on a machine that takes 1 + ``shift`` as long now; None where it hardly differs.

        ``subject`` names the table.
        """
        state = max(STATES, key=lambda state: abs(shift[state]))
        if abs(shift[state]) <= WORTH_TELLING:
            return None
        then, now = self.ms(state), self.ms(state) * (1 + shift[state])
        return (
            f"this machine is {100 * abs(shift[state]):.0f} % "
            f"{'slower' if shift[state] > 0 else 'faster'} now than when {subject} was measured: "
            f"its reference network takes {now:.3f} ms, then {then:.3f} ms ({state}); latencies "
            "are told as of then"
        )


def describe_spread(spread: tuple[float, float]) -> str | None:
    """A line on a machine whose speed varied while it measured; None where it hardly did.

    ``spread``: how much faster and slower than in the median it was, 5 % of the time each.
    """
    faster, slower = spread
    if max(-faster, slower) <= WORTH_SPREAD:
        return None
    return (
        f"this machine's speed varied while it measured: runs took {100 * faster:+.0f} % to "
        f"{100 * slower:+.0f} % of their median; that is taken out"
    )
