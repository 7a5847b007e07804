"""Whole networks vouch for a table; where they speak against it they are asked again."""

import numpy as np

from nas.latency.calibration import judge
from nas.latency.networks import MOST_ROUNDS, NetworkSample, calibrate
from nas.latency.table import Row
from nas.space import SearchSpace


def test_a_table_that_fails_is_measured_on_but_not_for_ever(target, graphs, brief, progress):
    space, rng = SearchSpace.load("demo_64px"), np.random.default_rng(0)
    nonsense = {
        key: Row(float(rng.uniform(0.01, 1)), 0.0, 1.0, 1000, 1000, "ok") for key in space.layers()
    }
    sample = NetworkSample(fitted=4, held_out=4, passes=1, visits=brief)
    _, validation = calibrate(
        space, nonsense, target, graphs, rng, sample=sample, progress=progress
    )
    assert judge(validation).failures
    assert progress.updates.count(("networks", 0, 8)) == MOST_ROUNDS
