import re

import pytest

from nas.errors import UserError
from nas.latency.measure import Measurement
from nas.slim.journal import Identity, Journal, Judged, Measured
from nas.slim.plan import Plan

PLAN = Plan(targets=({"latency_ms": 1.0},))
IDENTITY = Identity(weights_sha256="w", images_sha256="i", plan=PLAN)
LATENCY = Measurement(0.1 + 0.2, 0.1, 0.4, 7, "ok", (0.1, 0.3))


@pytest.fixture
def path(tmp_path):
    """A journal of two evaluations and a measurement."""
    with Journal(tmp_path / "j.jsonl", IDENTITY, resume=False) as journal:
        journal.add(Judged(assignment=(0, 1), accuracy=1 / 3))
        journal.add(Measured(assignment=(0, 1), target_sha256="t", latency=LATENCY))
        journal.add(Judged(assignment=(1, 1), accuracy=0.5))
    return tmp_path / "j.jsonl"


def resumed(path, identity=IDENTITY):
    with Journal(path, identity, resume=True) as journal:
        return journal


def test_what_was_added_is_there_again(path):
    journal = resumed(path)
    assert journal.accuracies == {(0, 1): 1 / 3, (1, 1): 0.5}
    assert journal.latencies == {((0, 1), "t"): LATENCY}


def test_a_torn_last_line_is_ignored_and_written_over(path):
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with Journal(path, IDENTITY, resume=True) as journal:
        assert journal.accuracies == {(0, 1): 1 / 3}
        journal.add(Judged(assignment=(1, 1), accuracy=0.5))
    assert path.read_bytes() == whole


def test_a_journal_cut_within_its_first_line_begins_anew(path):
    path.write_bytes(path.read_bytes()[:20])
    assert resumed(path).accuracies == {}
    assert resumed(path).accuracies == {}


def test_without_resume_a_journal_begins_anew(path):
    with Journal(path, IDENTITY, resume=False) as journal:
        assert journal.accuracies == {}
    assert path.read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights_sha256": "x"}, "is of a search with the weights of another training; name anot"),
        ({"images_sha256": "x"}, "is of a search with other images; name another --out"),
        ({"plan": PLAN.model_copy(update={"seed": 1})}, "was started with seed 0, got 1; name anot"),
        ({"plan": PLAN.model_copy(update={"targets": ({"params": 1.0},)})},
         'was started with targets [{"latency_ms": 1.0}], got [{"params": 1.0}]; name another'),
    ],
)  # fmt: skip
def test_a_journal_of_another_search_is_one_line(path, changes, message):
    before = path.read_bytes()
    with pytest.raises(UserError, match=f"^{re.escape(f'{path}: {message}')}"):
        resumed(path, IDENTITY.model_copy(update=changes))
    assert path.read_bytes() == before


def test_a_damaged_line_is_named(path):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], "{}\n", *lines[2:]]))
    with pytest.raises(UserError, match=r"j\.jsonl:2: is no line of a journal; --force starts"):
        resumed(path)
