"""Over adb, to phones with root and to boards whose Linux runs adb's daemon."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from nas.errors import UserError


def adb_words(serial: str, words: Sequence[str]) -> list[str]:
    """``serial`` is what ``adb devices`` lists."""
    if not serial or any(it.isspace() for it in serial):
        raise UserError(f"device 'adb:{serial}': needs what adb devices lists, as in adb:0123ABCD")
    return ["adb", "-s", serial, "shell", "-T", f"exec {shlex.join(words)}"]
