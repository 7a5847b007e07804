"""Visits: graphs take turns in random order on a device, which times each warm and then cold.

``nas.latency.runner`` is what times them there, and says what a visit is; here graphs are made and
sent, and a connection that is lost is taken up again.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import onnx

from nas.errors import UserError
from nas.latency import runner
from nas.latency.connection import LostError, Reply
from nas.latency.device import Place, reach, within
from nas.latency.estimator import Visit
from nas.latency.graphs import with_batch
from nas.latency.light import lighten, random_weights
from nas.latency.runtimes import RUNTIMES, RunnerRuntime, Runtime
from nas.latency.runtimes.base import InputKind, input_kinds
from nas.latency.target import Target, in_precision
from nas.progress import SILENT, Progress

CHUNK_SECONDS = 5.0
"""What a kill loses at most."""

KEPT_BYTES = 200_000_000
"""Of graphs as they are sent that are kept for their next rounds: to make one takes 20 ms."""


class Packed(NamedTuple):
    """A graph as it is sent: the hash of that, its bytes when it is whole, and what it takes."""

    sha256: str
    size: int
    inputs: tuple[InputKind, ...]


@dataclass
class Turns:
    """Graphs of a target by their names.

    ``regular`` are the names of the references among them, ``inner`` of layers that share turns.
    Sessions are opened when they are visited, as many as fit into memory, and all are closed after
    a round. ``told`` is what the device told of itself last, and ``waited`` are the seconds in
    which it was left to cool.
    """

    target: Target
    graphs: Mapping[str, Callable[[], onnx.ModelProto]]
    rng: np.random.Generator
    regular: Sequence[str] = ()
    progress: Progress = SILENT
    inner: Container[str] = ()
    told: Mapping[str, Any] | None = field(default=None, init=False)
    waited: float = field(default=0.0, init=False)
    _place: Place = field(init=False)
    _packed: dict[str, Packed] = field(default_factory=dict)
    _contents: dict[str, bytes] = field(default_factory=dict)
    _open: set[str] = field(default_factory=set)
    _awaited: deque[str | None] = field(default_factory=deque)
    _room: int | None = None
    _generation: int = 0
    _opened: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._place = place_of(self.target)

    def opening(self, name: str) -> float:
        """Seconds that a graph's session took to open the last time; the mean before its first."""
        known = self._opened
        return known.get(name, sum(known.values()) / max(1, len(known)))

    def visit(self, counts: Mapping[str, int]) -> Iterator[list[Visit]]:
        """Visit each graph so many times, references in between; yields chunk by chunk."""
        total, done, is_whole = sum(counts.values()), 0, False
        try:
            for turns in self._batches(counts):
                chunk, since = list[Visit](), time.monotonic()
                for visit in self._visits(turns):
                    chunk.append(visit)
                    if visit.graph in self.regular:
                        continue
                    done += 1
                    self.progress.update("visits", done, total)
                    if time.monotonic() - since > CHUNK_SECONDS:
                        yield chunk
                        chunk, since = [], time.monotonic()
                if chunk:
                    yield chunk
            with suppress(LostError):  # nothing is left to be asked
                self._require_answers()
            is_whole = True
        finally:
            if not is_whole:  # answers are left unread
                self._place.drop()
                self._forget()

    def _batches(self, counts: Mapping[str, int]) -> Iterator[list[runner.Turn]]:
        """Turns in their order, round by round and batch by batch."""
        references = cycle(self.regular) if self.regular else None
        every = runner.spacing(len(counts), len(self.regular))
        for in_round in runner.rounds(counts):
            room = self._find_room()
            self._close(())
            for turns in runner.batches(in_round, self._open_soon, room, self.rng, self.inner):
                yield list(runner.interleaved(turns, references, every))
                self._close(self.regular)

    def _visits(self, turns: Sequence[runner.Turn]) -> Iterator[Visit]:
        """Visit open graphs, and open those that are not; nothing is visited twice."""
        done, waits = 0, False
        while True:
            try:
                left = runner.left_of(turns, done)
                for name in dict.fromkeys(name for turn in left for name in turn):
                    self._send(name)
                request = {"do": "visit", "turns": left, "clock": self.target.clock}
                self._place.send(request)
                self._require_answers()
                while "visited" not in (reply := self._place.receive()):
                    if "graph" in reply:
                        done += 1
                        waits = False
                        yield to_visit(reply)
                    else:
                        self.waited += reply["waits"]
                        if not waits:  # one line for a time of waiting
                            self.progress.say(describe_wait(self.target.device, reply))
                        waits = True
                self.told = reply["conditions"]
                return
            except LostError as lost:
                self._place.renew(lost, self.progress)

    def _close(self, keep: Sequence[str]) -> None:
        """Begin to close all sessions but these."""
        with suppress(LostError):  # with it all are closed
            self._place.send({"do": "close", "keep": list(keep)})
            self._forget_if_lost()
            self._awaited.append(None)
        self._open &= set(keep)

    def _find_room(self) -> int:
        """The bytes that may be opened, as the device told last; it is asked for them once."""
        if self._room is None:
            self._room = int(self._place.ask({"do": "close", "keep": []})["room"])
        return self._room

    def _open_soon(self, name: str) -> int:
        """Begin to open a graph; returns its bytes."""
        with suppress(LostError):  # it is opened where it is visited
            self._send(name)
        return self._packed[name].size

    def _send(self, name: str) -> None:
        """Ask for the session of a graph, unless it is open."""
        self._forget_if_lost()
        if name in self._open:
            return
        packed, content = self._packed.get(name), self._contents.get(name, b"")
        if packed is None or not (content or packed.sha256 in self._place.kept):
            packed, content = self._pack(name)
        if packed.sha256 in self._place.kept:
            content = b""
        self._place.send(_request("open", self.target, packed, name=name), content)
        self._open.add(name)
        self._awaited.append(name)

    def _forget_if_lost(self) -> None:
        """Forget what was asked on another connection."""
        if self._generation != self._place.generation:
            self._generation = self._place.generation
            self._forget()

    def _forget(self) -> None:
        self._open.clear()
        self._awaited.clear()

    def _pack(self, name: str) -> tuple[Packed, bytes]:
        """Make a graph; raises UserError with its name if it cannot be fed."""
        try:
            packed, content = pack(self.graphs[name](), self.target)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        self._packed[name] = packed
        if len(content) + sum(map(len, self._contents.values())) <= KEPT_BYTES:
            self._contents[name] = content
        return packed, content

    def _require_answers(self) -> None:
        """Take all answers; raises UserError with a graph's name if the runtime refuses it."""
        while self._awaited:
            reply = self._place.receive()
            name = self._awaited.popleft()
            if name is None:
                self._room = reply["room"]
                continue
            if "failed" in reply:
                raise UserError(f"{name}: {_refusal(reply, self.target)}")
            self._opened[name] = reply["seconds"]
            self._place.keep(self._packed[name].sha256)


