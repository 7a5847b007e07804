import numpy as np
import pytest

from nas.errors import UserError
from nas.latency.measure import Measurement
from nas.latency.table import Prices
from nas.progress import SILENT
from nas.slim.delivery import CORRECTIONS, Candidates, target_sha256
from nas.slim.journal import Identity, Measured, open_journal
from nas.slim.plan import Plan

TARGET = {"latency_ms": 2.9, "params": 1e9}


@pytest.fixture
def candidates(run, table, tmp_path):
    """Its journal says that the largest network was measured at three times what is predicted."""
    plan = Plan(targets=(TARGET,))
    prices = Prices(run.space, {"cpu": table})
    identity = Identity(weights_sha256="", images_sha256="", plan=plan)
    with open_journal(tmp_path / "j.jsonl", identity, resume=False) as journal:
        slow = 3 * prices.cost(largest(run))["latency_ms"]
        found = Measurement(slow, slow, slow, 1, "ok")
        journal.add(
            Measured(
                assignment=largest(run), target_sha256=target_sha256(table.target), latency=found
            )
        )
        dataset = run.data.load(32)
        measured = prices.measurable()
        yield Candidates(plan, prices, measured, run.load_supernet(), dataset, journal, SILENT)


def largest(run):
    return tuple(size - 1 for size in run.space.sizes)


def test_a_network_measured_above_the_target_lowers_the_bound_by_what_it_is_above(run, candidates):
    smallest = (0,) * len(run.space.sizes)
    asked = []

    def choose(bounds):
        asked.append(dict(bounds))
        return largest(run) if len(asked) == 1 else smallest

    found = candidates.deliver_within("slimmed", TARGET, choose)
    assert found.figures.assignment == smallest
    (latency,) = found.figures.latencies
    assert latency.high <= 2.9
    assert asked == [TARGET, {"latency_ms": pytest.approx(2.9 / 3), "params": 1e9}]


def test_a_target_that_is_never_met_is_one_line(run, candidates):
    bounds = []
    with pytest.raises(UserError) as error:
        candidates.deliver_within(
            "slimmed",
            TARGET,
            lambda it: (bounds.append(it["latency_ms"]), largest(run))[1],
        )
    assert str(error.value).startswith("slimmed: 2.9 ms not met when measured, after 12 corr")
    assert str(error.value).endswith("nas check-lut cpu.csv")
    assert len(bounds) == CORRECTIONS
    assert (np.diff(bounds) <= 0).all()
