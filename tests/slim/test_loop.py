"""The closed loop on networks of known latency: (number,) predicted at number percent of a ms."""

import contextlib
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nas.errors import UserError
from nas.search import InfeasibleTarget
from nas.slim.loop import FURTHER_ROUNDS, ROUNDS, Judges, Loop, Pair, is_clearly_better

TARGET = {"latency_ms": 1.0}
LARGEST = (200,)


def predicted(network):
    return {"latency_ms": network[0] / 100, "params": 10.0 * network[0]}


def accuracy(network):
    return network[0] / 1000


class Pool:
    """Chooses the most accurate of its networks within bounds, and keeps what it was asked."""

    def __init__(self, name, numbers):
        self.name, self.networks, self.asked = name, [(number,) for number in numbers], []

    def choose(self, bounds):
        self.asked.append(dict(bounds))
        costs = {one: predicted(one) for one in self.networks}
        fitting = [
            one for one in costs if all(costs[one][name] <= it for name, it in bounds.items())
        ]
        if not fitting:
            raise InfeasibleTarget(bounds, costs[self.networks[0]])
        return max(fitting, key=accuracy)


class Bench:
    """Measures what networks take: what is predicted times a factor of their own."""

    def __init__(self, factors=None, default=1.0):
        self.factors, self.default, self.sessions, self.asked = factors or {}, default, [], []

    def measure(self, networks, asked):
        self.sessions.append(list(networks))
        self.asked.append(list(asked))
        return {one: {"latency_ms": self.ms(one)} for one in networks}

    def ms(self, network):
        return self.factors.get(network[0], self.default) * network[0] / 100


def run(
    pools, bench, targets=(TARGET,), accuracy=accuracy, images=10_000, uncertainty=None, **options
):
    """The networks that the pools end with, in the order of targets, then of pools."""
    judges = Judges(predicted, accuracy, images, bench.measure, {"latency_ms": Path("t.csv")})
    judges = replace(judges, uncertainty=uncertainty) if uncertainty else judges
    pairs = [Pair(pool, target, pool.choose(target)) for target in targets for pool in pools]
    Loop(pairs, judges, [LARGEST], **options).run()
    return [pair.current for pair in pairs]


def bounds(pool):
    return [asked["latency_ms"] for asked in pool.asked]


def test_a_deviation_upwards_lowers_the_bound_of_its_own_method_alone(recorder):
    slow, exact, progress = Pool("slow", [80, 90, 99]), Pool("exact", [81, 98]), recorder()
    bench = Bench({99: 1.1})
    assert run([slow, exact], bench, progress=progress) == [(90,), (98,)]
    assert bounds(slow)[:2] == [1.0, pytest.approx(1 / 1.1, rel=0.01)]
    assert bounds(slow)[1] < 1 / 1.1, "so that something changes"
    assert bounds(exact) == [1.0]
    assert progress.lines[0] == (
        "slow: measured at 108.9 % of the target; going on with predictions of latency_ms <= 0.9045"
    )


def test_a_deviation_downwards_raises_the_bound_of_its_own_method_alone():
    fast, exact = Pool("fast", [80, 99, 109]), Pool("exact", [98, 105])
    bench = Bench({99: 0.9, 109: 0.91})
    assert run([fast, exact], bench) == [(109,), (98,)]
    assert bounds(fast)[:2] == [1.0, pytest.approx(1 / 0.9)]
    assert bounds(exact) == [1.0]


def test_methods_end_equally_near_whatever_their_networks_deviate_by():
    class Biased(Bench):
        def ms(self, network):
            return (1.08 if network[0] % 2 else 0.92) * network[0] / 100

    odd, even, bench = Pool("odd", range(31, 131, 2)), Pool("even", range(30, 130, 2)), Biased()
    found = run([odd, even], bench)
    assert [network[0] % 2 for network in found] == [1, 0]
    for network in found:
        assert 0.97 <= bench.ms(network) <= 1.0


def test_after_two_moves_it_is_enough_to_be_near():
    def measured(factors):
        bench = Bench(factors)
        run([Pool("a", [99, 105, 111, 114])], bench)
        return [round(bench.ms(session[-1]), 3) for session in bench.sessions]

    assert measured({99: 0.95, 105: 0.9, 111: 0.87}) == [0.941, 0.945, 0.966]
    further = measured({99: 0.95, 105: 0.9, 111: 0.86, 114: 0.86})
    assert further == [0.941, 0.945, 0.955, 0.98]


