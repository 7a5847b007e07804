"""What was measured, as it is printed: tables, their drift, models, profiles."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nas.latency.calibration import Calibration, Machine, MeasuredNetwork, StateLatency, validate
from nas.latency.drift import Drift, StateDrift
from nas.latency.estimator import Latency, Measurement
from nas.latency.measure import Found
from nas.latency.table import LatencyTable, Provenance, Row
from nas.latency.target import detect_target
from nas.latency.unit import Reference, describe_spread
from nas.report.measurements import (
    compare_precisions,
    print_drift,
    print_found,
    print_profiles,
    print_validation,
)
from nas.report.pictures import draw_calibration
from nas.report.show import (
    describe_architecture,
    describe_profiles,
    describe_space,
    print_description,
)
from nas.space import SearchSpace


def lines_of(capsys):
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def point(ms, *, held_out):
    """A network whose prediction is 3 % short warm and 6 % long cold, and the sum of rows 10 %."""
    warm = StateLatency(sum_ms=0.9 * ms, predicted_ms=0.97 * ms, measured_ms=ms, noise=0.01)
    cold = StateLatency(sum_ms=1.8 * ms, predicted_ms=2.12 * ms, measured_ms=2 * ms, noise=0.05)
    macs = round(1e6 * ms)
    return MeasuredNetwork(params=1000, macs=macs, held_out=held_out, warm=warm, cold=cold)


@pytest.fixture
def table(tmp_path):
    """A table of the demo's space on a machine whose cache holds few weights."""
    space = SearchSpace.load("demo_64px")
    rng = np.random.default_rng(0)
    rows = {}
    for key in space.layers():
        ms = float(rng.uniform(0.01, 0.1))
        rows[key] = Row(ms, ms, ms, 1.5 * ms, 1.5 * ms, 1.5 * ms, int(rng.integers(9999)), 7, "ok")
    points = [point(ms, held_out=ms > 2) for ms in np.geomspace(1, 8, 9)]
    provenance = Provenance(
        space=space.name,
        space_argument=space.name,
        space_sha256="0" * 64,
        target=detect_target(),
        reference=Reference(network=space.smallest(), warm_ms=1.0, cold_ms=2.0),
        calibration=Calibration(factor=1.1, fetching=0.7, cache_megabytes=0.1, overhead_ms=0.2),
        validation=validate(points, (0.004, -0.021)),
        spread=(-0.12, 0.35),
        channel_step=16,
        date="2030-01-01T00:00:00+00:00",
        nas_version="0",
        load_average=None,
        seed=0,
    )
    return LatencyTable(rows, provenance, tmp_path / "t.csv")


def test_int8_in_vain_is_told_for_the_same_network_only():
    times = {"a8": 1.0, "a": 1.02, "b8": 0.5, "b": 1.0, "c8": 2.0}
    latencies = {
        name: Latency(*[Measurement(ms, 0.95 * ms, 1.05 * ms)] * 2) for name, ms in times.items()
    }
    found = Found(latencies, {}, Machine(), (0.0, 0.0))
    precisions = {name: "int8" if name.endswith("8") else "float32" for name in times}
    assert compare_precisions(found, precisions, {name: name[0] for name in times}) == [
        "a8: int8 is not clearly faster than float32 on this device: 1.000 ms in int8, 1.020 ms in "
        "float32, of a"
    ]


def test_a_validation_tells_the_noise_from_the_error_of_the_table(table, capsys):
    print_validation(table)
    lines = lines_of(capsys)
    assert any(line.startswith("warm: table 3.0 % -3.0 % 3.0 % 100 % 1.000") for line in lines)
    assert any(line.startswith("warm: sum of rows 10.0 % -10.0 % 10.0 % 0 %") for line in lines)
    assert any(line.startswith("warm: MACs alone 0.0 %") for line in lines)
    assert any(line.startswith("cold: table 6.0 % +6.0 % 6.0 % 0 % 1.000") for line in lines)
    assert (
        "warm: 6 held-out networks of 2.18 to 8.00 ms; mean error 3.0 %: noise of their "
        "measurement 0.8 %, error of the table 2.9 %" in lines
    )
    assert (
        "cold: 6 held-out networks of 4.36 to 16.00 ms; mean error 6.0 %: noise of their "
        "measurement 4.0 %, error of the table 4.5 %" in lines
    )
    assert (
        "the reference network, measured like any other, differs from itself by 0.4 % warm and "
        "2.1 % cold" in lines
    )
    assert lines[-1] == (
        "this machine's speed varied while it measured: runs took -12 % to +35 % of their median; "
        "that is taken out"
    )


def test_a_table_without_validation_says_so(table, capsys):
    update = {"validation": None}
    print_validation(replace(table, provenance=table.provenance.model_copy(update=update)))
    assert "not validated" in capsys.readouterr().out


