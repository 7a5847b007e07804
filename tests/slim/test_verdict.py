import math

import pytest
import torch

from nas.slim.verdict import chance, judge_methods


def answers(bits):
    return torch.tensor([bit == "1" for bit in bits])


def test_chance_is_that_of_fair_coins():
    wins, losses = 9, 1
    found = chance(answers("1" * wins + "0" * losses + "1111"), answers("0" * wins + "1" * 5))
    tail = sum(math.comb(10, k) for k in (0, 1, 9, 10)) / 2**10
    assert found == pytest.approx(tail)


def test_networks_that_agree_on_every_image_differ_by_chance_only():
    assert chance(answers("1100"), answers("1100")) == 1.0


def test_a_clear_difference_has_a_winner():
    better, worse = answers("1" * 90 + "0" * 10), answers("1" * 60 + "0" * 40)
    line = judge_methods([("uniform", worse), ("evolution", worse), ("slimmed", better)])
    assert line.startswith("slimmed won: 90.0 %, uniform 60.0 % on 100 test images, p = ")
    line = judge_methods([("uniform", worse), ("evolution", better), ("slimmed", worse)])
    assert line.startswith("evolution won: 90.0 %, slimmed 60.0 %")


def test_a_difference_within_chance_has_none():
    one, other = answers("111100"), answers("110100")
    assert judge_methods([("uniform", one), ("slimmed", other)]) == (
        "no method won: uniform 66.7 %, slimmed 50.0 % on 6 test images, p = 1"
    )