def test_a_network_that_noise_may_hold_below_the_target_is_enough_where_it_is_near():
    for near, sure, rounds in ((0.965, 0.009, 2), (0.965, 0.011, 1), (0.955, 0.03, 2)):
        bench = Bench(default=near)
        run([Pool("a", [100, 102])], bench, uncertainty=lambda _, sure=sure: sure)
        assert len(bench.sessions) == rounds, (near, sure)


class Noisy(Bench):
    """Each session errs by three per cent; a network is told at the mean of its sessions."""

    def __init__(self, seed):
        super().__init__()
        self.rng, self.found = np.random.default_rng(seed), defaultdict(list)

    def measure(self, networks, asked):  # noqa: ARG002
        self.sessions.append(list(networks))
        for one in networks:
            self.found[one].append(predicted(one)["latency_ms"] * self.rng.lognormal(0, 0.03))
        return {one: {"latency_ms": float(np.mean(self.found[one]))} for one in networks}

    def uncertainty(self, network):
        return 0.06 if len(self.found[network]) < 2 else 0.0


def test_what_may_be_above_the_target_is_measured_once_more_before_it_is_delivered():
    for share, sessions in ((0.03, 2), (0.02, 1)):
        bench = Bench()
        wide = lambda _, share=share, it=bench: share if len(it.sessions) < 2 else 0.0  # noqa: E731
        assert run([Pool("a", [99])], bench, uncertainty=wide) == [(99,)]
        assert len(bench.sessions) == sessions

    def above(uncertainty):
        """Which of 300 loops end above their target in truth."""
        benches = [Noisy(seed) for seed in range(300)]
        pools = [Pool("a", range(60, 140)) for _ in benches]
        found = [
            run([pool], it, uncertainty=uncertainty(it))
            for pool, it in zip(pools, benches, strict=True)
        ]
        return np.array([network[0] > 100 for (network,) in found])

    once, twice = above(lambda _: None), above(lambda bench: bench.uncertainty)
    assert twice.sum() < 0.75 * once.sum(), "what just meets a target is low by luck"


def test_what_is_known_is_not_measured_again_with_what_is_not():
    pools, bench = [Pool("a", [98]), Pool("b", [97])], Bench()

    def uncertainty(network):
        return 0.05 if network == (98,) and len(bench.sessions) < 2 else 0.0

    run(pools, bench, uncertainty=uncertainty)
    assert bench.sessions == [[LARGEST, (98,), (97,)], [(98,)]]


def test_each_round_measures_all_in_one_session_and_the_last_one_those_that_are_delivered():
    pools = [Pool("a", [85, 99]), Pool("b", [60, 97]), Pool("c", [84, 96, 108])]
    bench = Bench({99: 1.2, 96: 0.9, 108: 1.1})
    found = run(pools, bench, targets=({"latency_ms": 1.0}, {"latency_ms": 0.9}))
    for session in bench.sessions:
        assert len(session) == len(set(session))
        assert session[0] == LARGEST
    assert set(found) <= set(bench.sessions[-1])
    assert len(bench.sessions) > 1
    for network, target in zip(found, [1.0] * 3 + [0.9] * 3, strict=True):
        assert bench.ms(network) <= target


def test_a_network_that_a_raise_brings_above_the_target_is_not_delivered():
    pool, bench = Pool("a", [98, 103]), Bench({98: 0.94, 103: 1.2})
    assert run([pool], bench) == [(98,)]
    assert [len(set(session) - {LARGEST}) for session in bench.sessions] == [1] * 3
    assert (98,) in bench.sessions[-1]
    assert bench.asked == [[LARGEST, (98,)], [(103,)], []], "a session goes on for new networks"


def test_what_the_last_session_moves_above_the_target_is_corrected():
    class Settling(Bench):
        """97 seems to fit until it has been measured twice."""

        def ms(self, network):
            seen = Counter(one for session in self.sessions for one in session)[network]
            return 1.004 if network == (97,) and seen > 1 else super().ms(network)

    first, second, bench = Pool("first", [90, 97]), Pool("second", [95, 99]), Settling({99: 1.1})
    assert run([first, second], bench) == [(90,), (95,)]
    assert {(90,), (95,)} <= set(bench.sessions[-1])


def test_a_network_that_deviates_alone_does_not_hide_those_a_little_smaller():
    assert run([Pool("a", [95, 99])], Bench({99: 1.1})) == [(95,)]
    pool, bench = Pool("a", [70, 96, 99]), Bench({99: 1.2, 96: 1.01})
    assert run([pool], bench) == [(96,)]


