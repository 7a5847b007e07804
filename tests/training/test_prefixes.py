from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nas.training.prefixes import BoundedMemory


def test_what_was_used_the_longest_ago_makes_room() -> None:
    memory: BoundedMemory[str] = BoundedMemory(10)
    memory.put("a", "first", 4)
    memory.put("b", "second", 4)
    assert memory.get("a") == "first"
    memory.put("c", "third", 4)
    assert [memory.get(key) for key in "abc"] == ["first", None, "third"]


def test_what_is_too_large_alone_is_not_kept_and_evicts_nothing() -> None:
    memory: BoundedMemory[str] = BoundedMemory(10)
    memory.put("a", "small", 4)
    memory.put("b", "large", 11)
    assert (memory.get("a"), memory.get("b"), memory.peak) == ("small", None, 4)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12)), max_size=40))
def test_sizes_add_up_and_stay_within_capacity(puts: list[tuple[int, int]]) -> None:
    memory: BoundedMemory[int] = BoundedMemory(10)
    sizes: dict[int, int] = {}
    for key, size in puts:
        memory.put(key, size, size)
        sizes[key] = size
        assert memory.used == sum(sizes[it] for it in range(6) if memory.get(it) is not None)
        assert memory.used <= memory.peak <= 10
