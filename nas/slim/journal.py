"""The journal of a search: each evaluation and each measurement, written as it happens.

A killed search goes on from it: the searches are deterministic, so they ask for the same networks
again, and the journal knows the answers. Accuracies depend on no latency table.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from nas.documents import Value
from nas.errors import UserError
from nas.latency.measure import Measurement
from nas.slim.plan import Plan
from nas.space import Assignment


class Identity(Value):
    """What the first line says: the weights and images that were judged, and the plan.

    ``weights_sha256`` identifies the training and where it stands, ``images_sha256`` the search
    slice.
    """

    weights_sha256: str
    images_sha256: str
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
    """A line: what a race from ``current`` said of its candidates' accuracies."""

    current: Assignment
    candidates: tuple[Assignment, ...]
    accuracies: tuple[float, ...]


_LINE: TypeAdapter[Judged | Measured | Raced] = TypeAdapter(Judged | Measured | Raced)


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


class Journal(Memory):
    """A memory in a file; a context that closes it.

    Raises:
        UserError: the file belongs to another search or is damaged, or cannot be written.
    """

    def __init__(self, path: Path, identity: Identity, *, resume: bool) -> None:
        """Begin a journal, or with ``resume`` go on with the one that is there."""
        super().__init__()
        self.path = path
        whole = self._read(identity) if resume and path.exists() else 0
        try:
            self._file = path.open("ab")
            self._file.truncate(whole)  # what a kill left of a last line goes
        except OSError as error:
            raise self._unwritable(error) from None
        if not whole:
            self._append(identity)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, line: Judged | Measured | Raced) -> None:
        """Remember; it is on disk when this returns."""
        super().add(line)
        self._append(line)

    def _read(self, identity: Identity) -> int:
        """Take in what is there; the number of bytes up to its last whole line."""
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror}") from None
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                if number == 1:
                    self._require_same(Identity.model_validate_json(line), identity)
                else:
                    super().add(_LINE.validate_json(line))
            except ValidationError:
                raise UserError(
                    f"{self.path}:{number}: is no line of a journal; --force starts anew"
                ) from None
        return len(whole)

    def _require_same(self, was: Identity, now: Identity) -> None:
        for name, what in (
            ("weights_sha256", "the weights of another training"),
            ("images_sha256", "other images"),
        ):
            if getattr(was, name) != getattr(now, name):
                raise UserError(
                    f"{self.path}: is of a search with {what}; name another --out, or start anew "
                    "with --force"
                )
        for name in Plan.model_fields:
            before, given = (getattr(it.plan, name) for it in (was, now))
            if before != given:
                raise UserError(
                    f"{self.path}: was started with {name} {_text(before)}, got {_text(given)}; "
                    "name another --out, or start anew with --force"
                )

    def _append(self, line: Value) -> None:
        try:
            self._file.write(json.dumps(line.model_dump(mode="json")).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"{self.path}: cannot be written: {error.strerror}")


def _text(value: object) -> str:
    """One line: values within values as JSON."""
    if isinstance(value, str | int | float):
        return str(value)
    return json.dumps(TypeAdapter(Any).dump_python(value, mode="json"))
