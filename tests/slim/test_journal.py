import re

import pytest

from nas.errors import UserError
from nas.latency.measure import Measurement
from nas.slim.journal import Identity, Judged, Measured, Raced, open_journal
from nas.slim.plan import Plan

PLAN = Plan(targets=({"latency_ms": 1.0},))
IDENTITY = Identity(weights_sha256="w", images_sha256="i", plan=PLAN)
LATENCY = Measurement(0.1 + 0.2, 0.1, 0.4, 7, "ok", (0.1, 0.3))


@pytest.fixture
def path(tmp_path):
    """A journal of two evaluations and a measurement."""
    with open_journal(tmp_path / "j.jsonl", IDENTITY, resume=False) as journal:
        journal.add(Judged(assignment=(0, 1), accuracy=1 / 3))
        journal.add(Measured(assignment=(0, 1), target_sha256="t", latency=LATENCY))
        journal.add(Judged(assignment=(1, 1), accuracy=0.5))
        journal.add(Raced(current=(1, 1), candidates=((0, 1),), accuracies=(0.25,)))
    return tmp_path / "j.jsonl"


def resumed(path, identity=IDENTITY):
    with open_journal(path, identity, resume=True) as journal:
        return journal


def test_what_was_added_is_there_again(path):
    journal = resumed(path)
    assert journal.accuracies == {(0, 1): 1 / 3, (1, 1): 0.5}
    assert journal.latencies == {((0, 1), "t"): LATENCY}
    assert journal.races == {((1, 1), (0, 1)): (0.25,)}


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
