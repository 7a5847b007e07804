"""The journal of a search, which answers for a resumed one: that asks for the same networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import TypeAdapter

from nas.documents import Value
from nas.latency.estimator import Visit
from nas.slim.plan import Plan
from nas.space import Assignment
from nas.store.journal import Journal, Words


class Identity(Value):
    """The first line: the weights and the search slice that networks are evaluated on, the plan."""

    weights_sha256: Annotated[str, Words("the weights of another training")]
    images_sha256: Annotated[str, Words("other images")]
    plan: Plan


class Judged(Value):
    """A line: the accuracy of a network on the search slice."""

    assignment: Assignment
    accuracy: float


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

    current: Assignment
    candidates: tuple[Assignment, ...]
    accuracies: tuple[float, ...]


Line = Judged | Raced | Timed | Measured


class Memory:
    """The lines of a search by their networks; ``journal``, if there is one, gets new lines."""

    def __init__(self, journal: Journal[Line] | None = None) -> None:
        self.accuracies: dict[Assignment, float] = {}
        self.sessions: dict[tuple[str, tuple[str, ...]], list[Timed]] = {}
        """Sessions on a unit, by the networks that were timed, in order; some were stopped."""
        self.races: dict[tuple[Assignment, ...], tuple[float, ...]] = {}
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
def open_journal(path: Path, identity: Identity, *, resume: bool) -> Iterator[Memory]:
    """Begin or ``resume`` a journal; UserError if it is another search's, damaged or unwritable."""
    remedy = "name another --out, or start anew with --force"
    kind: TypeAdapter[Line] = TypeAdapter(Line)
    noun = "a search"
    with Journal(path, kind, noun=noun, remedy=remedy, header=identity, resume=resume) as journal:
        yield Memory(journal)
