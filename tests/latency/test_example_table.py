"""The table that comes with the package fits the default space and keeps what it promises."""

from pathlib import Path

import pytest

from nas.latency.build import THOROUGH
from nas.latency.calibration import judge
from nas.latency.estimator import STATES
from nas.latency.table import LatencyTable
from nas.space import DEFAULT_SPACE, SearchSpace

TABLE = Path(__file__).resolve().parents[2] / "latency_tables" / "example_cpu.csv"


@pytest.fixture(scope="module")
def table():
    return LatencyTable.load(TABLE)


def test_example_holds_the_default_space(table):
    space = SearchSpace.load(DEFAULT_SPACE)
    assert table.space == space.name
    table.require_layers(space)
    for state in STATES:
        least, most = (
            table.predict(network, state) for network in (space.smallest(), space.largest())
        )
        assert 0 < least < most
    assert table.predict(space.largest()) < table.predict(space.largest(), "cold")


def test_its_reference_is_a_network_of_the_space(table):
    reference = table.provenance.reference
    assert 0 < reference.warm_ms < reference.cold_ms
    assert table.predict(reference.network) == pytest.approx(reference.warm_ms, rel=0.15)


@pytest.mark.parametrize("state", STATES)
def test_example_is_validated(table, state):
    assert judge(table.validation).failures == ()
    found = table.validation.of(state)
    assert found.calibrated.networks == THOROUGH.held_out
    assert found.calibrated.mape <= found.macs.mape / 2
    assert found.most_ms > 4 * found.least_ms
