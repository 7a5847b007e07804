"""The unit of a table: references tell computing, memory and caches of a machine apart."""

import math

import numpy as np
import pytest

from nas.latency.calibration import Calibration, Machine, RowSums
from nas.latency.estimator import STATES, Estimate, Measurement
from nas.latency.unit import LEAST_ERROR, Reference, Unit, describe_int8

CALIBRATION = Calibration(
    factor=1.1, fetching=0.8, cache_megabytes=12.0, overhead_ms=0.02, cold_factor=1.2
)


def sums(megabytes, warm=None):
    """Of a network that takes 0.1 ms for each megabyte to compute and 0.05 to fetch it."""
    warm = 0.1 * megabytes if warm is None else warm
    return RowSums(warm, warm + 0.05 * megabytes, int(megabytes * 250_000), 0)


@pytest.fixture
def make_unit(convolutions):
    def make(*sizes, calibration=CALIBRATION):
        rows = tuple(sums(size) for size in sizes)
        references = tuple(
            Reference(
                network=convolutions.smallest(),
                warm_ms=calibration.latency(it, "warm"),
                cold_ms=calibration.latency(it, "cold"),
            )
            for it in rows
        )
        return Unit(references, rows, calibration)

    return make


def measured(unit, machine, error=0.003):
    """What the references take on a machine, each known to a share ``error``."""
    now = unit.on(machine).references
    return {
        state: [Estimate(it.ms(state), error * it.ms(state), 20) for it in now] for state in STATES
    }


@pytest.mark.parametrize(
    "machine",
    [
        Machine(),
        Machine(1.3, 1.3, 1.0),
        Machine(0.5, 0.5, 1.0),
        Machine(1.0, 1.25, 1.0),
        Machine(1.0, 1.0, 0.7),
        Machine(1.05, 1.2, 0.8),
    ],
)  # fmt: skip
def test_references_of_three_sizes_tell_any_network_on_another_machine(make_unit, machine):
    unit = make_unit(3, 14, 25)
    change = unit.find_change(measured(unit, machine))
    for megabytes in (1, 5, 10, 15, 20, 40):
        for state in STATES:
            then = unit.calibration.latency(sums(megabytes), state)
            now = unit.calibration.on(machine).latency(sums(megabytes), state)
            factor = unit.factor(change, sums(megabytes), state)
            assert factor.value * now == pytest.approx(then, rel=0.02)
            assert 0 < factor.error < 0.03


def test_one_reference_cannot_tell_memory_from_computing_but_tells_a_slower_machine(make_unit):
    unit, slower = make_unit(14), Machine(2.0, 2.0, 1.0)
    change = unit.find_change(measured(unit, slower))
    for megabytes in (1, 14, 40):
        for state in STATES:
            assert unit.factor(change, sums(megabytes), state).value == pytest.approx(0.5, rel=0.01)


def test_the_room_in_caches_shows_in_a_reference_whose_weights_just_fit(make_unit):
    roomy = CALIBRATION.model_copy(update={"cache_megabytes": 20.0})
    crowded, large = Machine(1.0, 1.0, 0.6), sums(16)
    truth = roomy.latency(large) / roomy.on(crowded).latency(large)
    found = []
    for sizes in ((0.3, 3, 7), (0.3, 3, 7, 16)):
        unit = make_unit(*sizes, calibration=roomy)
        found.append(unit.factor(unit.find_change(measured(unit, crowded)), large, "warm").value)
    assert found[0] / truth > 1.03
    assert found[1] == pytest.approx(truth, rel=0.01)


def test_what_is_told_as_an_error_is_how_far_noise_leads_astray(make_unit):
    unit, machine, rng = make_unit(3, 14, 25), Machine(1.0, 1.2, 0.9), np.random.default_rng(0)
    exact, network = measured(unit, machine, error=0.01), sums(18)
    true = unit.calibration.latency(network) / unit.calibration.on(machine).latency(network)
    off, told = [], []
    for _ in range(60):
        drawn = {
            state: [
                Estimate(
                    it.ms * float(np.exp(rng.normal(0, math.hypot(0.01, LEAST_ERROR)))),
                    0.01 * it.ms,
                    20,
                )
                for it in of_state
            ]
            for state, of_state in exact.items()
        }
        found = unit.factor(unit.find_change(drawn), network, "warm")
        off.append(np.log(found.value / true))
        told.append(found.error)
    assert np.sqrt(np.mean(np.square(off))) == pytest.approx(np.mean(told), rel=0.35)


def test_sums_of_an_unknown_model_are_those_of_its_weights_and_its_latency(make_unit):
    unit, network = make_unit(3, 14, 25), sums(18, warm=2.5)
    guessed = unit.guess_sums(network.params, unit.calibration.latency(network))
    assert guessed.warm == pytest.approx(network.warm, rel=0.03)
    assert guessed.cold - guessed.warm == pytest.approx(network.cold - network.warm, rel=0.03)
    assert unit.guess_sums(10**9, 1.0).warm > 0


@pytest.fixture(scope="module")
def reference(convolutions):
    rows = RowSums(2.0, 3.0, 100, 0)
    made = Reference(network=convolutions.smallest(), warm_ms=2.0, cold_ms=3.0)
    return Unit((made,), (rows,), Calibration())


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


@pytest.mark.parametrize(
    ("int8", "word"),
    [((0.8, 0.7, 0.9), None), ((0.98, 0.9, 1.06), "clearly faster"), ((1.0, 0.9, 1.1), "faster")],
)
def test_int8_that_saves_no_time_is_told(int8, word):
    line = describe_int8(Measurement(*int8), Measurement(1.0, 0.95, 1.05))
    expected = f"int8 is not {word} than float32 on this device: {int8[0]:.3f} ms in int8, 1.000 ms"
    assert line == (f"{expected} in float32" if word else None)
