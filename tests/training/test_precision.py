"""Computing in bfloat16: what is rounded, and what is not."""

from __future__ import annotations

import pytest
import torch

from nas.space import SearchSpace
from nas.training.batches import Batch
from nas.training.distillation import Distillation
from nas.training.step import in_precision, suitable_precision
from nas.training.supernets import add_gradients, fresh_supernet

CPU = torch.device("cpu")


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(8, 3, 32, 32, generator=torch.manual_seed(0))


def test_float32_is_left_as_it_is(tiny_space: SearchSpace, images: torch.Tensor) -> None:
    supernet = fresh_supernet(tiny_space, seed=0, layer_scale=0.1)
    assert suitable_precision(CPU) == "float32"
    assert in_precision(supernet, CPU, None) is supernet
    assert in_precision(supernet, CPU, "float32") is supernet


def test_bfloat16_rounds_products_and_keeps_weights_and_losses(
    tiny_space: SearchSpace, images: torch.Tensor
) -> None:
    labels = torch.arange(8)
    found = {}
    for precision in ("float32", "bfloat16"):
        supernet = fresh_supernet(tiny_space, seed=0, layer_scale=0.1).train()
        losses = add_gradients(
            supernet,
            Batch(images, labels, size=8, resolution=32),
            [tiny_space.largest(), tiny_space.smallest()],
            Distillation(0.5),
            precision=precision,
        )
        gradients = {n: p.grad for n, p in supernet.named_parameters() if p.grad is not None}
        assert {it.dtype for it in (losses, *gradients.values())} == {torch.float32}
        found[precision] = losses, gradients["head:classifier:head/weight"]
    (exact, gradient), (rounded, rounded_gradient) = found.values()
    assert not torch.equal(exact[0], rounded[0])
    torch.testing.assert_close(rounded[0], exact[0], rtol=0.02, atol=0.02)
    error = (rounded_gradient - gradient).norm() / gradient.norm()
    assert 0 < error < 0.05
