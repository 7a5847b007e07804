"""What is kept: values, in a memory of bounded size, and what the process has freed."""

from __future__ import annotations

import ctypes
import sys
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt(3)."""


class BoundedMemory(Generic[Value]):
    """Values by key, together at most ``capacity`` bytes; ``peak`` is the most they ever took.

    What was used the longest ago makes room.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = self.peak = 0
        self._kept: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def get(self, key: Hashable) -> Value | None:
        """The value, used just now; None if it is not kept."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def put(self, key: Hashable, value: Value, size: int) -> None:
        """Keep a value of ``size`` bytes, unless it alone is larger than the memory."""
        self.used -= self._kept.pop(key, (None, 0))[1]
        if size > self.capacity:
            return
        while self.used + size > self.capacity:
            _, (_, freed) = self._kept.popitem(last=False)
            self.used -= freed
        self._kept[key] = value, size
        self.used += size
        self.peak = max(self.peak, self.used)


def keep_freed_memory() -> None:
    """Let this process keep what it frees, of up to a gigabyte a piece, for what it needs next.

    glibc gives large pieces back to the system at once, which clears each page when it is needed
    again. Other allocators stay as they are.
    """
    if sys.platform != "linux":
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, 2**30)
        set_option(_TRIM_THRESHOLD, 2**31 - 1)
