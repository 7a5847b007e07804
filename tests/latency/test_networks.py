"""Whole networks validate a table; a known drift is found and mended."""

from dataclasses import replace

import numpy as np
import pytest

from nas.errors import UserError
from nas.latency.calibration import Calibration, RowSums, judge
from nas.latency.networks import (
    MOST_ROUNDS,
    NetworkSample,
    Runner,
    calibrate,
    judge_drift,
    measure_drift,
    reanchored,
    space_of,
)
from nas.latency.table import Anchor, LatencyTable, Row, space_hash


def test_a_table_that_fails_is_measured_on_but_not_for_ever(tiny, target, graphs, brief, progress):
    rng = np.random.default_rng(0)
    nonsense = {
        key: Row(float(rng.uniform(0.01, 1)), 0.0, 1.0, 1000, 1000, "ok") for key in tiny.layers()
    }
    sample = NetworkSample(fitted=4, held_out=4, passes=1, visits=brief)
    _, validation = calibrate(tiny, nonsense, Runner(target, rng, graphs, progress), sample)
    assert judge(validation).failures
    assert progress.updates.count(("networks", 0, 8)) == MOST_ROUNDS


PREDICTED = np.geomspace(0.5, 5, 28)


def measured(shift, noise=0.01):
    return PREDICTED * (1 + shift) * np.random.default_rng(0).normal(1, noise, len(PREDICTED))


def drift(truth):
    sums = [RowSums(ms, 1e6 * ms, 0) for ms in PREDICTED]
    return judge_drift(Calibration(factor=1.0), sums, truth)


@pytest.mark.parametrize(
    ("shift", "action"),
    [(0.0, "none"), (0.02, "none"), (-0.02, "none"), (0.06, "re-anchor"), (-0.08, "re-anchor"),
     (0.14, "rebuild"), (-0.13, "rebuild")],
)  # fmt: skip
def test_shift_is_recovered_and_decides(shift, action):
    found = drift(measured(shift))
    assert found.networks == 28
    assert found.shift == pytest.approx(shift, abs=0.01)
    assert found.mape_after < 0.015
    assert found.mape_before == pytest.approx(max(abs(shift), 0.008), rel=0.35)
    assert found.action == action


def test_lost_order_asks_for_a_rebuild_even_without_a_shift():
    found = drift(measured(0.0, noise=0.3))
    assert found.spearman < 0.98
    assert found.action == "rebuild"


def test_reanchoring_shifts_predictions_and_keeps_the_past(table, tiny):
    largest = tiny.largest()
    before = table.predict(largest)
    sums = [RowSums(ms / table.calibration.factor, 0, 0) for ms in PREDICTED]
    once = reanchored(table, judge_drift(table.calibration, sums, measured(0.05)), "2031-01-01")
    again = judge_drift(once.calibration, sums, measured(0.09))
    twice = reanchored(once, again, "2032-01-01")
    twice.save()
    loaded = LatencyTable.load(table.path)
    assert loaded.predict(largest) == pytest.approx(1.09 * before, rel=0.01)
    assert again.shift == pytest.approx(1.09 / 1.05 - 1, abs=0.001)
    assert loaded.provenance.anchored == "2032-01-01"
    assert loaded.provenance.earlier_anchors == (
        Anchor(calibration=table.calibration, date=table.provenance.date),
        Anchor(calibration=once.calibration, date="2031-01-01"),
    )


def test_space_that_is_gone_or_changed_is_reported(table, tiny, tmp_path):
    with pytest.raises(UserError, match=r"t\.csv: its search space is needed: .*spaces/tiny\.yaml"):
        space_of(table)
    path = tmp_path / "tiny.json"
    path.write_text(tiny.to_json())
    changed = {"space_argument": str(path)}
    table = replace(table, provenance=table.provenance.model_copy(update=changed))
    with pytest.raises(UserError, match=r"tiny\.json' has changed .*: nas build-lut .* --resume"):
        space_of(table)
    changed["space_sha256"] = space_hash(tiny)
    table = replace(table, provenance=table.provenance.model_copy(update=changed))
    assert space_of(table) == tiny


def test_table_of_another_machine_is_not_checked(table):
    other = table.target.model_copy(update={"cpu_model": "Abacus"})
    table = replace(table, provenance=table.provenance.model_copy(update={"target": other}))
    with pytest.raises(UserError, match="cpu_model: Abacus here"):
        measure_drift(table, networks=4, seed=0)
