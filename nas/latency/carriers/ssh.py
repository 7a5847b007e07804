"""Over ssh, by the user's own configuration and agent; nobody is asked for a password."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from nas.errors import UserError

OPTIONS = (
    *("-o", "BatchMode=yes"),
    *("-o", "ConnectTimeout=20"),
    # a cable that was pulled is noticed after a minute
    *("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"),
)


def ssh_words(host: str, words: Sequence[str]) -> list[str]:
    """``host`` is what one types after ``ssh``: a name of ``~/.ssh/config`` or USER@HOST."""
    if not host or host.startswith("-") or any(it.isspace() for it in host):
        raise UserError(f"device 'ssh:{host}': needs a host, as in ssh:raspberrypi or ssh:me@host")
    return ["ssh", *OPTIONS, "-T", "--", host, f"exec {shlex.join(words)}"]
