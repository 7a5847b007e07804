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
SPACE = SearchSpace.load("across_32px")


@pytest.mark.parametrize("family", BENCHMARK["FAMILIES"])
def test_a_family_has_the_same_space_with_its_own_mixers_alone(family):
    restricted = BENCHMARK["with_mixers"](SPACE, family)
    kinds = BENCHMARK["FAMILIES"][family]
    assert set(restricted.layers()) < set(SPACE.layers())  # one table serves all
    for ours, theirs in zip(restricted.slots, SPACE.slots, strict=True):
        assert ours.name == theirs.name
        if ours.name.endswith(".mixer"):
            expected = [it for it in theirs.candidates if it.kind in ("identity", *kinds)]
            assert list(ours.candidates) == expected
            assert len(expected) == 1 + len(kinds)
        else:
            assert ours.candidates == theirs.candidates


def test_the_families_share_out_all_mixers():
    mixers = {it.kind for slot in SPACE.slots if "mixer" in slot.name for it in slot.candidates}
    named = [kind for kinds in BENCHMARK["FAMILIES"].values() for kind in kinds]
    assert sorted(named) == sorted(mixers - {"identity"})
