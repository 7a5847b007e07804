"""Visits: graphs take turns in random order, and each visit times a graph warm and then cold.

*Warm* is what a loop over one network sees: the graph runs until it gets no faster, which takes a
few runs or a few dozen, and then the last runs count. *Cold* is the next run after other work had
the caches, as in an application that runs the network once per frame: 96 MB are read before it,
each part twice, as some caches keep what was in use when memory is read once. What caches larger
than that keep is what the application finds there too, however many other graphs take turns. A
graphs with regular visits, the references, come back by turns after every few others.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle
from typing import NamedTuple

import numpy as np
import onnx

from nas.errors import UserError
from nas.latency.estimator import Visit
from nas.latency.graphs import with_batch
from nas.latency.runtimes import Runtime
from nas.latency.target import ClockName, Target, in_precision, make_runtime
from nas.machine import available_bytes
from nas.progress import SILENT, Progress

Run = Callable[[], object]

CLOCKS: Mapping[ClockName, Callable[[], int]] = {
    "thread_cpu": time.thread_time_ns,
    "wall": time.perf_counter_ns,
}
"""Clocks in nanoseconds. The thread's CPU time is latency without pre-emption."""

CACHES_BYTES = 96_000_000
"""Read before a cold run: more than the caches of most machines hold."""

PARTS = 12
"""In which they are read: each is larger than the caches of a core and smaller than shared ones."""

WINDOW = 3
"""Runs that are compared with as many before them, and whose median counts once it is warm."""

STILL = 0.01
"""A graph is warm when the fastest of the last runs saves less than this share."""

LEAST_RUNS, MOST_RUNS = 16, 40
"""Caches come to keep a part of weights that do not fit, slowly: the test alone would end 6 % too
early (benchmarks/visits.py). A graph whose weights just fit may get faster for long."""

REGULAR = 12
"""Visits to others between two to references, at most."""

LIFE = 4
"""Visits to a graph in one round. Where the weights of a session lie in memory decides how they
share the caches: sessions of one network differ by 1 to 3 % (benchmarks/sessions.py). So all are
closed after a round, together: memory that is given back bit by bit is scattered, and what is
opened in it takes 10 to 17 % longer, cold."""

MOST_OPEN_BYTES, OPEN_SHARE = 1_500_000_000, 0.15
"""Of graphs whose sessions are open at once, and of the memory that is free: the runtime packs a
second copy of weights."""

CHUNK_SECONDS = 5.0
"""What a kill loses at most."""

TRIES = 5


class Times(NamedTuple):
    """The times of a visit, in ms, and the number of runs that they took."""

    warm: float
    cold: float
    runs: int


