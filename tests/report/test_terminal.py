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
    """A network with a latency of each of two tables, of which this machine measures ``cpu``.

    ``measured`` are the latencies of that, warm and cold.
    """
    (network, *_) = result.networks
    costs = {"latency_ms[cpu]": predicted[0], "latency_ms[gpu]": predicted[1]}
    update = {
        "name": name,
        "target": target,
        "costs": {**costs, "params": 2e6, "macs": 3e8},
        "latencies": tuple(
            latency.model_copy(update={"cost": "latency_ms[cpu]", "measured": ms})
            for latency, ms in zip(network.latencies, measured, strict=True)
        ),
        "test_accuracy": 0.5,
        "score": 101.25,
    }
    return network.model_copy(update=update)


def of_two_tables(result):
    small, smaller = {"latency_ms[cpu]": 1.2}, {"latency_ms[cpu]": 0.9}
    return [
        final(result, "largest", None, predicted=(1.5, 0.25), measured=(1.6, 2.6)),
        final(result, "slimmed", small, predicted=(1.1, 0.2), measured=(1.15, 1.85)),
        final(result, "slimmed", smaller, predicted=(0.8, 0.1), measured=(0.825, 1.75)),
    ]


def test_every_latency_has_its_columns_and_a_family_its_targets(result, capsys):
    print_networks(of_two_tables(result), title="tiny")
    printed = capsys.readouterr().out
    assert re.search(r" target +test accuracy .* of target +MES", printed)
    assert printed.count("[cpu]") == 3
    assert printed.count("[gpu]") == 2, "predicted and measured; cold it was not measured"
    assert re.search(
        r"slimmed +0\.9 +50\.0 % +2\.00 M +300\.00 M +0\.800 +0\.825 +1\.750 +0\.100 +- +"
        r"91\.7 % +101\.2",
        printed,
    )
    assert re.search(r"largest +- ", printed)


@pytest.mark.parametrize(
    ("state", "columns"),
    [
        ("warm", "predicted warm ms measured warm ms cold ms of target"),
        ("cold", "predicted cold ms measured cold ms warm ms of target"),
    ],
)
def test_the_states_target_has_the_first_columns_and_one_sentence_says_what_states_are(
    result, capsys, state, columns
):
    networks = [it.model_copy(update={"state": state}) for it in result.networks]
    print_networks(networks, title="tiny")
    printed = capsys.readouterr().out
    assert columns in " ".join(printed.split())
    assert printed.endswith(
        "warm: the network runs again and again, as a benchmark's loop does; cold: its first run "
        "after other work had the caches, as in an application.\n"
    )
    (row,) = (line.split() for line in printed.splitlines() if line.startswith("  uniform"))
    uniform = next(it for it in networks if it.name == "uniform")
    first, second = uniform.latencies if state == "warm" else uniform.latencies[::-1]
    target = uniform.target["latency_ms"]
    assert row[-6:-3] == [
        f"{it:.3f}" for it in (uniform.costs["latency_ms"], first.measured, second.measured)
    ]
    assert row[-3] == f"{100 * first.measured / target:.1f}"


def test_a_latency_that_is_little_known_shows_its_interval(result, capsys):
    network, *_ = result.networks
    known, unknown = network.latencies[:2]
    latencies = (
        known.model_copy(update={"measured": 2.0, "low": 1.91, "high": 2.09}),
        unknown.model_copy(update={"measured": 3.0, "low": 2.6, "high": 3.4}),
    )
    print_networks([network.model_copy(update={"latencies": latencies})], title="tiny")
    assert re.search(r" 2\.000 +3\.000 ± 0\.400 ", capsys.readouterr().out)


def test_a_result_of_version_0_1_has_no_column_of_cold_latencies(result, capsys):
    networks = [it.model_copy(update={"latencies": it.latencies[:1]}) for it in result.networks]
    print_networks(networks, title="tiny")
    printed = capsys.readouterr().out
    assert "measured warm ms" in printed
    assert "cold" not in printed


def test_a_network_far_from_its_target_has_a_line_that_says_why(result, capsys):
    remark = "no scaled network lies between 0.825 ms and the target"
    *others, last = of_two_tables(result)
    print_networks([*others, last.model_copy(update={"remark": remark})], title="tiny")
    assert f"\nslimmed to 0.9: {remark}\n" in capsys.readouterr().out
    print_networks([last.model_copy(update={"remark": remark})], title="tiny")
    assert f"\nslimmed: {remark}\n" in capsys.readouterr().out


def test_a_search_ends_with_its_verdicts_and_one_target_needs_no_column(result, capsys):
    print_search(result)
    printed = capsys.readouterr().out
    assert "demo_64px, digits" in printed
    assert not re.search("(?<!of )target  ", printed)
    assert printed.endswith(f"{result.verdicts[0]}\n{result.evidence}\n\n")


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
