"""The unit of a table: the latencies of its reference networks, which survive the day.

From one hour to the next a machine may be faster or slower, whatever it runs; and a host whose
other guests are busy fetches weights more slowly and keeps fewer of them in its caches, while it
computes as before. Who measures later measures the references in the same turns, finds what the
machine is like now, and tells latencies in the table's unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field
from scipy.optimize import least_squares

from nas.architecture import Architecture
from nas.documents import Value
from nas.latency.calibration import Calibration, Machine, RowSums
from nas.latency.estimator import STATES, Estimate, Measurement, State

WORTH_TELLING = 0.03
"""A machine that is faster or slower than a table's by more than this is reported."""

WORTH_SPREAD = 0.10
"""A machine whose speed varied by more than this share is reported."""

MODEL_SHARE, LEAST_ERROR = 0.1, 0.02
"""Of what a reference's change differs by from the others', which three numbers do not tell; and
the least error of a reference, as its few sessions differ (benchmarks/sessions.py)."""

USUAL_CHANGES = 1.0, 0.2, 0.4
"""Standard deviations of logarithms from hour to hour: of a machine's time of computing, of
fetching over that, and of the room in caches."""

SLOPE_STEP = 1e-4

LEAST_COMPUTING = 0.1
"""Of a model's latency, however many weights it has."""

Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Reference(Value):
    """A network whose latencies tell what the machine is like."""

    network: Architecture
    warm_ms: Milliseconds
    cold_ms: Milliseconds

    def ms(self, state: State) -> float:
        return self.warm_ms if state == "warm" else self.cold_ms


class Factor(NamedTuple):
    """What brings a latency into a table's unit, and its relative error."""

    value: float
    error: float


@dataclass(frozen=True)
class Change:
    """A machine now, against a table's hour; ``covariance`` (3, 3) of its logarithms."""

    machine: Machine
    covariance: np.ndarray


@dataclass(frozen=True)
class Unit:
    """The references of a table, the first of which tells a user the machine's speed.

    ``sums`` are those of their rows, and ``calibration`` says how latencies come from them.
    """

    references: tuple[Reference, ...]
    sums: tuple[RowSums, ...]
    calibration: Calibration

    def find_change(self, now: Mapping[State, Sequence[Estimate | None]]) -> Change:
        """What the machine is like where the references take ``now``, in their order.

        The most likely change, of those that are usual, given what each reference takes that was
        measured.
        """
        seen = [
            (sums, state, math.log(it.ms / reference.ms(state)), it.error / it.ms)
            for state in STATES
            for sums, reference, it in zip(self.sums, self.references, now[state], strict=True)
            if it
        ]
        mean = float(np.mean([log for _, _, log, _ in seen]))

        def misfit(logs: np.ndarray) -> np.ndarray:
            machine = Machine(*np.exp(logs))
            found = [
                (self._growth(sums, machine, state) - log)
                / math.hypot(error, MODEL_SHARE * (log - mean), LEAST_ERROR)
                for sums, state, log, error in seen
            ]
            compute, fetching, cache = logs
            changes = np.array([compute, fetching - compute, cache])
            return np.array([*found, *(changes / USUAL_CHANGES)])

        best = least_squares(misfit, np.zeros(len(USUAL_CHANGES)))
        covariance = np.linalg.inv(best.jac.T @ best.jac)
        return Change(Machine(*np.exp(best.x).tolist()), covariance)

    def factor(self, change: Change, sums: RowSums, state: State) -> Factor:
        """What brings a latency of now into the table's unit, of a network with these sums."""
        logs, growth = np.log(change.machine), self._growth(sums, change.machine, state)
        moved = [Machine(*np.exp(logs + move)) for move in SLOPE_STEP * np.eye(len(logs))]
        slopes = (np.array([self._growth(sums, it, state) for it in moved]) - growth) / SLOPE_STEP
        error = float(np.sqrt(slopes @ change.covariance @ slopes))
        return Factor(float(np.exp(-growth)), error)

    def guess_sums(self, parameters: int, warm_ms: float) -> RowSums:
        """The sums of a model whose layers are not known, by its parameters and latency."""
        price = sum(it.cold - it.warm for it in self.sums) / sum(it.params for it in self.sums)
        excess = max(price * parameters, 0.0)
        alone = RowSums(warm_ms, warm_ms + excess, parameters, 0)
        fetched = self.calibration.latency(alone) - self.calibration.factor * warm_ms
        computed = max(warm_ms - fetched, LEAST_COMPUTING * warm_ms) / self.calibration.factor
        return RowSums(computed, computed + excess, parameters, 0)

    def describe_shift(self, shift: Mapping[State, float], subject: str) -> str | None:
        """A line on a machine that takes 1 + ``shift`` as long now; None where it hardly differs.

        ``shift`` is the first reference's, ``subject`` names the table.
        """
        state = max(STATES, key=lambda state: abs(shift[state]))
        if abs(shift[state]) <= WORTH_TELLING:
            return None
        then = self.references[0].ms(state)
        return (
            f"this machine is {100 * abs(shift[state]):.0f} % "
            f"{'slower' if shift[state] > 0 else 'faster'} now than when {subject} was measured: "
            f"its reference network takes {then * (1 + shift[state]):.3f} ms, then {then:.3f} ms "
            f"({state}); latencies are told as of then"
        )

    def on(self, machine: Machine) -> Unit:
        """The unit of that machine's hour."""
        references = [
            Reference(
                network=it.network,
                warm_ms=it.warm_ms * np.exp(self._growth(sums, machine, "warm")),
                cold_ms=it.cold_ms * np.exp(self._growth(sums, machine, "cold")),
            )
            for it, sums in zip(self.references, self.sums, strict=True)
        ]
        return Unit(tuple(references), self.sums, self.calibration.on(machine))

    def _growth(self, sums: RowSums, machine: Machine, state: State) -> float:
        """The logarithm of how much longer a network takes on that machine."""
        then, now = self.calibration, self.calibration.on(machine)
        return float(np.log(now.latency(sums, state) / then.latency(sums, state)))


def describe_machine(machine: Machine) -> str:
    """What a machine is like now, against a table's hour."""
    computing, fetching, room = (f"{100 * (it - 1):+.0f} %" for it in machine)
    return f"computing takes {computing}, fetching weights {fetching}; caches keep {room} of them"


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


def describe_int8(int8: Measurement, float32: Measurement) -> str | None:
    """A line on a network that int8 does not make faster; None where it clearly does."""
    if int8.ms_high < float32.ms_low:
        return None
    clearly = "clearly " if int8.ms < float32.ms else ""
    figures = f"{int8.ms:.3f} ms in int8, {float32.ms:.3f} ms in float32"
    return f"int8 is not {clearly}faster than float32 on this device: {figures}"