@dataclass(frozen=True)
class Stopwatch:
    """Times runs by a clock in nanoseconds."""

    read: Callable[[], int]
    caches: np.ndarray = field(default_factory=lambda: np.ones(CACHES_BYTES // 8))

    def visit(self, run: Run) -> Times:
        """Runs until they are warm, then a cold one; UserError if the clock stands still."""
        for _ in range(TRIES):
            times = [self._time(run) for _ in range(LEAST_RUNS)]
            while len(times) < MOST_RUNS and not _is_warm(times):
                times.append(self._time(run))
            evict(self.caches)
            cold = self._time(run)
            if min(*times, cold) > 0:  # a clock that was set back in between tells nothing
                return Times(float(np.median(times[-WINDOW:])), cold, len(times) + 1)
        raise UserError("the clock of this machine stands still or runs backwards")

    def _time(self, run: Run) -> float:
        start = self.read()
        run()
        return (self.read() - start) / 1e6


def evict(memory: np.ndarray) -> None:
    """Read memory, which takes the place of what the caches hold.

    Each part is read twice: caches may keep what was in use when memory is read once, and how much
    they keep differs from hour to hour (benchmarks/README.md).
    """
    for part in np.array_split(memory, PARTS):
        part.sum()
        part.sum()


def _is_warm(times: Sequence[float]) -> bool:
    return min(times[-WINDOW:]) >= (1 - STILL) * min(times[-2 * WINDOW : -WINDOW])


@dataclass
class Turns:
    """Graphs of a target by their names; ``regular`` are the names of the references among them.

    Sessions are opened when they are visited, and the oldest are closed where too many are open;
    all of them after a round. They are opened and run in a thread of their own, whose memory other
    work has not scattered: there small networks take 1 to 14 % less, cold (benchmarks/visits.py).
    """

    target: Target
    graphs: Mapping[str, Callable[[], onnx.ModelProto]]
    rng: np.random.Generator
    regular: Sequence[str] = ()
    progress: Progress = SILENT
    _runtime: Runtime = field(init=False)
    _thread: ThreadPoolExecutor = field(init=False)
    _runs: dict[str, tuple[Run, int]] = field(default_factory=dict)
    _stopwatch: Stopwatch = field(init=False)
    _open_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self._runtime = make_runtime(self.target)
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._stopwatch = Stopwatch(CLOCKS[self.target.clock])
        self._open_bytes = int(min(MOST_OPEN_BYTES, OPEN_SHARE * available_bytes()))

    def visit(self, counts: Mapping[str, int]) -> Iterator[list[Visit]]:
        """Visit each graph so many times, references in between; yields chunk by chunk."""
        total, done, regular = sum(counts.values()), 0, cycle(self.regular)
        enabled = gc.isenabled()
        gc.disable()
        try:
            for order in self._orders(counts):
                chunk, since = list[Visit](), time.monotonic()
                for place, name in enumerate(order):
                    if self.regular and place % self._every(counts) == 0:
                        chunk.append(self._visit(next(regular)))
                    chunk.append(self._visit(name))
                    done += 1
                    self.progress.update("visits", done, total)
                    if time.monotonic() - since > CHUNK_SECONDS:
                        yield chunk
                        chunk, since = [], time.monotonic()
                        gc.collect(0)
                if chunk:
                    yield chunk
        finally:
            if enabled:
                gc.enable()

    def _orders(self, counts: Mapping[str, int]) -> Iterator[list[str]]:
        """Names in the order of their visits, round by round and batch by batch."""
        for in_round in rounds(counts):
            self._runs.clear()
            yield from self._batches(in_round)

    def _every(self, counts: Mapping[str, int]) -> int:
        """Fewer visits between two to references where there are few other graphs."""
        return min(REGULAR, math.ceil(len(counts) / (1 + len(self.regular))))

    def _batches(self, counts: Mapping[str, int]) -> Iterator[list[str]]:
        """Names in random order, as often as counted; each batch fits into memory."""
        names = [name for name, count in counts.items() if count]
        waiting = [names[index] for index in self.rng.permutation(len(names))]
        while waiting:
            batch, size = list[str](), 0
            while waiting and size <= self._open_bytes:
                batch.append(waiting.pop())
                size += self._open(batch[-1], keep={*batch, *self.regular})
            order = [name for name in batch for _ in range(counts[name])]
            yield [order[index] for index in self.rng.permutation(len(order))]

    def _visit(self, name: str) -> Visit:
        self._open(name, keep=set(self._runs))
        start = time.monotonic()
        times = self._thread.submit(self._stopwatch.visit, self._runs[name][0]).result()
        return Visit(name, *times, time.monotonic() - start)

    def _open(self, name: str, keep: set[str]) -> int:
        """Open the session of a graph; returns the bytes of the graph."""
        if name not in self._runs:
            graph = self.graphs[name]()
            size = graph.ByteSize()
            for other in [other for other in self._runs if other not in keep]:
                if size + sum(bytes_ for _, bytes_ in self._runs.values()) > self._open_bytes:
                    del self._runs[other]
            run = self._prepared(name, graph)
            self._runs[name] = run, size
        return self._runs[name][1]

    def _prepared(self, name: str, graph: onnx.ModelProto) -> Run:
        """``prepare``; raises UserError with the graph's name if the runtime refuses it."""
        try:
            return self._thread.submit(prepare, self._runtime, graph, self.target).result()
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        except MemoryError:
            raise
        except Exception as error:  # each runtime has errors of its own
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"{name}: {self.target.runtime} does not run it: {reason}") from error


def rounds(counts: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Visits by graph in each round, none above ``LIFE``, evenly spread."""
    number = math.ceil(max(counts.values(), default=0) / LIFE)
    for place in range(number):
        yield {
            name: count * (place + 1) // number - count * place // number
            for name, count in counts.items()
        }


def prepare(runtime: Runtime, graph: onnx.ModelProto, target: Target) -> Run:
    """A function that runs the graph on a batch, in the target's precision."""
    run = runtime.prepare(with_batch(in_precision(graph, target), target.batch))
    try:
        run()  # the first run of a session allocates its memory
    except Exception as error:
        if target.batch == 1:
            raise
        reason = str(error).splitlines()[0]
        raise UserError(f"a model does not run with batch {target.batch}: {reason}") from error
    return run
