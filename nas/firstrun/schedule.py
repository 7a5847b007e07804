"""The plan of ``nas run``: a space and an effort that fit the time; arithmetic on facts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple

from pydantic import Field

from nas.documents import Value
from nas.errors import UserError
from nas.firstrun.estimate import Effort, estimate
from nas.firstrun.facts import DataFacts, Seconds, SpaceFacts
from nas.training.settings import FROM_WEIGHTS, RECIPES, SupernetSettings

DEFAULT_MINUTES = 60.0
"""What a run may take where nobody says how long; small data take less."""
MARGIN = 0.92
"""Of the minutes, which a plan fills at most: estimates err."""
ENOUGH = 0.12
"""Share of the wanted effort from which a dearer space is preferred to more training."""
SHARES = tuple(share / 100 for share in range(1, 101))

WANTED_STEPS, MOST_EPOCHS, LEAST_EPOCHS = 3000, 100, 3
"""Of a supernet that starts afresh; a hundred epochs use up a few hundred images."""
WANTED_ALONE, MOST_ALONE = 6000, 200
"""Steps and epochs of the last training, which is cheap, and to which accuracy owes most."""
MOST_EVALUATIONS, LEAST_EVALUATIONS = 100, 24
TARGET_SHARE = 0.5
"""Of the largest network's latency: the target where none is given."""
ROOM = 0.75
"""Of a target, which the smallest network should be below: a search needs networks to choose among.
"""
SEARCH_IMAGES, MOST_SEARCH_SHARE = 400, 0.25
"""A search slice of fewer images tells accuracies in steps of more than a quarter of a point."""


class Aim(NamedTuple):
    """What a plan is to reach: a latency, by default a share of the largest network's.

    ``is_pretrained``: whether trainings start from weights that are given.
    """

    target_ms: float | None = None
    is_pretrained: bool = False

    def target_in(self, place: SpaceFacts) -> float:
        """The target in ms, or what suits a place."""
        return self.target_ms or suggested_target(place)


class Schedule(Value):
    """The plan of a run: where it searches, to which target, how long each stage will take.

    Where no target was asked for, ``target_share`` of the largest network's latency is the target,
    which a table tells better than the plan's few visits. ``training_device`` is that of trainings;
    ``seconds`` are estimates by stage, and ``planning_seconds`` is what making this plan has taken.
    """

    place: SpaceFacts
    data: DataFacts
    effort: Effort
    target_ms: float
    target_share: Annotated[float, Field(gt=0, le=1)] | None = None
    training_device: str
    seconds: dict[str, float]
    planning_seconds: Seconds = 0.0

    @property
    def total(self) -> float:
        """Seconds of the whole run, planning included."""
        return self.planning_seconds + sum(self.seconds.values())

    @property
    def target_line(self) -> str:
        """The target, and what it is to be seen beside."""
        largest = f"{self.place.largest_ms:.2g}"
        return f"target: {self.target_ms:g} ms, where the largest network takes {largest}"

    def with_latencies(self, *, largest_ms: float, smallest_ms: float) -> Schedule:
        """The plan with what the largest and the smallest network take by a table."""
        update = {"largest_ms": largest_ms, "smallest_ms": smallest_ms}
        place = self.place.model_copy(update=update)
        share = self.target_share
        target_ms = suggested_target(place, share) if share else self.target_ms
        return self.model_copy(update={"place": place, "target_ms": target_ms})


def search_share(training_images: int) -> float:
    """The share of so many training images that a search looks at: more where they are few."""
    share = SEARCH_IMAGES / max(1, training_images)
    return round(min(MOST_SEARCH_SHARE, max(0.1, share)), 2)


def make_schedule(
    data: DataFacts,
    places: Sequence[SpaceFacts],
    aim: Aim,
    *,
    minutes: float | None,
    spent: float = 0.0,
    training_device: str = "cpu",
) -> Schedule:
    """The dearest of the places (cheapest first) that gets enough training within the minutes.

    Where none does, the one that gets most. ``spent`` are seconds that are gone already. Without
    ``minutes`` an hour is the bound, or the least that is needed. Raises UserError that says the
    least minutes, or the least reachable target.
    """
    places = reachable(places, aim.target_ms)
    left = 60 * (minutes or DEFAULT_MINUTES) - spent
    shares = [fitting_share(data, it, aim, left) for it in places]
    fitting = [(share, it) for share, it in zip(shares, places, strict=True) if share]
    if fitting:
        enough = [it for it in fitting if it[0] >= ENOUGH]
        share, place = enough[-1] if enough else max(fitting, key=lambda it: it[0])
    elif minutes is not None:
        raise UserError(_too_short(data, places, aim, minutes, spent))
    else:
        share, place = SHARES[0], _cheapest(data, places, aim)
    effort, target = effort_of(share, data, aim), aim.target_ms
    made = schedule_of(data, place, effort, target_ms=target, training_device=training_device)
    return made.model_copy(update={"planning_seconds": spent})


