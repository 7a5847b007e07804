"""Latencies from visits to a simulated machine, whose disturbances and whose truth are known."""

import math

import numpy as np
import pytest

from nas.latency.estimator import (
    LEAST_FOR_SPEED,
    STATES,
    Estimate,
    Measurement,
    Visit,
    combine,
    estimate,
)

REFERENCE = "reference"
COLD = 1.5
"""A cold run takes as much longer."""


def quiet(total):
    return lambda now: 1.0


def busy(total, rng):
    """Two states, one 1.35 times as slow, for 0.1 to 10 s each; and 20 % slower at the end."""
    edges = [0.0]
    while edges[-1] < total:
        edges.append(edges[-1] + float(np.exp(rng.uniform(np.log(0.1), np.log(10)))))

    def slowness(now):
        state = (np.searchsorted(edges, now, side="right") - 1) % 2
        return 1.35**state * (1 + 0.2 * now / total)

    return slowness


def simulate(truths, slowness_of, *, rng, visits=12, pre_empted=0.05):
    """Visits in random order, with the reference (1 ms) before every eighth.

    ``slowness_of`` takes the seconds of the whole session, and returns a function of the time.
    """
    order = [str(place) for place in rng.permutation(np.repeat(np.arange(len(truths)), visits))]
    now, made = 0.0, []
    total = sum(0.01 + 12e-3 * truths[int(name)] for name in order)
    slowness = slowness_of(total)

    def run(ms):
        nonlocal now
        found = ms * slowness(now) * float(np.exp(rng.normal(0, 0.02)))
        if rng.random() < pre_empted:
            found *= rng.uniform(1.5, 8)
        now += found / 1e3
        return found

    def visit(name, ms):
        nonlocal now
        now += 0.01  # reading over the caches
        cold, *warm = run(COLD * ms), *(run(ms) for _ in range(9))
        made.append(Visit(name, float(np.median(warm[-3:])), cold, 10, 0.01))

    for place, name in enumerate(order):
        if place % 8 == 0:
            visit(REFERENCE, 1.0)
        visit(name, truths[int(name)])
    return made


def in_units(visits, truths):
    """Of each graph and state: the latency in the reference's unit, over the truth, as estimated."""
    found = {}
    for state, estimates in estimate(visits).items():
        unit = (COLD if state == "cold" else 1.0) / estimates.graphs[REFERENCE].ms
        error = estimates.graphs[REFERENCE].error / estimates.graphs[REFERENCE].ms
        found[state] = [
            estimates.graphs[str(place)].times(
                unit / truth / (COLD if state == "cold" else 1.0), error
            )
            for place, truth in enumerate(truths)
        ]
    return found


@pytest.fixture(scope="module")
def disturbed():
    """Estimates over the truth, of sessions on a busy machine."""
    found = {state: [] for state in STATES}
    for seed in range(5):
        rng = np.random.default_rng(seed)
        truths = np.exp(rng.uniform(np.log(0.05), np.log(10), 60))
        visits = simulate(truths, lambda total, rng=rng: busy(total, rng), rng=rng)
        for state, estimates in in_units(visits, truths).items():
            found[state] += estimates
    return found


@pytest.mark.parametrize("state", STATES)
def test_a_busy_machine_is_removed(disturbed, state):
    errors = np.array([it.ms - 1 for it in disturbed[state]])
    assert np.abs(errors).mean() < 0.01
    assert abs(errors.mean()) < 0.005


@pytest.mark.parametrize("state", STATES)
def test_intervals_cover_the_truth_as_often_as_they_say(disturbed, state):
    covered = [abs(it.ms - 1) <= it.half_width for it in disturbed[state]]
    assert 0.88 <= np.mean(covered) <= 0.98


def test_a_machine_that_gets_ten_times_slower_is_removed():
    rng = np.random.default_rng(0)
    truths = np.exp(rng.uniform(np.log(0.05), np.log(10), 30))
    visits = simulate(
        truths, lambda total: lambda now: 1.0 if now < total / 2 else 10.0, rng=rng, pre_empted=0
    )
    for estimates in in_units(visits, truths).values():
        assert np.abs([it.ms - 1 for it in estimates]).mean() < 0.01


