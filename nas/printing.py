"""What people read: every name, description and message passes ``readable`` before it is shown.

Names come from files and folders of strangers: a control sequence in one would move the cursor,
recolour the terminal or hide what follows, and a password in the URL of a database would be seen.
"""

from __future__ import annotations

import re
import shlex
import sys
from typing import TextIO

MOST_CHARACTERS = 2000
"""Of a line; what is longer is shortened in its middle, as the remedy stands at the end."""

MOST_OF_A_CELL = 200
"""Of the characters in a table's cell."""

SECRETS = (
    (re.compile(r"(://[^\s/:@]*:)[^\s/]+(?=@)"), r"\1***"),  # scheme://user:password@host
    (re.compile(r"([?&](?:password|passwd|pwd|token|secret)=)[^&\s]+", re.IGNORECASE), r"\1***"),
)

JOINERS = "\u200c\u200d"
"""Format characters that emoji and some scripts are written with; they move nothing."""


def readable(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text on one line: control characters escaped, passwords masked, at most so long."""
    if len(text) > most:
        start = most * 2 // 3
        text = f"{text[:start]} [...] {text[start - most :]}"
    shown = "".join(map(_shown, text))
    for pattern, mask in SECRETS:
        shown = pattern.sub(mask, shown)
    return shown


def print_line(text: str = "", *, file: TextIO | None = None) -> None:
    """Print one readable line, by default on standard output."""
    print(readable(text), file=file or sys.stdout, flush=file is not None)


def command(*words: object) -> str:
    """A command as a user can paste it into a shell: ``nas show 'my space.yaml'``."""
    return shlex.join(map(str, words))


def _shown(character: str) -> str:
    if character.isprintable() or character in JOINERS:
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
