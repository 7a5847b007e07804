"""The table that comes with the package fits the default space and keeps what it promises."""

from pathlib import Path

import pytest

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
    assert 0 < table.predict(space.smallest()) < table.predict(space.largest())


def test_example_is_validated(table):
    found = table.validation
    assert found.calibrated.networks >= 24
    assert found.calibrated.mape <= 0.03
    assert found.calibrated.spearman >= 0.985
    assert found.calibrated.mape <= found.macs.mape / 2
    assert found.most_ms > 4 * found.least_ms
