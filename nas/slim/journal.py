"""The journal of a search: each evaluation and each measurement, written as it happens.

A killed search goes on from it: the searches are deterministic, so they ask for the same networks
again, and the journal has the answers. Accuracies depend on no latency table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import TypeAdapter

from nas.documents import Value
from nas.latency.measure import Measurement
from nas.slim.plan import Plan
from nas.space import Assignment
from nas.store.journal import Journal, Words


class Identity(Value):
    """The first line: the weights and images that networks are evaluated on, and the plan.

    ``weights_sha256`` identifies the training and where it stands, ``images_sha256`` the search
    slice.
    """

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


_KIND: TypeAdapter[Judged | Measured | Raced] = TypeAdapter(Judged | Measured | Raced)


class Memory:
    """Accuracies by assignment, latencies by assignment and target, races by who took part."""

    def __init__(self) -> None:
        self.accuracies: dict[Assignment, float] = {}
        self.latencies: dict[tuple[Assignment, str], Measurement] = {}
        self.races: dict[tuple[Assignment, ...], tuple[float, ...]] = {}

    def add(self, line: Judged | Measured | Raced) -> None:
        """Remember an evaluation, a measurement or a race."""
        if isinstance(line, Judged):
            self.accuracies[line.assignment] = line.accuracy
        elif isinstance(line, Raced):
            self.races[line.current, *line.candidates] = line.accuracies
        else:
            self.latencies[line.assignment, line.target_sha256] = line.latency


class SearchJournal(Memory):
    """A memory in a file; a context that closes it.

    Raises:
        UserError: the file belongs to another search or is damaged, or cannot be written.
    """

    def __init__(self, path: Path, identity: Identity, *, resume: bool) -> None:
        """Begin a journal, or with ``resume`` go on with the one that is there."""
        super().__init__()
        self._journal = Journal(
            path,
            _KIND,
            noun="a search",
            remedy="name another --out, or start anew with --force",
            header=identity,
            resume=resume,
        )
        for line in self._journal.lines:
            super().add(line)

    def add(self, line: Judged | Measured | Raced) -> None:
        """Remember, and write it down."""
        super().add(line)
        self._journal.append(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.close()
