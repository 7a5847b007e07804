"""The closed loop: bounds on predictions change until measured networks stand near their targets.

Each round measures the present network of every method and target together. A network that takes
longer than predicted lowers the bound of its own method and target by as much, and one that takes
less raises it; then the method chooses again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from nas.errors import UserError
from nas.printing import command
from nas.progress import SILENT, Progress
from nas.search import InfeasibleTarget
from nas.search.problem import Assignment, Costs

ROUNDS, FURTHER_ROUNDS = 8, 8
"""Rounds in which bounds fall and rise, and then those in which networks above a target go on."""
LAST = 2
"""The last rounds turn back to networks that met their targets."""
DESCENTS = 8
"""Choices in a row that only give networks which are known to be above the target."""
SETTLED, NEAR = 0.97, 0.96
"""Shares of a target: a network from the first on leaves no room; from the second on it is near."""
MOVES, SURE = 2, 0.01
"""Moves in which a network that is known so well, as a share, is to leave no room. After them, and
for others, it is enough to be near: noise asks for ever further networks."""
GRACE = 0.01
"""Share of a target that a network which is delivered may turn out to be above it."""
BELOW = 0.995
"""A bound falls by this factor more than the deviation asks for, so that each round changes
something."""
CLEAR = 2.0
"""Standard errors between two accuracies that count more than a place near the target."""


class Chooser(Protocol):
    """Chooses the best network that it knows of, or finds, within bounds on predictions."""

    @property
    def name(self) -> str: ...

    def choose(self, bounds: Costs) -> Assignment:
        """Raises InfeasibleTarget if no network is within the bounds."""


@dataclass(frozen=True)
class Judges:
    """What is known of networks: predicted costs, accuracy on so many images, measured latencies.

    ``measure`` measures networks together, on the account of those in its second argument, and
    returns of each its latencies by their names; ``tables`` are the files that predict them.
    ``uncertainty`` is half the interval of a network's latency, as a share of it; 0 where another
    session would not tell more.
    """

    cost: Callable[[Assignment], Costs]
    accuracy: Callable[[Assignment], float]
    images: int
    measure: Callable[[Sequence[Assignment], Sequence[Assignment]], Mapping[Assignment, Costs]]
    tables: Mapping[str, Path]
    uncertainty: Callable[[Assignment], float] = lambda _: 0.0


@dataclass
class Pair:
    """A method on its way to a target; it chose the networks in ``tried``."""

    method: Chooser
    target: Costs
    current: Assignment
    tried: list[Assignment] = field(init=False)
    is_settled: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.tried = [self.current]


@dataclass
class Loop:
    """``pairs`` end at networks that met their targets when they were measured together.

    Networks in ``beside`` are measured in every round too.
    """

    pairs: Sequence[Pair]
    judges: Judges
    beside: Sequence[Assignment] = ()
    progress: Progress = SILENT
    measured: dict[Assignment, Costs] = field(default_factory=dict, init=False)

    def run(self) -> None:
        """Measure and choose in turns; UserError if a target is not met in all rounds.

        Among noisy measurements the one that just meets a target is low by luck more often than
        not: what would be delivered is measured once more where it may be above.
        """
        finalists = asked = self._finalists()
        for left in reversed(range(ROUNDS + FURTHER_ROUNDS)):
            self.measured |= self.judges.measure(finalists, asked)
            if left:
                moved = [self._move(pair, left) for pair in self.pairs]
                finalists = self._finalists()
                asked = [it for it in finalists if it not in self.measured] or self._unsure()
                finalists = finalists if any(moved) else asked
                if not finalists:
                    return
        for pair in self.pairs:
            if self.share(pair.current, pair.target) > 1:
                raise self._missed(pair)

    def share(self, network: Assignment, target: Costs) -> float:
        """The largest share of a bound that a network takes, measured where it was measured."""
        known = {**self.judges.cost(network), **self.measured.get(network, {})}
        return max(known[name] / bound for name, bound in target.items())

    def _finalists(self) -> list[Assignment]:
        """The networks of a round, each once."""
        return list(dict.fromkeys([*self.beside, *(pair.current for pair in self.pairs)]))

    def _unsure(self) -> list[Assignment]:
        """Those that may take more than their targets, where another session would tell."""
        found = dict[Assignment, None]()
        for network, target in ((pair.current, pair.target) for pair in self.pairs):
            uncertainty = self.judges.uncertainty(network)
            if uncertainty and self.share(network, target) * (1 + uncertainty) > 1 + GRACE:
                found[network] = None
        return list(found)

    def _move(self, pair: Pair, left: int) -> bool:
        """Whether the pair turns to another network, to be measured in one of the rounds left."""
        share, best = self.share(pair.current, pair.target), self._best(pair)
        if pair.is_settled and share <= 1:
            return False
        is_sure = self.judges.uncertainty(pair.current) <= SURE
        enough = SETTLED if is_sure and len(pair.tried) <= MOVES else NEAR
        has_room = share < enough and left > FURTHER_ROUNDS
        is_near = best is not None and self.share(best, pair.target) >= NEAR
        goes_back = (pair.is_settled and is_near) or (best is not None and left <= LAST)
        if (share > 1 or has_room) and not goes_back:
            bounds = self._corrected(pair)
            if self._choose(pair, bounds) or (share > 1 and self._choose_below(pair, bounds)):
                self._tell(pair, share, bounds)
                return True
        pair.is_settled = True
        if best is None:
            raise self._missed(pair)
        before, pair.current = pair.current, best
        return best != before

    def _corrected(self, pair: Pair) -> dict[str, float]:
        """Bounds on predictions within which networks that deviate alike are at the target."""
        predicted, bounds = self.judges.cost(pair.current), dict(pair.target)
        for name, ms in self.measured[pair.current].items():
            if name in bounds:
                is_above = ms > bounds[name]
                bounds[name] *= predicted[name] / ms * (BELOW if is_above else 1)
        return bounds

    def _choose(self, pair: Pair, bounds: dict[str, float]) -> bool:
        """Turn to what the method chooses, passing by what is known to be above the target."""
        for _ in range(DESCENTS):
            try:
                found = pair.method.choose(bounds)
            except UserError as error:
                if isinstance(error, InfeasibleTarget) or self._best(pair) is not None:
                    return False
                raise
            if found not in pair.tried:
                pair.tried.append(found)
                pair.current, pair.is_settled = found, False
                return True
            if self.share(found, pair.target) <= 1:
                return False
            bounds.update(self._below(found, pair.target, bounds))
        return False

    def _choose_below(self, pair: Pair, bounds: dict[str, float]) -> bool:
        """Turn to a little smaller network than the present one, whose deviation was its own."""
        bounds.update(self._below(pair.current, pair.target, pair.target))
        return self._choose(pair, bounds)

    def _below(self, network: Assignment, target: Costs, bounds: Costs) -> dict[str, float]:
        """The bounds, below the predictions of a network where it was measured above a target."""
        predicted, measured = self.judges.cost(network), self.measured[network]
        return {
            name: min(bound, BELOW * predicted[name])
            if measured.get(name, 0.0) > target[name]
            else bound
            for name, bound in bounds.items()
        }

    def _best(self, pair: Pair) -> Assignment | None:
        """The network to deliver of those that were tried; None if none meets the target."""
        shares = {one: self.share(one, pair.target) for one in pair.tried}
        fitting = [one for one in pair.tried if shares[one] <= 1]
        if not fitting:
            return None
        accuracy = self.judges.accuracy
        near = [one for one in fitting if shares[one] >= NEAR]
        nearest = max(near, key=accuracy) if near else max(fitting, key=lambda one: shares[one])
        best = max(fitting, key=accuracy)
        is_clear = is_clearly_better(accuracy(best), accuracy(nearest), self.judges.images)
        return best if is_clear else nearest

    def _tell(self, pair: Pair, share: float, bounds: Costs) -> None:
        within = ", ".join(f"{name} <= {bound:.4g}" for name, bound in bounds.items())
        self.progress.say(
            f"{pair.method.name}: measured at {100 * share:.1f} % of the target; going on with "
            f"predictions of {within}"
        )

    def _missed(self, pair: Pair) -> UserError:
        measured, target = self.measured[pair.current], pair.target
        cost = max(measured.keys() & target.keys(), key=lambda name: measured[name] / target[name])
        count = len(pair.tried)
        tried = "its only network" if count == 1 else f"the last of {count} networks"
        return UserError(
            f"{pair.method.name}: {target[cost]:g} ms not met when measured: {tried} takes "
            f"{measured[cost]:.4g} ms; the table may be out of date: "
            f"{command('nas', 'check-lut', self.judges.tables[cost])}"
        )


def is_clearly_better(accuracy: float, other: float, images: int) -> bool:
    """Whether an accuracy on so many images is above another by more than chance makes likely."""
    return accuracy - other > CLEAR * math.sqrt(accuracy * (1 - accuracy) / images)