def place_of(target: Target) -> Place:
    """Where a target's graphs run; a runtime that is a class of this process runs in it."""
    adapter = RUNTIMES[target.runtime]
    if issubclass(adapter, RunnerRuntime):
        return reach(target.place)
    return within(_engine_of(adapter))


def pack(graph: onnx.ModelProto, target: Target) -> tuple[Packed, bytes]:
    """A graph in the target's precision and batch, serialised without its random weights."""
    model = with_batch(in_precision(graph, target), target.batch)
    inputs = tuple(input_kinds(model))
    content, size = lighten(model, random_weights(graph))
    return Packed(hashlib.sha256(content).hexdigest(), size, inputs), content


def ask_of_graph(do: str, graph: onnx.ModelProto, target: Target, **more: object) -> Reply:
    """What the device of a target answers to a request on a graph."""
    place, (packed, content) = place_of(target), pack(graph, target)
    found = place.ask(_request(do, target, packed, **more), content)
    place.keep(packed.sha256)
    return found


def profile_graph(
    graph: onnx.ModelProto, target: Target, runs: int
) -> list[Mapping[str, float]] | None:
    """The ms of each kind of operator in each run of a graph; None without a profiler."""
    found: list[Mapping[str, float]] | None
    found = ask_of_graph("profile", graph, target, runs=runs)["profile"]
    return found


def to_visit(reply: Mapping[str, Any]) -> Visit:
    """A line of the runner's as a visit."""
    sample = runner.Sample(reply["ms"], reply["cold_ms"])
    return Visit(reply["graph"], sample.warm, sample.cold, sample.runs, reply["seconds"])


def describe_wait(device: str, reply: Mapping[str, Any]) -> str:
    """A line on a device that has become slow."""
    celsius = reply["conditions"]["celsius"]
    heat = f" at {celsius:.0f} degrees Celsius" if celsius else ""
    return (
        f"{device}: is {100 * reply['slower']:.0f} % slower than before{heat}, as when hot: it is "
        "left to cool"
    )


def _request(do: str, target: Target, packed: Packed, **more: object) -> dict[str, Any]:
    return {
        "do": do,
        "sha256": packed.sha256,
        "inputs": packed.inputs,
        "runtime": target.runtime,
        "provider": target.provider,
        "threads": target.threads,
        **more,
    }


def _refusal(reply: Mapping[str, str], target: Target) -> str:
    """Why a graph was not opened, or did not run."""
    reason = reply["failed"]
    if reply["at"] == "run" and target.batch > 1:
        return f"a model does not run with batch {target.batch}: {reason}"
    return reason if reply["at"] == "refused" else f"{target.runtime} does not run it: {reason}"


def _engine_of(adapter: type[Runtime]) -> runner.Engine:
    """A class of this process as the runner knows runtimes."""

    def made(model: bytes, provider: str, threads: int) -> tuple[Runtime, onnx.ModelProto]:
        return adapter(provider, threads), onnx.load_model_from_string(model)

    def prepare(
        model: bytes, inputs: Mapping[str, np.ndarray], provider: str, threads: int
    ) -> runner.Run:
        del inputs  # it makes its own
        runtime, graph = made(model, provider, threads)
        try:
            return runtime.prepare(graph)
        except UserError as error:
            raise runner.Refusal(str(error)) from None

    def profile(
        model: bytes, inputs: Mapping[str, np.ndarray], provider: str, threads: int, runs: int
    ) -> list[dict[str, float]] | None:
        del inputs
        runtime, graph = made(model, provider, threads)
        found = runtime.profile(graph, runs)
        return None if found is None else [dict(it) for it in found]

    def compute(
        model: bytes, inputs: Mapping[str, np.ndarray], provider: str, threads: int
    ) -> dict[str, np.ndarray]:
        found = prepare(model, inputs, provider, threads)()
        names = [output.name for output in onnx.load_model_from_string(model).graph.output]
        return dict(zip(names, found, strict=True)) if isinstance(found, list) else {}

    works_in_caller = tuple(adapter.works_in_caller)
    return runner.Engine(
        adapter.version(), adapter.devices(), prepare, profile, compute, works_in_caller
    )