def test_no_target_is_given_up_while_smaller_networks_are_left():
    bench = Bench({number: 1.5 - number / 1000 for number in range(70, 101)}, default=0.99)
    assert run([Pool("a", range(60, 101))], bench)[0] == (69,)


def test_a_target_that_no_network_meets_is_one_line():
    with pytest.raises(UserError) as error:
        run([Pool("slimmed", [95, 99])], Bench(default=3.0))
    assert str(error.value) == (
        "slimmed: 1 ms not met when measured: the last of 2 networks takes 2.85 ms; the table may "
        "be out of date: nas check-lut t.csv"
    )


def test_the_last_rounds_turn_back_to_a_network_that_met_its_target():
    class Endless(Bench):
        """Only 60 fits; all others are a little above the target whatever was predicted."""

        def ms(self, network):
            return 0.6 if network == (60,) else 1.01

    class Downwards(Pool):
        def choose(self, bounds):
            super().choose(bounds)
            return (60,) if len(self.asked) == 1 else (130 - len(self.asked),)

    bench = Endless()
    assert run([Downwards("a", range(60, 131))], bench) == [(60,)]
    assert len(bench.sessions) <= ROUNDS + FURTHER_ROUNDS
    assert bench.sessions[-1] == [LARGEST, (60,)]


@pytest.mark.parametrize("seed", range(20))
def test_the_loop_ends_on_a_machine_that_is_never_twice_the_same(seed):
    rng = np.random.default_rng(seed)

    class Noisy(Bench):
        def ms(self, network):
            return float(rng.uniform(0.8, 1.2)) * network[0] / 100

    pools, bench = [Pool("a", range(20, 130)), Pool("b", range(20, 130, 3))], Noisy()
    with contextlib.suppress(UserError):
        run(pools, bench)
    assert len(bench.sessions) <= ROUNDS + FURTHER_ROUNDS


def test_bounded_latencies_are_corrected_each_by_its_own_deviation_and_sizes_never():
    names = "latency_ms[a]", "latency_ms[b]"
    target = {names[0]: 1.0, names[1]: 1.0, "params": 1000.0}
    factors = {names[0]: 1.1, names[1]: 0.8}
    pool = Pool("a", range(50, 120))

    def costs(network):
        return {**dict.fromkeys(names, network[0] / 100), "params": 10.0 * network[0]}

    def measure(networks, asked):
        return {one: {name: factors[name] * one[0] / 100 for name in names} for one in networks}

    def choose(bounds):
        pool.asked.append(dict(bounds))
        return max(
            (one for one in pool.networks if all(costs(one)[it] <= bounds[it] for it in bounds)),
            key=accuracy,
        )

    pool.choose = choose
    judges = Judges(costs, accuracy, 100, measure, dict.fromkeys(names, Path("t.csv")))
    pair = Pair(pool, target, choose(target))
    Loop([pair], judges).run()
    assert pair.current == (90,)
    assert pool.asked[1] == {
        names[0]: pytest.approx(1 / 1.1, rel=0.006),
        names[1]: pytest.approx(1 / 0.8),
        "params": 1000.0,
    }


def test_a_target_of_sizes_alone_needs_one_session():
    pool, bench = Pool("a", [50, 60]), Bench(default=2.0)
    assert run([pool], bench, targets=({"params": 550.0},)) == [(50,)]
    assert len(bench.sessions) == 1


@pytest.mark.parametrize(
    ("accuracies", "delivered"),
    [
        ({96: 0.50, 105: 0.60, 80: 0.55}, 96),  # 80 is less near, and not clearly better
        ({96: 0.50, 105: 0.90, 80: 0.65}, 80),  # 80 is clearly better; 105 is above the target
        ({94: 0.50, 105: 0.60, 80: 0.50}, 94),
        ({90: 0.50, 105: 0.60, 80: 0.51}, 90),  # none is near: the nearest
    ],
)
def test_of_the_networks_that_were_tried_the_most_accurate_near_the_target_is_delivered(
    accuracies, delivered
):
    order = sorted(accuracies, reverse=True)  # 105 seems to fit by its prediction

    class Listed(Pool):
        def choose(self, bounds):
            self.asked.append(dict(bounds))
            return (order[min(len(self.asked), len(order)) - 1],)

    found = run([Listed("a", order)], Bench(), accuracy=lambda it: accuracies[it[0]], images=100)
    assert found == [(delivered,)]


def test_two_standard_errors_are_a_clear_difference():
    assert not is_clearly_better(0.60, 0.51, images=100)  # 2 * sqrt(0.6 * 0.4 / 100) = 0.098
    assert is_clearly_better(0.60, 0.50, images=100)
