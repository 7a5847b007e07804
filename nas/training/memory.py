"""A memory of bounded size, in which what was used the longest ago makes room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class BoundedMemory(Generic[Value]):
    """Values by key, together at most ``capacity`` bytes; ``peak`` is the most they ever took."""

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
