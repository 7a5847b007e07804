from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nas.errors import UserError
from nas.latency.calibration import Calibration
from nas.latency.table import LatencyTable, Provenance, Row
from nas.latency.target import detect_target
from nas.latency.unit import Reference
from nas.space import SearchSpace
from nas.training.settings import LatencyTerm, price_paths

LATE = "stage2.block1.attention"
EARLY = "stage1.block1.ffn"
FETCHING = Calibration(factor=1.25, fetching=0.9, cache_megabytes=3.0, overhead_ms=0.05, networks=8)
"""Of a machine whose cache holds 3 MB: a table of 9 MB is fetched to a large part."""


def table_of(space: SearchSpace, path: Path, calibration: Calibration) -> LatencyTable:
    """A table in which the late module has many weights, and takes less time than the early one."""
    rng = np.random.default_rng(0)
    rows = {}
    for (signature, shape), layer in space.layers().items():
        ms, cold, params = float(rng.uniform(0.2, 0.3)), 1.05, 50_000
        if layer.slot == EARLY:
            ms = 0.5
        if layer.slot == LATE:
            ms, cold, params = 0.4, 3.0, 2_000_000
        rows[signature, shape] = Row(ms, ms, ms, cold * ms, cold * ms, cold * ms, params, 7, "ok")
    provenance = Provenance(
        space=space.name,
        space_argument="tiny.yaml",
        space_sha256="0" * 64,
        target=detect_target(),
        reference=Reference(network=space.smallest(), warm_ms=1.0, cold_ms=2.0),
        calibration=calibration,
        validation=None,
        date="2030-01-01T00:00:00+00:00",
        nas_version="0",
        load_average=None,
        seed=0,
    )
    return LatencyTable(rows, provenance, path)


@pytest.fixture
def table(tiny_space: SearchSpace, tmp_path: Path) -> LatencyTable:
    return table_of(tiny_space, tmp_path / "t.csv", FETCHING)


def without(space: SearchSpace, slot: str) -> list[int]:
    assignment = [size - 1 for size in space.sizes]
    assignment[space.kind_choices[slot]] = 0
    return assignment


def saved_by_each_layer(space: SearchSpace, table: LatencyTable) -> dict[str, float]:
    """By brute force: each layer of the largest network is left out, and the rest predicted."""
    placed = list(space.largest().placed())
    whole = table.cost_of(placed)["latency_ms"]
    return {
        layer.slot: whole - table.cost_of(placed[:index] + placed[index + 1 :])["latency_ms"]
        for index, (layer, _) in enumerate(placed)
    }


def test_a_candidate_costs_its_share_of_the_largest_network(
    tiny_space: SearchSpace, table: LatencyTable
) -> None:
    term = price_paths(tiny_space, table, 0.3)
    assert term.weight == 0.3
    assert term.largest_ms == table.predict(tiny_space.largest())
    assert list(term.ms) == [EARLY, LATE]
    saved = saved_by_each_layer(tiny_space, table)
    scale = term.largest_ms / sum(saved.values())
    shares = dict(zip(saved, table.shares(tiny_space.largest()), strict=True))
    assert sum(shares.values()) == pytest.approx(term.largest_ms, abs=1e-9)
    for slot, (nothing, module) in term.ms.items():
        assert nothing == 0
        assert module == pytest.approx(scale * saved[slot])
        assert module == pytest.approx(shares[slot])
        faster = term.largest_ms - table.predict(tiny_space.decode(without(tiny_space, slot)))
        assert module == pytest.approx(scale * faster)


def test_weights_that_are_fetched_make_a_late_layer_cost_more_than_a_slower_early_one(
    tiny_space: SearchSpace, table: LatencyTable, tmp_path: Path
) -> None:
    rows = {layer.slot: table.row(layer, shape) for layer, shape in tiny_space.largest().placed()}
    assert rows[LATE].ms < rows[EARLY].ms
    term = price_paths(tiny_space, table, 1.0)
    (_, early), (_, late) = term.ms[EARLY], term.ms[LATE]
    saved = saved_by_each_layer(tiny_space, table)
    assert late / early == pytest.approx(saved[LATE] / saved[EARLY])
    assert late > 1.5 * early
    cached = table_of(tiny_space, tmp_path / "c.csv", Calibration(factor=1.25))
    term = price_paths(tiny_space, cached, 1.0)
    assert term.ms[LATE][1] == pytest.approx(0.8 * term.ms[EARLY][1])


def test_a_candidate_that_the_largest_network_does_not_have_costs_what_it_would_add(
    tmp_path: Path,
) -> None:
    heads = {"heads": 2, "key_dim": 8, "value_dim": 8}
    kinds = [
        "identity",
        {"kind": "metablock4d", "expansion": 2},
        {"kind": "metablock3d", "expansion": 2, **heads},
    ]
    space = SearchSpace.model_validate(
        {
            "name": "kinds",
            "input_size": 32,
            "classes": 10,
            "stem": {"kind": "conv_stem"},
            "stages": [{"width": 8, "blocks": [{"metablock": kinds}]}],
            "head": {"kind": "token_classifier"},
        }
    )
    table = table_of(space, tmp_path / "t.csv", FETCHING)
    term = price_paths(space, table, 1.0)
    (prices,) = term.ms.values()
    costs = [table.predict(space.decode((kind,))) for kind in range(3)]
    share = table.shares(space.largest())[1]
    scale = share / (costs[2] - costs[0])
    assert prices == pytest.approx([scale * (cost - costs[0]) for cost in costs])
    assert prices[2] == pytest.approx(share)
    assert prices[0] == 0


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
