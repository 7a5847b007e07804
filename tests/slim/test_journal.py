import re

import pytest

from nas.errors import UserError
from nas.latency.estimator import Visit
from nas.slim.journal import Identity, Judged, Measured, Raced, Timed, open_journal
from nas.slim.plan import Plan

PLAN = Plan(targets=({"latency_ms": 1.0},))
IDENTITY = Identity(weights_sha256="w", images_sha256="i", plan=PLAN)
VISITS = (Visit("network a", 0.1 + 0.2, 0.4, 7, 0.01), Visit("reference", 0.1, 0.2, 9, 0.02))
STOPPED = Timed(unit_sha256="u", models=("network a",), visits=VISITS[:1], is_whole=False)
WHOLE = Timed(unit_sha256="u", models=("network a",), visits=VISITS, is_whole=True)


@pytest.fixture
def path(tmp_path):
    """A journal of two evaluations, a race and two sessions, the first of which was stopped."""
    with open_journal(tmp_path / "j.jsonl", IDENTITY, sizes=(2, 2), resume=False) as journal:
        journal.add(Judged(assignment=(0, 1), accuracy=1 / 3))
        journal.add(STOPPED)
        journal.add(WHOLE)
        journal.add(Judged(assignment=(1, 1), accuracy=0.5))
        journal.add(Raced(current=(1, 1), candidates=((0, 1),), accuracies=(0.25,)))
    return tmp_path / "j.jsonl"


def unsealed(path):
    """Make the file one of a version that wrote no checksums."""
    path.write_text(re.sub(r', "check": "[0-9a-f]{8}"', "", path.read_text()))
    return path


def resumed(path, identity=IDENTITY):
    with open_journal(path, identity, sizes=(2, 2), resume=True) as journal:
        return journal


def test_what_was_added_is_there_again(path):
    journal = resumed(path)
    assert journal.accuracies == {(0, 1): 1 / 3, (1, 1): 0.5}
    assert journal.sessions == {("u", ("network a",)): [STOPPED, WHOLE]}
    assert journal.races == {((1, 1), (0, 1)): (0.25,)}


def test_a_latency_of_version_0_1_is_no_session(path):
    line = Measured(assignment=(0, 1), target_sha256="t", latency={"ms": 0.3, "status": "ok"})
    before = resumed(path).sessions
    path.write_text(unsealed(path).read_text() + line.model_dump_json() + "\n")
    assert resumed(path).sessions == before


def test_a_journal_of_version_0_1_is_of_warm_latencies(path):
    path.write_text(unsealed(path).read_text().replace('"state": "warm", ', ""))
    assert resumed(path).accuracies == {(0, 1): 1 / 3, (1, 1): 0.5}


@pytest.mark.parametrize(
    ("was", "now"),
    [
        *[('"accuracy": 0.5', f'"accuracy": {it}') for it in ("7.0", "-1", "NaN", "Infinity", '"x"')],
        *[('"accuracies": [0.25]', f'"accuracies": {it}') for it in ("[7.0]", "[]", "[0.2, 0.2]")],
        *[("[1, 1]", it) for it in ("[1, -1]", "[1, 2]", "[1]", "[1, 1, 0]", "[0.5, 1]")],
        *[("0.4, 7, 0.01", it) for it in ("-0.4, 7, 0.01", "NaN, 7, 0.01", "0, 7, 0.01", "0.4, 0, 1", "0.4, 7, -1")],
    ],
)  # fmt: skip
def test_a_value_beyond_its_bounds_is_named_by_its_line(path, was, now):
    text = unsealed(path).read_text()
    number = text[: text.index(was)].count("\n") + 1
    path.write_text(text.replace(was, now))
    with pytest.raises(
        UserError, match=rf"j\.jsonl:{number}: .*; name another --out, or start anew"
    ):
        resumed(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights_sha256": "x"}, "is of a search with the weights of another training; name anot"),
        ({"images_sha256": "x"}, "is of a search with other images; name another --out"),
        ({"plan": PLAN.model_copy(update={"seed": 1})}, "was started with seed 0, got 1; name anot"),
        ({"plan": PLAN.model_copy(update={"state": "cold"})},
         "was started with state warm, got cold; name anot"),
        ({"plan": PLAN.model_copy(update={"targets": ({"params": 1.0},)})},
         'was started with targets [{"latency_ms": 1.0}], got [{"params": 1.0}]; name another'),
    ],
)  # fmt: skip
def test_a_journal_of_another_search_is_one_line(path, changes, message):
    before = path.read_bytes()
    with pytest.raises(UserError, match=f"^{re.escape(f'{path}: {message}')}"):
        resumed(path, IDENTITY.model_copy(update=changes))
    assert path.read_bytes() == before