def test_the_machine_would_matter_if_it_were_not_removed():
    """The oracle can fail: plain means of the same visits are off by several times as much."""
    rng = np.random.default_rng(0)
    truths = np.exp(rng.uniform(np.log(0.05), np.log(10), 60))
    visits = simulate(truths, lambda total: busy(total, rng), rng=rng)
    means = {
        name: np.mean([visit.warm for visit in visits if visit.graph == name])
        for name in {visit.graph for visit in visits}
    }
    plain = [means[str(i)] / means[REFERENCE] / truth - 1 for i, truth in enumerate(truths)]
    removed = [it.ms - 1 for it in in_units(visits, truths)["warm"]]
    assert np.abs(plain).mean() > 3 * np.abs(removed).mean()


def test_the_spread_is_that_of_the_machine():
    rng = np.random.default_rng(0)
    visits = simulate(
        [1.0] * 20, lambda total: lambda now: 1.5 if now > 0.8 * total else 1.0, rng=rng, visits=20
    )
    low, high = estimate(visits)["warm"].spread
    assert low == pytest.approx(0.0, abs=0.03)
    assert high == pytest.approx(0.5, abs=0.05)
    still = simulate([1.0] * 20, quiet, rng=rng, visits=20)
    assert max(map(abs, estimate(still)["warm"].spread)) < 0.02


def test_few_visits_are_taken_as_they_are():
    visits = [Visit("a", 1.0, 2.0, 7, 0.1), Visit("b", 4.0, 8.0, 7, 0.1)] * 3
    assert len(visits) < LEAST_FOR_SPEED
    found = estimate(visits)
    assert not found["warm"].speeds.any()
    assert found["warm"].graphs["a"].ms == pytest.approx(1.0)
    assert found["cold"].graphs["b"].ms == pytest.approx(8.0)
    assert found["cold"].graphs["b"].error == pytest.approx(0.0, abs=1e-9)


def test_the_same_visits_have_the_same_estimates():
    rng = np.random.default_rng(0)
    visits = simulate([1.0, 2.0, 3.0], quiet, rng=rng)
    assert estimate(visits)["warm"].graphs == estimate(visits)["warm"].graphs


def test_outlying_visits_do_not_count_for_more_than_others():
    rng = np.random.default_rng(1)
    visits = simulate([1.0] * 10, quiet, rng=rng, visits=20, pre_empted=0)
    far = [
        visit._replace(warm=50 * visit.warm) if place % 10 == 3 else visit
        for place, visit in enumerate(visits)
    ]
    for name, found in estimate(far)["warm"].graphs.items():
        # of a tenth of the visits 2.5 deviations of 2 % are left, and the noise of their speeds
        assert found.ms == pytest.approx(estimate(visits)["warm"].graphs[name].ms, rel=0.04)


def test_a_difference_adds_the_errors():
    found = combine([(Estimate(3.0, 0.03, 8), 0.5), (Estimate(1.0, 0.04, 6), -0.5)])
    assert found == Estimate(1.0, pytest.approx(0.025), 6)


def test_another_unit_scales_and_adds_its_error():
    found = Estimate(3.0, 0.03, 8, noise=0.02).times(2.0, 0.01)
    assert found == Estimate(6.0, pytest.approx(6 * math.hypot(0.01, 0.01)), 8, 0.02)


def test_the_error_of_one_visit_is_unknown():
    found = Measurement.of(Estimate(2.0, 0.0, 1))
    assert found.half_width == math.inf
    assert found.status == "noisy"


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (Measurement(1.0, 0.9, 1.1), "ok"),
        (Measurement(1.0, 0.8, 1.2), "noisy"),
        (Measurement(0.001, 0.0006, 0.0014), "ok"),  # half a microsecond is near enough
        (Measurement(-0.001, -0.0012, -0.0008), "noisy"),
    ],
)
def test_what_is_not_known_well_is_noisy(found, status):
    assert found.status == status
