"""Ways to start the runner on another machine; a further one is one file and its line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from nas.latency.carriers.adb import adb_words
from nas.latency.carriers.ssh import ssh_words

Carrier = Callable[[str, Sequence[str]], list[str]]
"""Of an address and the words of a command there: the words of the command here."""

CARRIERS: Mapping[str, Carrier] = {"ssh": ssh_words, "adb": adb_words}
"""Carriers by what stands before the colon of a device: ``ssh:HOST``, ``adb:SERIAL``."""
