"""This process: its version, cores that it may use, how its threads wait, memory that it frees."""

from __future__ import annotations

import ctypes
import os
import sys

from nas import __version__

OPENMP = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "600"}
"""Environment in which torch's threads wait for each other shortly, and then sleep.

With another program on one of two cores, threads that never sleep made training 30 times slower;
those that sleep at once make it 1.6 times slower where nobody disturbs them.
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
