"""A real ssh server on a loopback port, with keys of its own, and a proxy that delays.

Needs Debian's openssh-server and openssh-client. The user's own keys and settings are not touched.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
MISSING = "no ssh server here: apt-get install openssh-server openssh-client"
HAS_SSHD = bool(SSHD and shutil.which("ssh") and shutil.which("ssh-keygen"))


class Server:
    """A running server; ``path`` is a PATH whose ``ssh`` knows it by the names ``hosts``.

    With ``home`` commands run in that folder.
    """

    def __init__(
        self, folder: Path, *, hosts: Sequence[str] = ("device",), home: Path | None = None
    ) -> None:
        self.folder, self.port, self.home = folder, _free_port(), home
        self.hosts = " ".join(hosts)
        self._make_keys()
        self._start()

    @property
    def path(self) -> str:
        return f"{self.folder / 'bin'}:{os.environ['PATH']}"

    def through(self, port: int) -> None:
        """Let ``ssh`` connect to another port, where something passes on to the server."""
        self._configure(port)

    def stop(self) -> None:
        """Kill the server and all that it started, as a device that is switched off."""
        found = [self._process.pid]
        for pid in found:
            found += _children(pid)
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def restart(self) -> None:
        """Start it again on the same port."""
        self._start()

    def _make_keys(self) -> None:
        for name in ("host", "user"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name]
            subprocess.run(words, check=True)
        shutil.copy(self.folder / "user.pub", self.folder / "keys")
        real, fake = shutil.which("ssh"), self.folder / "bin" / "ssh"
        fake.parent.mkdir()
        fake.write_text(f'#!/bin/sh\nexec {real} -F {self.folder}/config "$@"\n')
        fake.chmod(0o755)
        self._configure(self.port)

    def _configure(self, port: int) -> None:
        key = " ".join((self.folder / "host.pub").read_text().split()[:2])
        (self.folder / "known").write_text(f"[127.0.0.1]:{port} {key}\n")
        (self.folder / "config").write_text(
            f"Host {self.hosts} stranger\n"
            f"  HostName 127.0.0.1\n  Port {port}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.folder}/known\n  StrictHostKeyChecking yes\n"
            f"Host {self.hosts}\n  IdentityFile {self.folder}/user\n"
            f"Host stranger\n  IdentityFile {self.folder}/nothing\n"
        )

    def _start(self) -> None:
        with suppress(PermissionError):  # whoever is not root needs none
            Path("/run/sshd").mkdir(exist_ok=True)
        options = {
            "ListenAddress": "127.0.0.1", "AuthorizedKeysFile": self.folder / "keys",
            "StrictModes": "no", "UsePAM": "no", "PidFile": "none", "MaxStartups": "100",
        }  # fmt: skip
        if self.home:
            at_home = f"cd {self.home} && HOME={self.home}"
            options["ForceCommand"] = f'{at_home} exec sh -c "$SSH_ORIGINAL_COMMAND"'
        words = [str(SSHD), "-D", "-f", "/dev/null", "-p", str(self.port)]
        words += ["-h", str(self.folder / "host"), "-E", str(self.folder / "log")]
        words += [word for name, it in options.items() for word in ("-o", f"{name}={it}")]
        self._process = subprocess.Popen(words)
        deadline = time.monotonic() + 20
        while not _answers(self.port):
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.05)


@contextmanager
def serving(
    folder: Path, *, hosts: Sequence[str] = ("device",), home: Path | None = None
) -> Iterator[Server]:
    """A server that ends with the block."""
    server = Server(folder, hosts=hosts, home=home)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def delaying(port: int, seconds: float) -> Iterator[int]:
    """A port that passes on to another one, each piece of data so many seconds later."""
    loop, own = asyncio.new_event_loop(), _free_port()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            loop.call_later(seconds, writer.write, data)
        loop.call_later(seconds, writer.close)

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, ours), pump(theirs, writer))

    server = loop.run_until_complete(asyncio.start_server(connect, "127.0.0.1", own))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield own
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def _children(pid: int) -> list[int]:
    try:
        return [int(it) for it in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0
