"""This process: its version, cores that it may use, how its threads wait, memory that it frees."""

from __future__ import annotations

import ctypes
import os
import sys

from nas import __version__

OPENMP = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "600"}
"""Environment in which torch's threads wait for each other shortly, and then sleep.

Threads that never sleep make training many times slower with another program on one of the cores;
those that sleep at once make it slower where nobody disturbs them.
"""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt(3)


def nas_version() -> str:
    """Returns the version of this package."""
    return __version__


def usable_cores() -> int:
    """Returns the number of cores that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Let this process keep pieces of memory up to a gigabyte that it frees.

    glibc gives them back to the system, which clears each page when it is needed again. Other
    allocators stay as they are.
    """
    if sys.platform != "linux":
        return
    if set_option := getattr(ctypes.CDLL(None), "mallopt", None):
        set_option(_MMAP_THRESHOLD, 2**30)
        set_option(_TRIM_THRESHOLD, 2**31 - 1)
