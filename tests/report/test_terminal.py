import re

import pandas as pd
import pytest

from nas.report.terminal import (
    ProgressBar,
    print_check,
    print_networks,
    print_search,
    write_check,
)


def final(result, name, target, *, predicted, measured):
    """A network with a latency of each of two tables, of which this machine measures ``cpu``."""
    (network, *_) = result.networks
    (latency,) = network.latencies
    costs = {"latency_ms[cpu]": predicted[0], "latency_ms[gpu]": predicted[1]}
    update = {
        "name": name,
        "target": target,
        "costs": {**costs, "params": 2e6, "macs": 3e8},
        "latencies": (
            latency.model_copy(update={"cost": "latency_ms[cpu]", "measured": measured}),
        ),
        "test_accuracy": 0.5,
        "score": 101.25,
    }
    return network.model_copy(update=update)


def test_every_latency_has_its_columns_and_a_family_its_targets(result, capsys):
    networks = [
        final(result, "largest", None, predicted=(1.5, 0.25), measured=1.6),
        final(result, "slimmed", {"latency_ms[cpu]": 1.2}, predicted=(1.1, 0.2), measured=1.15),
        final(result, "slimmed", {"latency_ms[cpu]": 0.9}, predicted=(0.8, 0.1), measured=0.85),
    ]
    print_networks(networks, title="tiny")
    printed = capsys.readouterr().out
    assert re.search(
        r"target +test accuracy +parameters +MACs +predicted ms \[cpu\] +measured ms \[cpu\] +"
        r"predicted ms \[gpu\] +measured ms \[gpu\] +MES",
        printed,
    )
    assert re.search(
        r"slimmed +0\.9 +50\.0 % +2\.00 M +300\.00 M +0\.800 +0\.850 +0\.100 +- +101\.2", printed
    )
    assert re.search(r"largest +- ", printed)


def test_a_search_ends_with_its_verdicts_and_one_target_needs_no_column(result, capsys):
    print_search(result)
    printed = capsys.readouterr().out
    assert "demo_64px, digits" in printed
    assert "target  " not in printed
    assert printed.endswith(f"{result.verdicts[0]}\n\n")


def test_the_table_of_a_check_ends_with_correlation_and_gap(check, capsys):
    print_check(check)
    printed = capsys.readouterr().out
    assert "accuracy on 200 images of the search slice" in printed
    assert "5.00 k" in printed
    assert "40.0 % 50.0 %" in printed
    assert "-25.0" in printed
    assert "Kendall tau 0.33 (95 %: -1.00 to 1.00)" in printed
    assert "0.82 between the seeds; mean gap -6.7 points" in printed


def test_the_csv_of_a_check_holds_every_training(check, tmp_path):
    write_check(tmp_path / "c.csv", check)
    found = pd.read_csv(tmp_path / "c.csv")
    assert list(found.columns) == ["params", "macs", "inherited", "alone", "alone_0", "alone_1"]
    assert list(found["alone"]) == pytest.approx([0.25, 0.45, 0.3])


def test_a_bar_prints_its_lines_on_standard_error_unless_it_is_quiet(capsys):
    for quiet in (False, True):
        with ProgressBar("training", quiet=quiet) as bar:
            bar.update("epoch 1", 1, 10)
            bar.say("epoch 1 of 10")
    assert capsys.readouterr() == ("", "epoch 1 of 10\n")
