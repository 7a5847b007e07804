"""The cores that this process may use; in a container often fewer than the machine has."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Returns the number of cores that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
