"""Devices, where graphs run: ``cpu``, ``cuda`` of this machine; ``ssh:HOST``, ``adb:SERIAL``."""

from __future__ import annotations

import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from nas.documents import Value, did_you_mean
from nas.errors import UserError
from nas.latency import runner
from nas.latency.carriers import CARRIERS
from nas.latency.connection import Connection, InProcess, LostError, Process, Reply, python_words
from nas.progress import SILENT, Progress

BY_HAND = "hand"
"""What stands before the colon of a device that a bundle was measured on."""

WORKDIR = "~/.cache/nas"
"""On other machines, where graphs are kept."""

PATIENCE_SECONDS, PAUSE_SECONDS = 300.0, 2.0
"""A machine that is lost may start anew meanwhile; and between two tries."""

FRUITLESS = 4
"""A runner that is lost so many times in a row before it has told anything is a fault."""


class Device(Value):
    """A device by its ``name``, as users give it, and how its runner is started there."""

    name: str = "cpu"
    python: Annotated[
        str, Field(description="Python to measure with, such as ~/venv/bin/python.")
    ] = ""
    workdir: Annotated[str, Field(description="Folder on the device that keeps graphs.")] = ""
    cores: Annotated[str, Field(description="Cores to keep to, such as 0-3; by default any.")] = ""

    @model_validator(mode="after")
    def _require_known(self) -> Self:
        if self.carrier and self.carrier not in (*CARRIERS, BY_HAND):
            hint = did_you_mean(self.carrier, CARRIERS)
            known = ", ".join(f"{it}:" for it in CARRIERS)
            raise UserError(
                f"device '{self.name}': no carrier is called '{self.carrier}'{hint}; there are "
                f"{known} and this machine's own devices"
            )
        try:
            _ = self.cores and runner.parse_cores(self.cores)
        except ValueError:
            raise UserError(f"--cores: must be such as 0-3 or 4,6, got '{self.cores}'") from None
        return self

    @property
    def carrier(self) -> str:
        """What carries requests there; empty for this machine."""
        return self.name.partition(":")[0] if ":" in self.name else ""

    @property
    def kind(self) -> str:
        """The device among those of its machine: that of ``ssh:HOST/cuda`` is ``cuda``."""
        if not self.carrier:
            return self.name
        return self.name.partition("/")[2] or "cpu"

    @property
    def is_plain(self) -> bool:
        """Whether it is this machine's, by this very Python on any core."""
        return not (self.carrier or self.python or self.workdir or self.cores)

    @property
    def keeps(self) -> bool:
        """Whether graphs stay there."""
        return bool(self.carrier or self.workdir)

    def words(self, token: str) -> list[str]:
        """The words of the command that starts a runner."""
        arguments = ["--cores", self.cores] if self.cores else []
        if self.keeps:
            arguments += ["--workdir", self.workdir or WORKDIR, "--token", token]
        if not self.carrier:
            return python_words(self.python, *arguments)
        if self.carrier == BY_HAND:
            raise UserError(f"{self.name}: is measured by hand: nas bundle, nas import-lut")
        address = self.name.partition(":")[2].partition("/")[0]
        words = python_words(self.python or "python3", *arguments, "--rests")
        return CARRIERS[self.carrier](address, words)


def in_file_names(device: str) -> str:
    """A device's name without what names of files must not have: ``ssh_me_pi_cuda``."""
    return re.sub(r"[^\w.-]+", "_", device)


@dataclass
class Place:
    """A device that answers; the connection is made when something is asked, and made again.

    ``kept`` are the graphs there, by their hashes; ``generation`` counts the connections.
    """

    device: Device
    kept: set[str] = field(default_factory=set)
    generation: int = 0
    _connection: Connection | None = None
    _fruitless: int = 0
    _token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def send(self, request: dict[str, Any], payload: bytes = b"") -> None:
        """Ask without waiting for the answer."""
        self._connected().send(request, payload)

    def receive(self) -> Reply:
        """The next answer; raises UserError for an error of the device, LostError if it is gone."""
        reply = self._connected().receive()
        if "error" not in reply:
            if "graph" in reply:
                self._fruitless = 0
            return reply
        if reply.get("is_memory"):
            raise MemoryError(f"{self.device.name}: {reply['error']}")
        where = f"{self.device.name}: " if self.device.carrier else ""
        raise UserError(f"{where}{reply['error']}")

    def ask(self, request: dict[str, Any], payload: bytes = b"") -> Reply:
        """The answer to one request; raises UserError."""
        for _ in range(FRUITLESS):
            try:
                self.send(request, payload)
                return self.receive()
            except LostError as lost:
                self.renew(lost)
        raise AssertionError("renew raises")

    def keep(self, sha256: str) -> None:
        """Remember that a graph lies there now, if graphs stay there."""
        if self.device.keeps:
            self.kept.add(sha256)

    def renew(self, lost: LostError, progress: Progress = SILENT) -> None:
        """Connect again; UserError if it was lost too often, or stays away for too long."""
        self.drop()
        self._fruitless += 1
        if self._fruitless >= FRUITLESS or not self._connects_again(lost, progress):
            raise self._unreachable(lost)

    def drop(self) -> None:
        """Close the connection, whatever was asked."""
        if self._connection:
            self._connection.close()
        if not isinstance(self._connection, InProcess):
            self._connection = None

    def _connects_again(self, lost: LostError, progress: Progress) -> bool:
        progress.say(f"{self.device.name}: lost ({lost.reason}); taking it up again")
        until = time.monotonic() + (PATIENCE_SECONDS if self.device.carrier else 0)
        while True:
            try:
                self._connect()
                return True
            except LostError:
                if time.monotonic() > until:
                    return False
                time.sleep(PAUSE_SECONDS)

    def _connected(self) -> Connection:
        if self._connection is None:
            try:
                self._connect()
            except LostError as lost:
                raise self._unreachable(lost) from None
        assert self._connection is not None
        return self._connection

    def _connect(self) -> None:
        connection = Process(self.device.words(self._token))
        try:
            connection.send({"do": "kept"})
            self.kept = set(connection.receive()["kept"])
        except LostError:
            connection.close()
            raise
        self._connection, self.generation = connection, self.generation + 1

    def _unreachable(self, lost: LostError) -> UserError:
        name = self.device.name
        if lost.code is not None and lost.code < 0:
            return UserError(f"{name}: the runtime's process died of signal {-lost.code}: {lost}")
        hint = "; name another Python there: --python" if lost.code in (126, 127) else ""
        return UserError(f"{name}: {lost.reason}{hint}")


_PLACES: dict[Device, Place] = {}
"""One connection to each device, as starting a runtime on a small one takes seconds."""


def reach(device: Device) -> Place:
    """The place of a device: the same one each time."""
    return _PLACES.setdefault(device, Place(device))


def within(engine: runner.Engine) -> Place:
    """A place in this process, for a runtime that is a class of it."""
    local = runner.Runner(lambda name: engine)
    return Place(Device(), _connection=InProcess(local))
