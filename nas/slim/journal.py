"""The journal of a search, which answers for a resumed one: that asks for the same networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import TypeAdapter

from nas.documents import Value
from nas.latency.measure import Measurement
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


class Measured(Value):
    """A line: the latency of a network on the target of this hash."""

    assignment: Assignment
    target_sha256: str
    latency: Measurement


class Raced(Value):
    """A line: the accuracies of its candidates that a race from ``current`` found."""

    current: Assignment
    candidates: tuple[Assignment, ...]
    accuracies: tuple[float, ...]


Line = Judged | Measured | Raced


class Memory:
    """The lines of a search by their networks; ``journal``, if there is one, gets new lines."""

    def __init__(self, journal: Journal[Line] | None = None) -> None:
        self.accuracies: dict[Assignment, float] = {}
        self.latencies: dict[tuple[Assignment, str], Measurement] = {}
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
        else:
            self.latencies[line.assignment, line.target_sha256] = line.latency


@contextmanager
def open_journal(path: Path, identity: Identity, *, resume: bool) -> Iterator[Memory]:
    """Begin or ``resume`` a journal; UserError if it is another search's, damaged or unwritable."""
    remedy = "name another --out, or start anew with --force"
    kind: TypeAdapter[Line] = TypeAdapter(Line)
    noun = "a search"
    with Journal(path, kind, noun=noun, remedy=remedy, header=identity, resume=resume) as journal:
        yield Memory(journal)
