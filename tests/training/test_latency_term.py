from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nas.errors import UserError
from nas.latency.calibration import Calibration
from nas.latency.table import LatencyTable, Provenance, Row
from nas.latency.target import detect_target
from nas.space import SearchSpace
from nas.training.settings import LatencyTerm, price_paths


@pytest.fixture
def table(tiny_space: SearchSpace, tmp_path: Path) -> LatencyTable:
    rng = np.random.default_rng(0)
    rows = {
        key: Row(float(rng.uniform(0.1, 1)), 0.0, 2.0, 5, 7, "ok") for key in tiny_space.layers()
    }
    provenance = Provenance(
        space=tiny_space.name,
        space_argument="tiny.yaml",
        space_sha256="0" * 64,
        target=detect_target(),
        calibration=Calibration(factor=1.25),
        validation=None,
        date="2030-01-01T00:00:00+00:00",
        nas_version="0",
        load_average=None,
        seed=0,
    )
    return LatencyTable(rows, provenance, tmp_path / "t.csv")


def without(space: SearchSpace, slot: str) -> list[int]:
    assignment = [size - 1 for size in space.sizes]
    assignment[space.kind_choices[slot]] = 0
    return assignment


def test_a_candidate_costs_what_the_largest_network_is_faster_without_it(
    tiny_space: SearchSpace, table: LatencyTable
) -> None:
    term = price_paths(tiny_space, table, 0.3)
    assert term.weight == 0.3
    assert term.largest_ms == table.predict(tiny_space.largest())
    assert list(term.ms) == ["stage1.block1.ffn", "stage2.block1.attention"]
    for slot, (nothing, module) in term.ms.items():
        assert nothing == 0
        faster = term.largest_ms - table.predict(tiny_space.decode(without(tiny_space, slot)))
        assert module == pytest.approx(faster)


def test_the_term_is_the_expected_share_of_the_largest_networks_latency() -> None:
    term = LatencyTerm(weight=0.5, table="t", largest_ms=4.0, ms={"a": (0.0, 2.0), "b": (1, 2, 3)})
    logits = {
        "a": torch.tensor([0.0, np.log(3.0)], dtype=torch.float64, requires_grad=True),
        "b": torch.zeros(3, dtype=torch.float64, requires_grad=True),
    }
    found = term(logits)
    assert found.item() == pytest.approx(0.5 * (0.75 * 2 + (1 + 2 + 3) / 3) / 4)
    found.backward()
    for one in logits.values():
        assert one.grad is not None
        assert one.grad[0] < 0 < one.grad[-1]


def test_a_table_without_the_layers_is_refused(
    tiny_space: SearchSpace, table: LatencyTable
) -> None:
    with pytest.raises(UserError, match=r"no row for 'classifier .* classes=3'"):
        price_paths(tiny_space.with_classes(3), table, 1.0)


def test_a_term_reads_as_what_was_asked_for() -> None:
    term = LatencyTerm(weight=0.25, table="tables/t.csv", largest_ms=1.5, ms={})
    assert str(term) == "0.25 (largest network 1.500 ms by tables/t.csv)"
    assert LatencyTerm.model_validate_json(term.model_dump_json()) == term
