"""The other end of ``runner.py``: a process behind a pipe, or this process for runtimes of its own.

A connection takes requests, and gives the replies in their order. Whoever leaves replies unread
closes it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from nas.latency import runner

Reply = dict[str, Any]

BOOTSTRAP = (
    "import sys;"
    'sys.version_info>=(3,8) or sys.exit("Python 3.8 or later is needed, this is "'
    '+sys.version.split()[0]+" ("+sys.executable+"); name another: --python");'
    "sys.path[:]=[p for p in sys.path if p];"
    'i=getattr(sys.stdin,"buffer",sys.stdin);'
    'exec(compile(i.read(int(i.readline())),"runner.py","exec"))'
)
"""Runs the program that comes on standard input, so that it need not lie anywhere.

Without single quotes: proot-distro of Termux, before 5, writes them around each word it is given.
"""

SOURCE = Path(runner.__file__)
LAST_LINES = 20
END_SECONDS = 1.0
"""A process that does not end by itself in this time, as it is at work, is killed."""


class LostError(Exception):
    """The process at the other end is gone; ``reason`` is what it said last."""

    def __init__(self, reason: str, code: int | None) -> None:
        super().__init__(reason)
        self.reason, self.code = reason, code


class Connection(Protocol):
    """Answers requests one after the other."""

    def send(self, request: Mapping[str, object], payload: bytes = b"") -> None:
        """Take a request; raises LostError."""

    def receive(self) -> Reply:
        """The next reply; raises LostError."""

    def close(self) -> None:
        """End it, whatever it was asked."""


class InProcess:
    """The runner in this process, which alone knows a runtime that is a class of its own."""

    def __init__(self, local: runner.Runner) -> None:
        self._runner, self._replies = local, deque[Iterator[Reply]]()

    def send(self, request: Mapping[str, object], payload: bytes = b"") -> None:
        self._replies.append(self._runner.answer(request, payload))

    def receive(self) -> Reply:
        while True:
            if (reply := next(self._replies[0], None)) is not None:
                return reply
            self._replies.popleft()

    def close(self) -> None:
        self._replies.clear()


class Process:
    """A process that ``words`` start: a Python that runs ``BOOTSTRAP``, here or elsewhere."""

    def __init__(self, words: Sequence[str]) -> None:
        try:
            # a session of its own: Ctrl-C is this process's to answer
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise LostError(f"{words[0]}: {error.strerror}", None) from None
        self._said = deque[str](maxlen=LAST_LINES)
        self._replies: SimpleQueue[Reply | None] = SimpleQueue()
        self._readers = [
            threading.Thread(target=read, daemon=True) for read in (self._read, self._listen)
        ]
        for reader in self._readers:
            reader.start()
        atexit.register(self.close)
        try:
            source = SOURCE.read_bytes()
            self._write(b"%d\n%b" % (len(source), source))
            self._greet()
        except LostError:
            self.close()
            raise

    def send(self, request: Mapping[str, object], payload: bytes = b"") -> None:
        size = {"bytes": len(payload)} if payload else {}
        self._write(json.dumps({**request, **size}).encode() + b"\n" + payload)

    def receive(self) -> Reply:
        reply = self._replies.get()
        if reply is None:
            self._replies.put(None)
            raise self._lost()
        return reply

    def close(self) -> None:
        """End it by the end of its input, so that what it holds is free when this returns."""
        atexit.unregister(self.close)
        stream = self._process.stdin
        assert stream is not None
        with contextlib.suppress(OSError):
            stream.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:  # it is at work on what nobody waits for
            self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join(END_SECONDS)
        if not any(reader.is_alive() for reader in self._readers):
            for pipe in (self._process.stdout, self._process.stderr):
                assert pipe is not None
                pipe.close()

    def _greet(self) -> None:
        hello = self.receive()
        if "error" in hello:
            raise LostError(str(hello["error"]), None)
        if hello.get("runner") != runner.FORMAT:
            raise LostError("another version of the runner answers", None)

    def _write(self, content: bytes) -> None:
        stream = self._process.stdin
        assert stream is not None
        try:
            stream.write(content)
            stream.flush()
        except (OSError, ValueError):
            raise self._lost() from None

    def _read(self) -> None:
        """Replies are objects; a shell may greet before them."""
        stream = self._process.stdout
        assert stream is not None
        with contextlib.suppress(OSError, ValueError):
            for line in stream:
                if line.startswith(b"{") and line.endswith(b"}\n"):
                    with contextlib.suppress(json.JSONDecodeError):
                        self._replies.put(json.loads(line))
        self._replies.put(None)

    def _listen(self) -> None:
        stream = self._process.stderr
        assert stream is not None
        with contextlib.suppress(OSError, ValueError):
            for line in stream:
                if text := line.decode(errors="replace").strip():
                    self._said.append(text)

    def _lost(self) -> LostError:
        try:
            code: int | None = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        self._readers[1].join(END_SECONDS)
        return LostError(self._said[-1] if self._said else "it ended without a word", code)


def python_words(python: str, *arguments: str) -> list[str]:
    """The words that start a Python which runs what it is sent."""
    return [python or sys.executable, "-u", "-c", BOOTSTRAP, *arguments]
