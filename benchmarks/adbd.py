"""The device's side of adb over TCP, enough for ``adb shell`` and ``adb forward``, to this machine.

Written from the protocol as Android's sources document it (packages/modules/adb: protocol.txt,
shell_protocol.h). With it the real client of adb is tried where no phone is; Debian has it as
``adb``.
"""

from __future__ import annotations

import asyncio
import os
import queue
import shutil
import signal
import struct
import subprocess
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

HAS_ADB = shutil.which("adb") is not None
MISSING = "no adb here: apt-get install adb"
VERSION, MOST_DATA = 0x01000001, 1 << 18  # of the protocol; bytes of a message
BANNER = b"device::ro.product.name=here;ro.product.model=here;features=shell_v2,cmd"
HEADER = struct.Struct("<4sIIIII")
"""Of a message: command, two numbers, length and checksum of its data, the command's complement."""
PACKET = struct.Struct("<BI")
"""Of a piece of a shell's data: which stream, its length."""
STDIN, STDOUT, STDERR, EXIT, END_OF_STDIN = range(5)


class Message(NamedTuple):
    """What both sides send each other; ``ours`` and ``theirs`` are a stream's numbers."""

    command: bytes
    theirs: int
    ours: int
    data: bytes = b""


class Connection:
    """One client, and the shells that it has opened."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str
    ) -> None:
        self.path, self._reader, self._writer = path, reader, writer
        self._streams: dict[int, Stream] = {}

    async def serve(self) -> None:
        """Answer messages until the client hangs up; then end all shells."""
        try:
            while True:
                await self._answer(await self._receive())
        except asyncio.IncompleteReadError:
            pass
        finally:
            for stream in self._streams.values():
                stream.kill()
            self._writer.close()

    def send(self, command: bytes, ours: int, theirs: int, data: bytes = b"") -> None:
        number = int.from_bytes(command, "little")
        header = HEADER.pack(
            command, ours, theirs, len(data), sum(data) & 0xFFFFFFFF, number ^ 0xFFFFFFFF
        )
        self._writer.write(header + data)

    async def _receive(self) -> Message:
        header = HEADER.unpack(await self._reader.readexactly(HEADER.size))
        command, theirs, ours, length, _, _ = header
        return Message(command, theirs, ours, await self._reader.readexactly(length))

    async def _answer(self, message: Message) -> None:
        stream = self._streams.get(message.ours)
        match message.command:
            case b"CNXN":
                self.send(b"CNXN", VERSION, MOST_DATA, BANNER)
            case b"OPEN":
                kind, _, what = message.data.rstrip(b"\0").decode().partition(":")
                number = max(self._streams, default=0) + 1
                opened = Tunnel if kind == "tcp" else Shell
                if opened is Shell and not {"shell", "v2", "raw"} <= set(kind.split(",")):
                    self.send(b"CLSE", 0, message.theirs)
                    return
                self._streams[number] = stream = opened(self, number, message.theirs)
                await stream.start(what)
            case b"WRTE" if stream:
                await stream.feed(message.data)
                self.send(b"OKAY", message.ours, message.theirs)
            case b"OKAY" if stream:
                stream.may_send.set()
            case b"CLSE" if stream:
                stream.kill()
                del self._streams[message.ours]


class Stream:
    """One of a connection's; ``may_send`` is set when the client wants the next message."""

    def __init__(self, connection: Connection, ours: int, theirs: int) -> None:
        self._connection, self._ours, self._theirs = connection, ours, theirs
        self.may_send = asyncio.Event()

    async def start(self, what: str) -> None:
        """Open what the client names."""
        raise NotImplementedError

    async def feed(self, data: bytes) -> None:
        """Take in data of the client."""
        raise NotImplementedError

    def kill(self) -> None:
        """End it at once."""
        raise NotImplementedError

    def _begin(self, work: Coroutine[object, object, None]) -> None:
        self._connection.send(b"OKAY", self._ours, self._theirs)
        self.may_send.set()
        self._work = asyncio.ensure_future(work)

    async def _write(self, data: bytes) -> None:
        while not self.may_send.is_set():
            await self.may_send.wait()
        self.may_send.clear()
        self._connection.send(b"WRTE", self._ours, self._theirs, data)

    def _close(self) -> None:
        self._connection.send(b"CLSE", self._ours, self._theirs)


class Tunnel(Stream):
    """A TCP connection to a port here."""

    async def start(self, what: str) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", int(what))
        self._begin(self._run())

    async def feed(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def kill(self) -> None:
        self._writer.close()

    async def _run(self) -> None:
        while data := await self._reader.read(MOST_DATA):
            await self._write(data)
        self._close()


class Shell(Stream):
    """A command, whose streams are carried in packets of one stream of the connection."""

    async def start(self, what: str) -> None:
        self._process = await asyncio.create_subprocess_shell(
            what,
            env={**os.environ, "PATH": self._connection.path},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        self._unread = b""
        self._begin(self._run())

    async def feed(self, data: bytes) -> None:  # packets, which may be cut anywhere
        stdin = self._process.stdin
        assert stdin is not None
        self._unread += data
        while len(self._unread) >= PACKET.size:
            kind, length = PACKET.unpack_from(self._unread)
            if len(self._unread) < PACKET.size + length:
                break
            payload = self._unread[PACKET.size : PACKET.size + length]
            self._unread = self._unread[PACKET.size + length :]
            with suppress(ConnectionError):
                if kind == STDIN:
                    stdin.write(payload)
                    await stdin.drain()
                elif kind == END_OF_STDIN:
                    stdin.close()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def _run(self) -> None:
        process = self._process
        assert process.stdout is not None
        assert process.stderr is not None
        await asyncio.gather(
            self._carry(process.stdout, STDOUT), self._carry(process.stderr, STDERR)
        )
        code = await process.wait()
        await self._send(EXIT, bytes([code & 0xFF]))
        self._close()

    async def _carry(self, stream: asyncio.StreamReader, kind: int) -> None:
        while data := await stream.read(MOST_DATA - PACKET.size):
            await self._send(kind, data)

    async def _send(self, kind: int, data: bytes) -> None:
        await self._write(PACKET.pack(kind, len(data)) + data)


@contextmanager
def plugged_in(path: str = os.environ["PATH"]) -> Iterator[str]:
    """A device that ``adb`` knows, by its serial; ends with the block.

    ``path``: where its shells look for programs.
    """
    started: queue.Queue[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Connection(reader, writer, path).serve()

    async def listen() -> None:
        server, is_over = await asyncio.start_server(serve, "127.0.0.1", 0), asyncio.Event()
        async with server:
            started.put((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), is_over))
            await is_over.wait()
            await asyncio.sleep(0.1)  # connections that have just ended are closed

    thread = threading.Thread(target=asyncio.run, args=(listen(),), daemon=True)
    thread.start()
    port, loop, is_over = started.get(timeout=20)
    serial = f"127.0.0.1:{port}"
    try:
        assert (said := _adb("connect", serial)).startswith("connected"), said
        yield serial
    finally:
        _adb("disconnect", serial)
        loop.call_soon_threadsafe(is_over.set)
        thread.join()


def _adb(*words: str) -> str:
    done = subprocess.run(["adb", *words], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout + done.stderr
