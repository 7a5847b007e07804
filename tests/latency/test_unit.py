import pytest

from nas.latency.unit import Reference


@pytest.fixture(scope="module")
def reference(convolutions):
    return Reference(network=convolutions.smallest(), warm_ms=2.0, cold_ms=3.0)


@pytest.mark.parametrize(
    ("shift", "line"),
    [
        ((0.03, -0.03), None),
        (
            (0.04, 0.10),
            "this machine is 10 % slower now than when t.csv was measured: its reference network "
            "takes 3.300 ms, then 3.000 ms (cold); latencies are told as of then",
        ),
        (
            (-0.25, 0.10),
            "this machine is 25 % faster now than when t.csv was measured: its reference network "
            "takes 1.500 ms, then 2.000 ms (warm); latencies are told as of then",
        ),
    ],
)
def test_a_machine_whose_speed_has_changed_is_told_of_in_one_line(reference, shift, line):
    found = reference.describe_shift({"warm": shift[0], "cold": shift[1]}, "t.csv")
    assert found == line