def schedule_of(
    data: DataFacts,
    place: SpaceFacts,
    effort: Effort,
    *,
    target_ms: float | None = None,
    target_share: float = TARGET_SHARE,
    training_device: str = "cpu",
) -> Schedule:
    """The plan of an effort that is given; without a target a share of the largest's latency."""
    share = None if target_ms else target_share
    target_ms = target_ms or suggested_target(place, target_share)
    return Schedule(
        place=place,
        data=data,
        effort=effort,
        target_ms=target_ms,
        target_share=share,
        training_device=training_device,
        seconds=estimate(data, place, effort, target_ms),
    )


def reachable(places: Sequence[SpaceFacts], target_ms: float | None) -> list[SpaceFacts]:
    """The places with networks well below the target, or below it where there are no others.

    Raises UserError that says the least reachable target where there are none.
    """
    if target_ms is None:
        return list(places)
    for share in (ROOM, 1.0):
        if found := [it for it in places if it.smallest_ms <= share * target_ms]:
            return found
    least = min(places, key=lambda it: it.smallest_ms)
    raise UserError(
        f"--target-ms {target_ms:g}: is below the smallest network here; the least reachable is "
        f"about {math.ceil(100 * least.smallest_ms) / 100:g} ms ({least})"
    )


def suggested_target(place: SpaceFacts, share: float = TARGET_SHARE) -> float:
    """A share of the largest network's latency, well above the smallest one's, of two digits."""
    ms = max(share * place.largest_ms, 1.3 * place.smallest_ms)
    return float(f"{ms:.2g}")


def fitting_share(data: DataFacts, place: SpaceFacts, aim: Aim, seconds: float) -> float | None:
    """The largest share of the wanted effort whose stages fit; None if even the least does not."""
    room = MARGIN * seconds
    return max((it for it in SHARES if _total(it, data, place, aim) <= room), default=None)


def effort_of(share: float, data: DataFacts, aim: Aim) -> Effort:
    """The share, in (0, 1], of the effort that a place would get where time does not matter."""
    usual = FROM_WEIGHTS if aim.is_pretrained else SupernetSettings().model_dump()
    steps = max(1, data.train // int(usual["batch_size"]))

    def epochs(wanted: int, most: int) -> int:
        needed = min(most, math.ceil(wanted / steps))
        return max(LEAST_EPOCHS, round(share * needed))

    if aim.is_pretrained:
        tuned = RECIPES["finetuning"].epochs
        counts = {
            "epochs": epochs(WANTED_STEPS, SupernetSettings().epochs),
            "reference_epochs": epochs(WANTED_ALONE, tuned),
            "retraining_epochs": epochs(WANTED_ALONE, tuned),
        }
    else:
        counts = {
            "epochs": epochs(WANTED_STEPS, MOST_EPOCHS),
            "retraining_epochs": epochs(WANTED_ALONE, MOST_ALONE),
        }
    spread = MOST_EVALUATIONS - LEAST_EVALUATIONS
    return Effort(**counts, evaluations=LEAST_EVALUATIONS + round(share * spread))


def _total(share: float, data: DataFacts, place: SpaceFacts, aim: Aim) -> float:
    effort = effort_of(share, data, aim)
    return sum(estimate(data, place, effort, aim.target_in(place)).values())


def _cheapest(data: DataFacts, places: Sequence[SpaceFacts], aim: Aim) -> SpaceFacts:
    """The place in which the least effort takes least."""
    return min(places, key=lambda it: _total(SHARES[0], data, it, aim))


def _too_short(
    data: DataFacts, places: Sequence[SpaceFacts], aim: Aim, minutes: float, spent: float
) -> str:
    place, effort = _cheapest(data, places, aim), effort_of(SHARES[0], data, aim)
    least = math.ceil((_total(SHARES[0], data, place, aim) / MARGIN + spent) / 60)
    return (
        f"--minutes {minutes:g}: too few; the least that would do is {least} ({place}, "
        f"{effort.epochs} epochs on {data.train:,} images)"
    )
