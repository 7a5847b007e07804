"""What a plan is computed from: facts about the images, and what each candidate costs here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nas.documents import Value

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class DataFacts(Value):
    """The images of a data set, by what they are for.

    ``search_share``: of the training images, held out for searches. ``has_test``: whether there is
    a test set of their own; else a fifth is held out. ``side``: the shorter side of the pictures in
    pixels, in the median. ``seconds``: to decode one, by all cores.
    """

    classes: Count
    train: Count
    search: Count
    test: Count
    search_share: Annotated[float, Field(gt=0, lt=1)]
    has_test: bool
    side: Count
    seconds: Seconds

    @property
    def pictures(self) -> int:
        return self.train + self.search + self.test


class SpaceFacts(Value):
    """A space at an input size, and what its networks cost on this machine.

    ``word`` is what commands know it by: a name or a file of a space, or of the network that the
    space is around; ``name`` is its own name. Seconds are of an image: of steps of the sandwich
    rule, of a training of the largest network alone, and of classifying with the largest, the
    middle and the smallest. ``visit_seconds`` is the mean visit to a network that is timed;
    latencies are ms.
    """

    word: str
    name: str
    input_size: Count
    layers: Count
    sandwich_seconds: Seconds
    largest_seconds: Seconds
    forward_seconds: tuple[Seconds, Seconds, Seconds]
    visit_seconds: Seconds
    largest_ms: Seconds
    smallest_ms: Seconds

    def __str__(self) -> str:
        return f"{self.name}, {self.input_size} px"
