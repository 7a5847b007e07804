import math

import numpy as np
import pytest

from nas.statistics import mcnemar


def hits(bits):
    return np.array([bit == "1" for bit in bits])


def test_mcnemars_p_is_that_of_fair_coins():
    wins, losses = 9, 1
    found = mcnemar(hits("1" * wins + "0" * losses + "1111"), hits("0" * wins + "1" * 5))
    tail = sum(math.comb(10, k) for k in (0, 1, 9, 10)) / 2**10
    assert found == pytest.approx(tail)


def test_networks_that_agree_on_every_image_differ_by_chance_only():
    assert mcnemar(hits("1100"), hits("1100")) == 1.0