def test_the_picture_of_a_calibration_shows_both_states(table, tmp_path):
    draw_calibration(tmp_path / "a.png", table)
    draw_calibration(tmp_path / "b.png", table)
    picture = (tmp_path / "a.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert picture == (tmp_path / "b.png").read_bytes()
    for state in ("warm", "cold"):
        points = [
            it.model_copy(update={state: it.of(state).model_copy(update={"measured_ms": 5.0})})
            for it in table.validation.points
        ]
        validation = table.validation.model_copy(update={"points": tuple(points)})
        update = {"validation": validation}
        changed = replace(table, provenance=table.provenance.model_copy(update=update))
        draw_calibration(tmp_path / "c.png", changed)
        assert picture != (tmp_path / "c.png").read_bytes()


@pytest.mark.parametrize(
    ("spread", "told"),
    [((-0.1, 0.1), False), ((-0.11, 0.02), True), ((0.0, 0.2), True), ((0.0, 0.0), False)],
)
def test_a_machine_is_told_of_where_its_speed_varied_by_more_than_a_tenth(spread, told):
    assert (describe_spread(spread) is not None) is told


def test_measured_models_are_printed_warm_and_cold(capsys):
    latency = Latency(Measurement(1.0, 0.98, 1.02), Measurement(1.5, 1.4, 1.6))
    found = Found({"a.onnx": latency}, {"warm": 0.0, "cold": 0.0}, Machine(), (-0.02, 0.03))
    print_found(found, {"a.onnx": "float32"}, title="a machine")
    lines = lines_of(capsys)
    assert "a.onnx float32 1.000 0.980 to 1.020 1.500 1.400 to 1.600" in lines
    assert lines[-1] == (
        "warm: the network runs again and again, as a benchmark's loop does; cold: its first run "
        "after other work had the caches, as in an application."
    )


@pytest.mark.parametrize(
    ("action", "verdict"),
    [
        ("none", "the table holds"),
        (
            "re-anchor",
            "the machine's speed changed, and all latencies with it: the reference +5.0 % warm and "
            "-1.0 % cold (computing takes +2 %, fetching weights +10 %; caches keep -10 % of "
            "them); t.json keeps the earlier calibration",
        ),
        (
            "rebuild",
            "the table does not hold any more; build it again: nas build-lut --out t.csv",
        ),
    ],
)
def test_a_drift_ends_with_its_verdict(capsys, action, verdict):
    warm, cold = (
        StateDrift(shift=shift, bias=0.012, mape=0.02, noise=0.01, spearman=1.0, kendall=0.99)
        for shift in (0.05, -0.01)
    )
    drift = Drift(networks=4, machine=Machine(1.02, 1.1, 0.9), warm=warm, cold=cold, action=action)
    print_drift(drift, Path("tables/t.csv"), rebuild="nas build-lut --out t.csv")
    lines = lines_of(capsys)
    assert lines[0] == "tables/t.csv: the reference and 4 networks measured again"
    assert "warm +5.0 % +1.2 % 2.0 % 1.0 % 1.000 0.990" in lines
    assert "cold -1.0 % +1.2 % 2.0 % 1.0 % 1.000 0.990" in lines
    assert lines[-1] == verdict


def test_layers_of_a_shown_network_add_up_to_its_predictions(table, capsys):
    network = SearchSpace.load("demo_64px").largest()
    described = json.loads(json.dumps(describe_architecture(network, table)))
    for name, total, state in (("ms", "latency_ms", "warm"), ("cold_ms", "cold_ms", "cold")):
        layers = [layer[name] for layer in described["layers"]]
        assert sum(layers) == pytest.approx(table.predict(network, state), abs=1e-9)
        assert described[total] == table.predict(network, state)
    print_description(described)
    lines = lines_of(capsys)
    text = f"{described['latency_ms']:.3f} ms warm and {described['cold_ms']:.3f} ms cold"
    assert f", {text} predicted, MES " in lines[-1]
    printed = [re.findall(r"\d+\.\d{4}", line) for line in lines]
    shares = np.array([list(map(float, it)) for it in printed if len(it) == 2])  # (layers, 2)
    wanted = [described["latency_ms"], described["cold_ms"]]
    assert shares.sum(0) == pytest.approx(wanted, abs=1e-4 * len(shares))


def test_the_ends_of_a_shown_space_are_told_in_both_states(table, capsys):
    space = SearchSpace.load("demo_64px")
    described = describe_space(space, table)
    for name, network in (("smallest", space.smallest()), ("largest", space.largest())):
        assert described[name]["latency_ms"] == table.predict(network)
        assert described[name]["cold_ms"] == table.predict(network, "cold")
    print_description(described)
    least = described["smallest"]
    text = f"{least['latency_ms']:.3f} ms warm and {least['cold_ms']:.3f} ms cold"
    assert text in capsys.readouterr().out
    assert "latency_ms" not in describe_space(space, None)["smallest"]


def test_the_table_of_profiles_has_a_column_for_each_network(capsys, profiles):
    print_profiles(profiles, detect_target())
    lines = lines_of(capsys)
    assert "operators one two" in lines
    assert "FFN 3.000 ms 75 % 3.000 ms 75 %" in lines
    assert "1x1 convolutions 4.000 ms 80 % 3.000 ms 60 %" in lines
    assert "activations 1.000 ms 20 % 0.000 ms 0 %" in lines
    for name, ms in (("sum", 4), ("measured", 5)):
        assert f"{name}, warm {ms}.000 ms {ms}.000 ms" in lines
        assert f"{name}, cold {2 * ms}.000 ms {2 * ms}.000 ms" in lines
    assert not any("stage1.block1" in line for line in lines)


def test_the_profile_of_a_single_network_shows_its_layers(capsys, profiles):
    print_profiles(profiles[:1], detect_target())
    assert "stage1.block1.attention" in capsys.readouterr().out


def test_a_runtime_without_a_profiler_says_so_in_one_line(capsys, profiles):
    profile = replace(profiles[0], operators=None)
    print_profiles([profile], detect_target())
    printed = capsys.readouterr().out
    assert "onnxruntime has no profiler for cpu: classes of layers only\n" in printed
    assert "operators" not in printed
    described = describe_profiles([profile], detect_target())["networks"][0]
    assert described["operators"] is None
    assert (described["ms"], described["cold_ms"]) == (5.0, 10.0)
    assert described["layers"][0]["cold_low"] == pytest.approx(5.4)
