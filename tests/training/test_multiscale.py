from __future__ import annotations

import pytest
import torch
from torch import nn

from nas.architecture import Architecture
from nas.network import build
from nas.space import SearchSpace
from nas.training.alone import MultiScale, fresh_network

BIASES = "stage2.block1.attention.bias.biases"


@pytest.fixture
def architecture(tiny_space: SearchSpace) -> Architecture:
    return tiny_space.largest()


@pytest.fixture
def network(architecture: Architecture) -> nn.Module:
    found = fresh_network(architecture, seed=1, layer_scale=0.5).double()
    nn.init.normal_(found.get_parameter(BIASES))
    return found


@pytest.fixture
def scales(architecture: Architecture, network: nn.Module) -> MultiScale:
    return MultiScale(architecture, network, (16, 32, 48)).double()


def images(side: int) -> torch.Tensor:
    return torch.randn(4, 3, side, side, dtype=torch.float64, generator=torch.manual_seed(2))


@pytest.mark.parametrize("side", [16, 32, 48])
def test_every_resolution_computes_as_a_network_with_these_biases_of_offsets(
    architecture: Architecture, network: nn.Module, scales: MultiScale, side: int
) -> None:
    state = network.state_dict()
    known = state[BIASES]  # (heads, 4, 4), of a map of 4x4
    cells = side // 8
    biases = torch.zeros(2, cells, cells, dtype=torch.float64)
    for dy in range(min(4, cells)):
        for dx in range(min(4, cells)):
            biases[:, dy, dx] = known[:, dy, dx]
    expected = build(architecture.with_input_size(side)).double()
    expected.load_state_dict({**state, BIASES: biases})
    torch.testing.assert_close(scales.eval()(images(side)), expected.eval()(images(side)))


def test_what_is_extracted_computes_as_the_network_did(
    network: nn.Module, scales: MultiScale
) -> None:
    found = scales.eval().extract()
    assert found.state_dict().keys() == network.state_dict().keys()
    assert torch.equal(found(images(32)), network.eval()(images(32)))
    shared = {it.data_ptr() for it in scales.parameters()}
    assert not shared & {it.data_ptr() for it in found.parameters()}


def test_all_resolutions_train_the_same_weights_and_statistics(scales: MultiScale) -> None:
    scales.train()
    for side in (16, 32, 48):
        scales(images(side)).square().sum().backward()
        gradient = scales.weights.get_parameter(BIASES).grad
        assert gradient is not None
        reached = (gradient.abs().sum(0) > 0).nonzero().tolist()
        assert reached == [[y, x] for y in range(side // 8) for x in range(side // 8)]
    norm = scales.weights.get_submodule("stem.conv1.norm")
    assert int(norm.num_batches_tracked) == 3
    assert all(parameter.grad is not None for parameter in scales.parameters())
