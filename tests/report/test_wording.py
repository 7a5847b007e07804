import pytest

from nas.report.wording import (
    cost_text,
    differences,
    first_latency,
    fits,
    target_text,
    verdicts,
)

TARGET = {"latency_ms": 2.0}


def final(report, name, *, test_accuracy, measured=1.9):
    (network, *_) = report.networks
    latency = network.latencies[0].model_copy(update={"measured": measured})
    costs = {**network.costs, "latency_ms": 1.8}
    return network.model_copy(
        update={
            "name": name, "target": TARGET, "costs": costs, "latencies": (latency,),
            "test_accuracy": test_accuracy, "search_accuracy": 0.5,
        }
    )  # fmt: skip


def judged(report, *networks):
    return list(verdicts(report.model_copy(update={"targets": (TARGET,), "networks": networks})))


def test_the_verdict_names_another_method_where_it_won(report):
    found = judged(
        report,
        final(report, "slimmed", test_accuracy=0.80),
        final(report, "random", test_accuracy=0.85),
    )
    assert found == [("at most 2 ms", "random", "85.0 % of the test images; slimmed 80.0 %")]


def test_a_draw_has_two_winners(report):
    found = judged(
        report,
        final(report, "slimmed", test_accuracy=0.8),
        final(report, "uniform", test_accuracy=0.8),
    )
    assert found == [("at most 2 ms", "slimmed and uniform", "80.0 % of the test images")]


def test_what_misses_the_target_when_measured_cannot_win(report):
    slow = final(report, "random", test_accuracy=0.9, measured=2.1)
    assert not fits(slow)
    found = judged(report, final(report, "slimmed", test_accuracy=0.8), slow)
    assert found[0][1:] == ("slimmed", "80.0 % of the test images; random misses the target")
    assert judged(report, slow)[0][1:] == ("", "no network of this report meets the target")


def test_without_test_accuracies_the_search_slice_decides(report):
    found = judged(
        report,
        final(report, "slimmed", test_accuracy=None),
        final(report, "random", test_accuracy=0.9),
    )
    assert found[0][1:] == ("slimmed and random", "50.0 % of the search slice")


def test_differences_leave_out_what_a_missing_slot_would_be(report):
    some = report.model_copy(
        update={
            "choices": ("stage1.width", "stage1.block2.ffn.kind", "stage1.block2.ffn.expansion",
                        "stage2.width"),
            "options": (("24", "32"), ("identity", "conv_ffn"), ("2", "4"), ("48", "64")),
        }
    )  # fmt: skip
    assert differences(some, (0, 0, 0, 1)) == [("stage1", ["width 24", "no block2.ffn"])]
    assert differences(some, (1, 1, 0, 0)) == [
        ("stage1", ["block2.ffn.expansion 2"]),
        ("stage2", ["width 48"]),
    ]
    assert differences(some, (1, 1, 1, 1)) == []


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("latency_ms", 0.22, "0.220 ms"),
        ("latency_ms[desk]", 1.5, "1.500 ms (desk)"),
        ("params", 855020, "855.02 k parameters"),
        ("macs", 2e6, "2.00 M MACs"),
    ],
)
def test_costs_have_their_units(name, value, text):
    assert cost_text(name, value) == text


def test_targets_read_as_they_were_given():
    target = {"latency_ms[a]": 2.0, "latency_ms[b]": 0.5, "params": 3e6}
    assert target_text(target) == "at most 2 ms (a) and 0.5 ms (b) and 3 M parameters"
    assert target_text(None) == ""


def test_the_frontier_is_drawn_against_the_first_bounded_latency(report):
    assert first_latency(report) == "latency_ms"
    several = report.model_copy(update={"targets": ({"params": 3e6, "latency_ms[b]": 1.0},)})
    assert first_latency(several) == "latency_ms[b]"
    small = report.model_copy(update={"targets": ({"params": 3e6},)})
    assert first_latency(small) == "latency_ms"
