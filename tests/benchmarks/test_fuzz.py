"""A short run of the fuzzer, and what it calls a good ending."""

import runpy
from pathlib import Path

import pytest

from nas.errors import UserError

FUZZ = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "fuzz.py"))


@pytest.mark.slow
def test_damaged_documents_end_in_one_line_or_load_as_they_were():
    kinds = ["space", "architecture", "table"]
    with FUZZ["originals"](kinds) as readers:
        endings = FUZZ["fuzz"](readers, 1, range(120))
    assert len(endings) == 120
    assert [it for it in endings.values() if it.outcome not in FUZZ["GOOD"]] == []
    assert sum(it.outcome == "line" for it in endings.values()) > 60


@pytest.mark.slow
def test_what_is_whole_loads_for_every_kind():
    kinds = list(FUZZ["KINDS"])
    with FUZZ["originals"](kinds) as readers:
        assert list(readers.readers) == kinds


def fail(folder):
    return int("x")


def swell(folder):
    return len(bytearray(3 * 2**30))


def die(folder):
    import faulthandler
    import os

    faulthandler.disable()  # whose report of this death would be read as one of the tests'
    os.abort()


def differ(folder):
    raise FUZZ["WrongError"]("another value")


def refuse(folder):
    raise UserError("two\nlines")


class OneReader:
    """What ``fuzz`` needs of ``Readers``: each input is read by the same function."""

    def __init__(self, reader):
        self.reader = reader

    def damaged(self, seed, number, folder):  # noqa: ARG002
        return "any: file", self.reader


@pytest.mark.parametrize(
    ("reader", "outcome"),
    [(fail, "traceback"), (swell, "large"), (die, "crash"), (differ, "wrong"), (refuse, "ugly")],
)
def test_each_bad_ending_is_noticed_and_the_next_input_is_read(reader, outcome):
    endings = FUZZ["fuzz"](OneReader(reader), 0, [5, 6])
    assert [endings[it].outcome for it in (5, 6)] == [outcome, outcome]


def test_damage_is_the_same_for_the_same_seed(tmp_path):
    with FUZZ["originals"](["architecture"]) as readers:
        contents = []
        for place in ("first", "second"):
            (tmp_path / place).mkdir()
            readers.damaged(0, 3, tmp_path / place)
            contents.append({it.name: it.read_bytes() for it in (tmp_path / place).iterdir()})
            original = {
                it: (readers.folder / "architecture" / it).read_bytes() for it in contents[0]
            }
    assert contents[0] == contents[1] != original
