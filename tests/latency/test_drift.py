"""A known drift is found and told from a table that is wrong; a shifted table is corrected."""

from dataclasses import replace

import numpy as np
import pytest

from nas.errors import UserError
from nas.latency.calibration import Machine, RowSums
from nas.latency.drift import judge_drift, measure_drift, reanchored, space_of
from nas.latency.estimator import STATES
from nas.latency.measure import Found
from nas.latency.table import Anchor, LatencyTable, space_hash

WARM = np.geomspace(0.5, 5, 28)
SAME = Machine()
SUMS = [RowSums(ms, 1.5 * ms, 0, 0) for ms in WARM]


def drift(table, *, bias=(0.0, 0.0), shift=(0.0, 0.0), machine=SAME, noise=0.01):
    """Of a machine that takes ``shift`` longer, and whose networks differ by ``bias`` beside it."""
    rng = np.random.default_rng(0)
    measured = {
        state: [
            (1 - own) * table.calibration.latency(one, state) * rng.normal(1, noise) for one in SUMS
        ]
        for state, own in zip(STATES, bias, strict=True)
    }
    found = Found({}, dict(zip(STATES, shift, strict=True)), machine, (0.0, 0.0))
    return judge_drift(table, SUMS, measured, found, dict.fromkeys(STATES, noise))


@pytest.mark.parametrize(
    ("shift", "bias", "action"),
    [
        ((0.0, 0.0), (0.0, 0.0), "none"),
        ((0.02, -0.02), (0.02, -0.02), "none"),
        ((0.06, 0.0), (0.0, 0.0), "re-anchor"),
        ((0.0, -0.08), (0.0, 0.0), "re-anchor"),
        ((0.25, 0.25), (0.02, 0.0), "re-anchor"),
        ((0.35, 0.0), (0.0, 0.0), "rebuild"),  # another machine
        ((-0.4, 0.0), (0.0, 0.0), "rebuild"),
        ((0.06, 0.0), (0.08, 0.0), "rebuild"),  # the networks differ otherwise than the reference
        ((0.0, 0.0), (0.0, -0.08), "rebuild"),
    ],
)  # fmt: skip
def test_shift_and_bias_decide(table, shift, bias, action):
    found = drift(table, shift=shift, bias=bias)
    assert found.networks == 28
    assert found.action == action
    for state, own_shift, own_bias in zip(STATES, shift, bias, strict=True):
        assert found.of(state).shift == own_shift
        assert found.of(state).bias == pytest.approx(1 / (1 - own_bias) - 1, abs=0.006)
        assert found.of(state).mape == pytest.approx(max(abs(own_bias), 0.008), rel=0.4)
        assert found.of(state).spearman > 0.99


def test_lost_order_asks_for_a_rebuild_unless_noise_explains_it(table):
    found = drift(table, noise=0.2)
    assert found.warm.spearman < 0.98
    assert found.action == "none", "20 % of noise explain errors of 16 %"
    quiet = {
        state: [table.calibration.latency(one, state) for one in [*SUMS[4:], *SUMS[:4]]]
        for state in STATES
    }
    nothing = dict.fromkeys(STATES, 0.0)
    found = Found({}, nothing, Machine(), (0.0, 0.0))
    assert judge_drift(table, SUMS, quiet, found, nothing).action == "rebuild"


def test_networks_that_lie_close_together_have_no_order_to_lose(table):
    sums = [one._replace(warm=1 + 0.001 * place, cold=2 + 0.001 * place, params=0)
            for place, one in enumerate(SUMS)]  # fmt: skip
    other = {
        state: [table.calibration.latency(one, state) for one in [*sums[4:], *sums[:4]]]
        for state in STATES
    }
    nothing = dict.fromkeys(STATES, 0.0)
    verdict = judge_drift(table, sums, other, Found({}, nothing, Machine(), (0.0, 0.0)), nothing)
    assert verdict.warm.spearman < 0.98
    assert verdict.action == "none"


def test_reanchoring_shifts_predictions_and_the_unit_and_keeps_the_past(table, tiny):
    largest, machine = tiny.largest(), Machine(1.05, 1.2, 0.9)
    again = Machine(1.1, 1.0, 1.2)
    once = reanchored(table, drift(table, shift=(0.05, 0.10), machine=machine), "2031-01-01")
    twice = reanchored(once, drift(once, shift=(0.10, -0.05), machine=again), "2032-01-01")
    twice.save()
    loaded = LatencyTable.load(table.path)
    warm, cold = loaded.sums(largest).warm, loaded.sums(largest).cold
    assert loaded.predict(largest) == pytest.approx(1.05 * 1.1 * 1.25 * warm)
    told = 1.05 * 1.1 * warm + 1.2 * (cold - warm)
    assert loaded.predict(largest, "cold") == pytest.approx(told)
    assert loaded.calibration.cache_megabytes == pytest.approx(256 * 0.9 * 1.2)
    for before, after in zip(table.unit.references, loaded.unit.references, strict=True):
        for state in STATES:
            growth = loaded.predict(before.network, state) / table.predict(before.network, state)
            assert after.ms(state) == pytest.approx(growth * before.ms(state))
    assert loaded.provenance.anchored == "2032-01-01"
    assert loaded.provenance.earlier_anchors == (
        Anchor(
            calibration=table.calibration,
            reference=table.provenance.reference,
            date=table.provenance.date,
        ),
        Anchor(
            calibration=once.calibration, reference=once.provenance.reference, date="2031-01-01"
        ),
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
