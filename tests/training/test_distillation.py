from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nas.training.distillation import above_chance, alpha_divergence, diverge


@pytest.mark.parametrize(
    ("accuracy", "classes", "expected"),
    [(0.1, 10, 0.0), (0.05, 10, 0.0), (1.0, 10, 1.0), (0.55, 10, 0.5), (0.75, 2, 0.5)],
)
def test_accuracy_is_counted_above_chance(accuracy: float, classes: int, expected: float) -> None:
    assert above_chance(accuracy, classes) == pytest.approx(expected)


def logits(seed: int, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(6, 5, dtype=torch.float64, generator=generator)


def by_definition(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """Of each image, as the paper writes it."""
    p, q = teacher.softmax(1), student.softmax(1)
    if alpha == 1:
        return (p * (p / q).log()).sum(1)
    return (q * ((p / q) ** alpha - 1)).sum(1) / (alpha * (alpha - 1))


@pytest.mark.parametrize("alpha", [-1.0, 0.5, 1.0, 2.0])
def test_uncut_alpha_divergence_and_its_gradient_follow_the_definition(alpha: float) -> None:
    student, teacher = logits(0).requires_grad_(), logits(1)
    expected = by_definition(student, teacher, alpha)
    found = alpha_divergence(student, teacher, alphas=(alpha, alpha), most_ratio=1e9)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), student)[0])


def test_the_larger_of_two_divergences_counts_for_each_image() -> None:
    student, teacher = logits(2).requires_grad_(), logits(3)
    both = [by_definition(student, teacher, alpha) for alpha in (-1.0, 1.0)]
    assert 0 < int((both[0] > both[1]).sum()) < 6
    expected = torch.maximum(*both)
    found = alpha_divergence(student, teacher, most_ratio=1e9)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), student)[0])


def test_the_ratio_is_cut_in_value_and_gradient() -> None:
    student, teacher = logits(4, 3.0).requires_grad_(), logits(5, 3.0)
    p, q = teacher.softmax(1), student.softmax(1)
    cut = torch.minimum(q / p, torch.tensor(5.0)).detach()  # (p / q) ** -1
    assert 0 < int((cut == 5).sum()) < 20
    found = alpha_divergence(student, teacher, alphas=(-1.0, -1.0))
    torch.testing.assert_close(found, ((q * cut).sum(1) - 1) / 2)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    # -E_q[cut / alpha grad log q] through the softmax, by hand
    weight = (q * cut).detach()
    torch.testing.assert_close(gradient, weight - weight.sum(1, keepdim=True) * q.detach())


def test_divergences_stay_finite_where_one_side_is_sure() -> None:
    sure = torch.tensor([[200.0, -200.0, 0.0]])
    for sign in 1, -1:
        student, teacher = (sign * sure).requires_grad_(), -sign * sure
        found = alpha_divergence(student, teacher)
        (gradient,) = torch.autograd.grad(found.sum(), student)
        assert torch.isfinite(found).all()
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("divergence", ["kl", "alpha"])
def test_a_divergence_is_a_mean_over_images_and_nothing_between_equals(divergence) -> None:
    student, teacher = logits(0), logits(1)
    each = [diverge(student[[row]], teacher[[row]], divergence) for row in range(6)]
    torch.testing.assert_close(diverge(student, teacher, divergence), sum(each) / 6)
    assert (
        abs(float(diverge(student, student + 3, divergence))) < 1e-12
    )  # a shift changes no softmax


def test_kl_is_that_of_the_definition() -> None:
    expected = by_definition(logits(0), logits(1), 1)
    torch.testing.assert_close(diverge(logits(0), logits(1), "kl"), expected.mean())
