"""Whole networks validate a table; a validation that fails is measured on."""

import numpy as np

from nas.latency.calibration import judge
from nas.latency.networks import MOST_ROUNDS, NetworkSample, Runner, calibrate
from nas.latency.table import Row


def test_a_table_that_fails_is_measured_on_but_not_for_ever(tiny, target, graphs, brief, progress):
    rng = np.random.default_rng(0)
    nonsense = {
        key: Row(float(rng.uniform(0.01, 1)), 0.0, 1.0, 1000, 1000, "ok") for key in tiny.layers()
    }
    sample = NetworkSample(fitted=4, held_out=4, passes=1, visits=brief)
    _, validation = calibrate(tiny, nonsense, Runner(target, rng, graphs, progress), sample)
    assert judge(validation).failures
    assert progress.updates.count(("networks", 0, 8)) == MOST_ROUNDS
