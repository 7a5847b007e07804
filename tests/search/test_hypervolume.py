import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.search import hypervolume


def test_a_single_point_covers_a_rectangle():
    assert hypervolume([(1.0, 90.0)], (3.0, 80.0)) == pytest.approx(20.0)


def test_points_no_better_than_the_reference_cover_nothing():
    assert hypervolume([(3.0, 90.0), (1.0, 80.0), (4.0, 95.0)], (3.0, 80.0)) == 0.0
    assert hypervolume([], (3.0, 80.0)) == 0.0


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=8))
def test_equals_a_count_of_covered_cells(points):
    covered = np.zeros((10, 10), bool)  # cells of [0, 10] x [0, 10]; the reference is (10, 0)
    for latency, accuracy in points:
        covered[latency:, :accuracy] = True
    inside = [(float(latency), float(min(accuracy, 10))) for latency, accuracy in points]
    assert hypervolume(inside, (10.0, 0.0)) == covered.sum()
