"""Profiles as tables and as a picture."""

import pytest

from nas.families.efficientformer_v2.layers import Attention4D, ConvFFN
from nas.latency.measure import Measurement
from nas.latency.profile import LayerTime, Profile
from nas.latency.target import detect_target
from nas.report.profile import describe_profiles, draw_profiles, print_profiles


def measured(ms):
    return Measurement(ms=ms, ms_low=0.9 * ms, ms_high=1.1 * ms, runs=10, status="ok")


def made(name, operators):
    layers = (
        LayerTime(
            ConvFFN(slot="stage1.block1.ffn", channels=8, expansion=2), (8, 4, 4), measured(3)
        ),
        LayerTime(Attention4D(slot="stage1.block1.attention", channels=8), (8, 4, 4), measured(1)),
    )
    return Profile(name, measured(5.0), layers, operators)


@pytest.fixture
def profiles():
    return [
        made("one", {"1x1 convolutions": 4.0, "activations": 1.0}),
        made("two", {"1x1 convolutions": 3.0, "softmax": 2.0}),
    ]


def test_table_has_a_column_for_each_network(capsys, profiles):
    print_profiles(profiles, detect_target())
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "operators one two" in lines
    assert "FFN 3.000 ms 75 % 3.000 ms 75 %" in lines
    assert "1x1 convolutions 4.000 ms 80 % 3.000 ms 60 %" in lines
    assert "activations 1.000 ms 20 % 0.000 ms 0 %" in lines
    assert "measured 5.000 ms 5.000 ms" in lines
    assert not any("stage1.block1" in line for line in lines)


def test_a_single_network_is_shown_layer_by_layer(capsys, profiles):
    print_profiles(profiles[:1], detect_target())
    assert "stage1.block1.attention" in capsys.readouterr().out


def test_a_runtime_without_a_profiler_says_so_in_one_line(capsys, tmp_path):
    profile = made("one", None)
    print_profiles([profile], detect_target())
    printed = capsys.readouterr().out
    assert "onnxruntime has no profiler for cpu: classes of layers only\n" in printed
    assert "operators" not in printed
    draw_profiles(tmp_path / "p.png", [profile], detect_target())
    assert describe_profiles([profile], detect_target())["networks"][0]["operators"] is None


def test_picture_is_a_png(tmp_path, profiles):
    draw_profiles(tmp_path / "p.png", profiles, detect_target())
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
