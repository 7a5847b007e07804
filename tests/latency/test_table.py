"""Latency tables: files, costs, and every message for a table that cannot be used."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nas.errors import UserError
from nas.latency.calibration import Calibration
from nas.latency.table import LatencyTable, Row, build_command, format_rows, parse_rows, visits_path
from nas.space import SearchSpace

HEADER = "layer,input_shape,ms,ms_low,ms_high,cold_ms,cold_low,cold_high,params,macs,status\n"
LINE = (
    "conv_ffn channels=8 expansion=2,8x4x4,"
    "0.010000,0.009000,0.011000,0.020000,0.018000,0.022000,300,4000,ok\n"
)


def test_table_survives_a_round_trip(table):
    loaded = LatencyTable.load(table.path)
    assert loaded.rows.keys() == table.rows.keys()
    for key, row in table.rows.items():
        assert loaded.rows[key] == pytest.approx(row, abs=1e-6)
    assert loaded.provenance == table.provenance
    assert (loaded.space, loaded.calibration.factor) == ("tiny", 1.25)


def test_rows_as_text():
    row = Row(0.01, 0.009, 0.011, 0.02, 0.018, 0.022, 300, 4000, "ok")
    key = ("conv_ffn channels=8 expansion=2", (8, 4, 4))
    assert format_rows({key: row}) == HEADER + LINE
    assert parse_rows((HEADER + LINE).encode(), "t.csv") == {key: row}


def test_cost_is_the_calibrated_sum_of_rows(table, tiny):
    rng = np.random.default_rng(0)
    for _ in range(20):
        architecture = tiny.sample(rng)
        rows = [table.rows[(layer.signature, shape)] for layer, shape in architecture.placed()]
        cost = table.cost(architecture)
        assert cost["latency_ms"] == pytest.approx(1.25 * sum(row.ms for row in rows))
        assert cost["params"] == sum(row.params for row in rows)
        assert cost["macs"] == sum(row.macs for row in rows)
        assert table.predict(architecture) == cost["latency_ms"]
        assert table.predict(architecture, "cold") == pytest.approx(
            sum(row.cold_ms for row in rows)
        )
        assert table.cost(architecture, "cold")["latency_ms"] == table.predict(architecture, "cold")


@pytest.mark.parametrize("state", ["warm", "cold"])
def test_shares_of_layers_add_up_to_the_prediction(table, tiny, state):
    fetching = Calibration(factor=1.1, fetching=0.7, cache_megabytes=0.002, overhead_ms=0.1)
    provenance = table.provenance.model_copy(update={"calibration": fetching})
    table = replace(table, provenance=provenance)
    rng = np.random.default_rng(0)
    for architecture in [tiny.largest(), *(tiny.sample(rng) for _ in range(5))]:
        shares = table.shares(architecture, state)
        assert len(shares) == len(architecture.layers)
        assert sum(shares) == pytest.approx(table.predict(architecture, state), abs=1e-9)


def test_a_table_holds_networks_of_its_own_layers(table, tiny):
    assert table.holds(tiny.largest())
    assert not table.holds(tiny.largest().with_input_size(64))
    assert not table.holds(tiny.largest().with_classes(77))


def test_a_state_that_there_is_not_is_one_line(table, tiny):
    with pytest.raises(UserError, match=r"^state: must be warm or cold, got 'hot'$"):
        table.predict(tiny.smallest(), "hot")


def test_one_layer_on_two_maps_has_two_rows(table, tiny):
    layer, shape = next(
        (layer, shape) for layer, shape in tiny.largest().placed() if layer.kind == "conv_ffn"
    )
    assert table.row(layer, shape) == table.rows[(layer.signature, shape)]
    with pytest.raises(UserError, match=r"no row for 'conv_ffn .*' on 16x64x64"):
        table.row(layer, (16, 64, 64))


def test_missing_layer_is_named_with_the_command_that_adds_it(table, tiny):
    wider = tiny.model_dump(exclude_defaults=True)
    wider["stages"][0]["width"] = (8, 20)
    with pytest.raises(UserError) as error:
        table.require_layers(SearchSpace.model_validate({**wider, "name": "wider"}))
    assert str(error.value) == (
        f"{table.path}: no row for 'conv_stem out_channels=20' on 3x32x32 (stem); add what the space "
        f"is missing: nas build-lut --space spaces/tiny.yaml --device cpu --out {table.path} "
        "--resume"
    )
    table.require_layers(tiny)


def test_command_of_a_table_names_its_runtime_threads_and_batch(table):
    target = table.target.model_copy(update={"runtime": "openvino", "threads": 2, "batch": 8})
    provenance = table.provenance.model_copy(update={"target": target})
    assert "--runtime openvino --threads 2 --batch 8 --out t.csv" in build_command(
        Path("t.csv"), provenance
    )


def test_another_target_is_refused_naming_the_differences(table, target):
    table.require_target(target)
    other = target.model_copy(update={"cpu_model": "Abacus", "threads": 3})
    with pytest.raises(UserError, match=r"cpu_model: .* here, Abacus there; threads: 1 here, 3"):
        table.require_target(other)


def test_edited_table_is_refused(table):
    with table.path.open("a") as file:
        file.write(LINE)
    with pytest.raises(UserError, match=r"t\.csv: its content differs .* --force$"):
        LatencyTable.load(table.path)


def test_a_table_that_git_on_windows_wrote_is_the_same_table(table):
    rows = LatencyTable.load(table.path).rows
    table.path.write_bytes(table.path.read_bytes().replace(b"\n", b"\r\n"))
    sidecar = table.path.with_suffix(".json")
    sidecar.write_bytes(sidecar.read_bytes().replace(b"\n", b"\r\n"))
    assert LatencyTable.load(table.path).rows == rows


def edit_a_number(content):
    lines = content.splitlines(keepends=True)
    cells = lines[3].split(b",")
    return b"".join([*lines[:3], b",".join([*cells[:2], b"9.9", *cells[3:]]), *lines[4:]])


@pytest.mark.parametrize("has_visits", [True, False])
@pytest.mark.parametrize(
    "damage",
    [
        edit_a_number,
        lambda content: b"".join(content.splitlines(keepends=True)[:-2]),
        lambda content: content[:-5],
        lambda content: content.replace(b"ok\n", b"ok\n\xff\xfe", 1),
        lambda content: content[content.index(b"\n") - 9 :],
        lambda content: b"PK\x03\x04",
    ],
)
def test_damaged_table_names_the_command_that_mends_it(table, damage, has_visits):
    table.path.write_bytes(damage(table.path.read_bytes()))
    if has_visits:
        visits_path(table.path).touch()
    with pytest.raises(UserError) as error:
        LatencyTable.load(table.path)
    assert str(error.value) == (
        f"{table.path}: its content differs from the hash in t.json: edited or half-written; "
        f"write it again: nas build-lut --space spaces/tiny.yaml --device cpu --out {table.path} "
        f"{'--resume' if has_visits else '--force'}"
    )


@pytest.mark.parametrize("content", ["{", '{"space": "tiny", "reference": 1}', None])
def test_unusable_sidecar_says_how_to_rebuild(table, content):
    sidecar = table.path.with_suffix(".json")
    if content is None:
        sidecar.unlink()
    else:
        sidecar.write_text(content)
    with pytest.raises(UserError, match=r"t\.json.*; without it t\.csv is of no use, rebuild: nas"):
        LatencyTable.load(table.path)


def test_a_table_of_an_earlier_version_is_refused_with_the_command_that_rebuilds_it(table):
    table.path.with_suffix(".json").write_text('{"space": "tiny", "space_argument": "tiny.yaml"}')
    with pytest.raises(UserError) as error:
        LatencyTable.load(table.path)
    assert str(error.value) == (
        f"{table.path}: is a table of an earlier version, which timed no layer cold and no reference "
        f"network; rebuild: nas build-lut --space tiny.yaml --device cpu --out {table.path} --force"
    )


def test_missing_table_names_the_command(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv: no such latency table; build it: nas build-l"):
        LatencyTable.load(tmp_path / "none.csv")


def test_missing_half_is_named(table):
    table.path.unlink()
    with pytest.raises(UserError, match=r"t\.csv: cannot be read"):
        LatencyTable.load(table.path)


def test_table_is_a_csv_file(table):
    with pytest.raises(UserError, match=r"a latency table is a \.csv file"):
        LatencyTable.load(table.path.with_suffix(".json"))


def test_damaged_sidecar_is_pointed_at(table):
    path = table.path.with_suffix(".json")
    data = json.loads(path.read_text())
    data["target"]["threads"] = 0
    path.write_text(json.dumps(data, indent=1))
    with pytest.raises(UserError, match=r"t\.json:\d+:\d+: target\.threads: .*, got 0"):
        LatencyTable.load(table.path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (LINE.replace("0.010000", "nan"), "t.csv:3: ms must be a number above zero, got nan"),
        (LINE.replace("0.010000", "0"), "t.csv:3: ms must be a number above zero, got 0"),
        (LINE.replace("0.010000", "-1"), "t.csv:3: ms must be a number above zero, got -1"),
        (LINE.replace("0.020000", "-1"), "t.csv:3: cold_ms must be a number above zero, got -1"),
        (LINE.replace(",ok", ",good"), "t.csv:3: status must be ok, noisy or modelled, got 'good'"),
        (LINE.replace("0.009000", "nan"), "t.csv:3: ms must lie in its interval"),
        (LINE.replace("0.011000", "0.001"), "t.csv:3: ms must lie in its interval"),
        (LINE.replace(",300", ",-300"), "t.csv:3: input_shape must be positive; params and macs"),
        (LINE.replace("8x4x4", "8x-4x4"), "t.csv:3: input_shape must be positive"),
        (LINE.replace(",300", ""), "t.csv:3: 11 cells expected, got 10"),
        (LINE.replace("300", "many"), "t.csv:3: invalid literal for int"),
        (LINE.replace("8x4x4", "8x4"), "t.csv:3: not enough values"),
        (LINE.replace("8x4x4", "8x2x2"), "t.csv:3: 'conv_ffn channels=8 expansion=2' on 8x2x2 o"),
    ],
)
def test_impossible_rows_are_refused_by_line(line, message):
    first = LINE.replace("8x4x4", "8x2x2")
    with pytest.raises(UserError) as error:
        parse_rows((HEADER + first + line).encode(), "t.csv")
    assert str(error.value).startswith(message)


def test_other_columns_are_refused():
    with pytest.raises(UserError, match=r"t\.csv:1: the columns must be layer,input_shape,ms"):
        parse_rows(b"layer,ms\n", "t.csv")


def test_a_table_that_was_brought_to_another_space_keeps_its_unit(table):
    reference = table.provenance.reference
    *_, (head, shape) = reference.network.placed()
    rows = {key: row for key, row in table.rows.items() if key != (head.signature, shape)}
    (before,), (after,) = table.unit.sums, replace(table, rows=rows).unit.sums
    assert before == table.sums(reference.network)
    assert (after.warm, after.cold) == (reference.warm_ms, reference.cold_ms)
    assert 0 < after.params < before.params
