from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from nas.space import SearchSpace
from nas.supernet import Supernet
from nas.training.loop import fresh_supernet
from nas.training.parts import add_in_parts
from nas.training.sandwich import Losses, add_gradients, draw_subnets


@pytest.fixture
def supernet(tiny_space: SearchSpace) -> Supernet:
    """Norms use their running statistics: those of a part would differ from the whole batch's."""
    return fresh_supernet(tiny_space, seed=0, layer_scale=0.5).double().eval()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(7, 3, 32, 32, dtype=torch.float64), torch.randint(10, (7,))


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_gradients_and_losses_of_parts_add_up_to_those_of_the_batch(
    tiny_space: SearchSpace, supernet: Supernet, batch: tuple[Tensor, Tensor], parts: int
) -> None:
    images, labels = batch
    passes: list[int] = []

    def add(images: Tensor, labels: Tensor, *, weight: float) -> Losses:
        passes.append(len(labels))
        return add_gradients(
            supernet,
            images,
            labels,
            largest=tiny_space.largest(),
            subnets=draw_subnets(tiny_space, np.random.default_rng(3), 2),
            distillation=0.3,
            weight=weight,
        )

    expected = add(images, labels, weight=1.0)
    gradients = {name: it.grad for name, it in supernet.named_parameters()}
    supernet.zero_grad(set_to_none=True)
    passes.clear()

    losses = add_in_parts(add, images, labels, parts=parts, batch_size=7)

    assert len(passes) == parts
    assert max(passes) - min(passes) <= 1
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected), check_dtype=False)
    for name, parameter in supernet.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-10, atol=1e-13)


def test_a_share_of_a_batch_counts_as_much_as_it_is_of_it(
    tiny_space: SearchSpace, supernet: Supernet, batch: tuple[Tensor, Tensor]
) -> None:
    images, labels = batch
    add = partial(
        add_gradients,
        supernet,
        largest=tiny_space.largest(),
        subnets=[tiny_space.smallest()],
        distillation=0.0,
    )
    alone = add(images, labels)
    share = add_in_parts(add, images, labels, parts=2, batch_size=28)
    torch.testing.assert_close(share.largest, alone.largest / 4)
    torch.testing.assert_close(share.hits.double(), alone.hits.double() / 4)
