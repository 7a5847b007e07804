"""The spaces that the benchmark compares differ in their mixers alone."""

import runpy
import sys
from pathlib import Path

import pytest

from nas.space import SearchSpace

FOLDER = Path(__file__).parents[2] / "benchmarks"
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "path", [str(FOLDER), *sys.path])  # as for a script of that folder
    BENCHMARK = runpy.run_path(str(FOLDER / "across.py"))
SPACE = BENCHMARK["with_inverted_residuals"](SearchSpace.load("across_32px"))


@pytest.mark.parametrize("name", ["across", *BENCHMARK["FAMILIES"]])
def test_each_space_is_the_same_but_for_its_mixers(name):
    restricted = BENCHMARK["with_mixers"](SPACE, name)
    kinds = BENCHMARK["SPACES"][name]
    assert set(restricted.layers()) < set(SPACE.layers())  # one table serves all
    for ours, theirs in zip(restricted.slots, SPACE.slots, strict=True):
        assert ours.name == theirs.name
        if ours.name.endswith(".mixer"):
            expected = [it for it in theirs.candidates if it.kind in ("identity", *kinds)]
            assert list(ours.candidates) == expected
            assert len(expected) == 1 + len(kinds)
        else:
            assert ours.candidates == theirs.candidates


def test_the_space_of_five_families_is_the_one_that_users_have():
    known = SearchSpace.load("across_32px")
    assert BENCHMARK["with_mixers"](SPACE, "across").slots == known.slots
    assert BENCHMARK["with_mixers"](SPACE, "with_mobilenet").slots == SPACE.slots


def test_the_families_share_out_all_mixers():
    mixers = {it.kind for slot in SPACE.slots if "mixer" in slot.name for it in slot.candidates}
    named = [kind for kinds in BENCHMARK["FAMILIES"].values() for kind in kinds]
    assert sorted(named) == sorted(mixers - {"identity"})
