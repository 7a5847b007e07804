"""The journal of a search, which answers for a resumed one: that asks for the same networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, TypeAdapter, model_validator

from nas.documents import Value
from nas.errors import UserError
from nas.latency.estimator import Visit
from nas.slim.plan import Plan
from nas.space import Assignment
from nas.store.journal import Journal, Words
from nas.training.settings import Share

Options = tuple[Annotated[int, Field(ge=0)], ...]
"""An assignment that was read."""


class Identity(Value):
    """The first line: the weights and the search slice that networks are evaluated on, the plan."""

    weights_sha256: Annotated[str, Words("the weights of another training")]
    images_sha256: Annotated[str, Words("other images")]
    plan: Plan


class Judged(Value):
    """A line: the accuracy of a network on the search slice."""

    assignment: Options
    accuracy: Share


class Timed(Value):
    """A line: the visits of a session, all of them if it ``is_whole``, to models by their names.

    The hash is of the target and of the reference networks.
    """

    unit_sha256: str
    models: tuple[str, ...]
    visits: tuple[Visit, ...]
    is_whole: bool


class Measured(Value):
    """A line of version 0.1: a latency that was measured without a reference, and says nothing."""

    assignment: Assignment
    target_sha256: str
    latency: dict[str, object]


class Raced(Value):
    """A line: the accuracies of its candidates that a race from ``current`` found."""

    current: Options
    candidates: tuple[Options, ...]
    accuracies: tuple[Share, ...]

    @model_validator(mode="after")
    def _require_one_each(self) -> Self:
        if len(self.candidates) != len(self.accuracies):
            raise ValueError("needs an accuracy for each candidate")
        return self


Line = Judged | Raced | Timed | Measured


class Memory:
    """The lines of a search by their networks; ``journal``, if there is one, gets new lines."""

    def __init__(self, journal: Journal[Line] | None = None) -> None:
        self.accuracies: dict[Assignment, float] = {}
        self.sessions: dict[tuple[str, tuple[str, ...]], list[Timed]] = {}
        """Sessions on a unit, by the networks that were timed, in order; some were stopped."""
        self.races: dict[tuple[Assignment, ...], tuple[float, ...]] = {}
        self.remark = journal.remark if journal else None
        self._journal = journal
        for line in journal.lines if journal else ():
            self._remember(line)

    def add(self, line: Line) -> None:
        self._remember(line)
        if self._journal:
            self._journal.append(line)

    def _remember(self, line: Line) -> None:
        if isinstance(line, Judged):
            self.accuracies[line.assignment] = line.accuracy
        elif isinstance(line, Raced):
            self.races[line.current, *line.candidates] = line.accuracies
        elif isinstance(line, Timed):
            self.sessions.setdefault((line.unit_sha256, line.models), []).append(line)


@contextmanager
def open_journal(
    path: Path, identity: Identity, *, sizes: Sequence[int], resume: bool
) -> Iterator[Memory]:
    """Begin or ``resume`` a journal; UserError if it is another search's, damaged or unwritable.

    ``sizes`` are the numbers of options of the space's choices.
    """
    remedy = "name another --out, or start anew with --force"
    kind: TypeAdapter[Line] = TypeAdapter(Line)
    noun = "a search"
    with Journal(path, kind, noun=noun, remedy=remedy, header=identity, resume=resume) as journal:
        for number, line in enumerate(journal.lines, start=2):
            for found in _assignments(line):
                if len(found) != len(sizes) or any(map(int.__ge__, found, sizes)):
                    raise UserError(
                        f"{path}:{number}: {found} is no network of the space; {remedy}"
                    )
        yield Memory(journal)


def _assignments(line: Line) -> tuple[Assignment, ...]:
    """The networks that a line is about."""
    if isinstance(line, Raced):
        return (line.current, *line.candidates)
    return (line.assignment,) if isinstance(line, Judged) else ()
