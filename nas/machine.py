"""The cores that this process may use, which are fewer than the machine's in many a container."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """At least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
