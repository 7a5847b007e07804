import math

import pytest
import torch

from nas.slim.verdict import compare_methods
from nas.statistics import mcnemar


def answers(bits):
    return torch.tensor([bit == "1" for bit in bits])


def test_chance_is_that_of_fair_coins():
    wins, losses = 9, 1
    one, other = "1" * wins + "0" * losses + "1111", "0" * wins + "1" * 5
    found = mcnemar(answers(one).numpy(), answers(other).numpy())
    tail = sum(math.comb(10, k) for k in (0, 1, 9, 10)) / 2**10
    assert found == pytest.approx(tail)


def test_networks_that_agree_on_every_image_differ_by_chance_only():
    assert mcnemar(answers("1100").numpy(), answers("1100").numpy()) == 1.0


def test_a_clear_difference_has_a_winner():
    better, worse = answers("1" * 90 + "0" * 10), answers("1" * 60 + "0" * 40)
    found = compare_methods(
        [("uniform", worse), ("evolution", worse), ("slimmed", better)], {"params": 1.0}
    )
    assert (found.winner, found.compared) == ("slimmed", ("slimmed", "uniform"))
    assert (found.accuracies, found.images) == ((0.9, 0.6), 100)
    found = compare_methods(
        [("uniform", worse), ("evolution", better), ("slimmed", worse)], {"params": 1.0}
    )
    assert (found.winner, found.compared) == ("evolution", ("evolution", "slimmed"))


def test_a_difference_within_chance_has_none():
    one, other = answers("111100"), answers("110100")
    found = compare_methods([("uniform", one), ("slimmed", other)], {"params": 1.0})
    assert (found.winner, found.compared, found.p) == (None, ("uniform", "slimmed"), 1.0)
