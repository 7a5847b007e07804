"""Whole networks vouch for a table; where they speak against it they are asked again."""

import numpy as np

from nas.latency.networks import MOST_ROUNDS, Sample, calibrate
from nas.latency.rows import Row
from nas.latency.validation import judge
from nas.space import SearchSpace


def test_a_table_that_fails_is_measured_on_but_not_for_ever(target, graphs):
    space, rng = SearchSpace.load("demo_64px"), np.random.default_rng(0)
    nonsense = {
        key: Row(float(rng.uniform(0.01, 1)), 0.0, 1.0, 1000, 1000, "ok") for key in space.layers()
    }
    rounds = []
    _, validation = calibrate(
        space, nonsense, target, graphs, rng, sample=Sample(fitted=4, held_out=6, passes=1),
        tell=lambda what, done, total: rounds.append(what) if done == 0 else None,
    )  # fmt: skip
    assert judge(validation).failures
    assert len(rounds) == MOST_ROUNDS
