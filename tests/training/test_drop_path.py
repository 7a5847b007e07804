from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas.architecture import Architecture
from nas.errors import UserError
from nas.families.efficientformer_v1.modules import MetaBlock3DModule, MetaBlock4DModule
from nas.families.efficientformer_v2.modules import Attention4DModule, ConvFFNModule
from nas.families.efficientvit.modules import CascadedAttentionModule, DepthwiseFFNModule
from nas.families.levit.modules import LevitAttentionModule, LevitFFNModule
from nas.families.mobilevit.modules import (
    InvertedResidualModule,
    MobileViTV3BlockModule,
    PatchAttention,
    TransformerLayer,
)
from nas.families.mobilevit.separable_modules import (
    MobileViTV3SeparableBlockModule,
    SeparableTransformerLayer,
)
from nas.families.parts import Scale
from nas.families.pvt_v2.modules import ReducedAttentionModule, TokenFFNModule
from nas.network import build, make_module
from nas.space import SearchSpace
from nas.supernet import Supernet
from nas.training.step import DropPath
from nas.training.supernets import fresh_supernet

CERTAIN = 1 - 1e-12
"""A rate at which no draw keeps a branch."""


def residual_blocks() -> dict[str, nn.Module]:
    """Whole modules that are residual, and the residual layers inside those that are not."""
    torch.manual_seed(0)
    heads = {"heads": 2, "key_dim": 4, "value_dim": 8, "map_size": (4, 4), "act": "gelu"}
    reduced = {"heads": 2, "head_dim": 4, "reduction": 2}
    transformer = {"depth": 2, "act": "silu"}
    return {
        "ConvFFN": ConvFFNModule(8, 16, "gelu"),
        "Attention4D": Attention4DModule(8, stride=1, talking_heads=True, **heads),
        "MetaBlock4D": MetaBlock4DModule(8, 16, "gelu"),
        "MetaBlock3D": MetaBlock3DModule(8, 16, **heads),
        "ReducedAttention": ReducedAttentionModule(8, pooled=False, **reduced),
        "TokenFFN": TokenFFNModule(8, 16, "gelu", rectified=False),
        "DepthwiseFFN": DepthwiseFFNModule(8, 16, "relu"),
        "CascadedAttention": CascadedAttentionModule(
            8, key_dim=4, head_kernels=(3, 3), map_size=(4, 4), window=3, act="relu"
        ),
        "LevitAttention": LevitAttentionModule(8, **heads),
        "LevitFFN": LevitFFNModule(8, 16, "gelu"),
        "InvertedResidual": InvertedResidualModule(8, 16, "silu"),
        "MobileViTV3Block": MobileViTV3BlockModule(8, 8, 16, heads=2, **transformer),
        "MobileViTV3SeparableBlock": MobileViTV3SeparableBlockModule(8, 8, 16, **transformer),
        "TransformerLayer": TransformerLayer(4, 16, "silu", PatchAttention(4, 2), nn.LayerNorm),
        "SeparableTransformerLayer": SeparableTransformerLayer(4, 16, "silu"),
    }


def prepared(block: nn.Module) -> nn.Module:
    """In training, its branches as large as what they are added to, its norms without memory."""
    for child in block.modules():
        if isinstance(child, Scale):
            nn.init.constant_(child.gamma, 1.0)
        if isinstance(child, nn.BatchNorm2d):
            nn.init.ones_(child.weight)
            child.momentum = 0.0
    return block.double().train()


def images(count: int = 6) -> Tensor:
    return torch.randn(count, 8, 4, 4, dtype=torch.float64, generator=torch.Generator())


@pytest.mark.parametrize("name", residual_blocks())
def test_dropped_samples_are_their_inputs(name: str) -> None:
    block, x = prepared(residual_blocks()[name]), images()
    with DropPath(CERTAIN, np.random.default_rng(0)).applied_to({"stage1.block1": block}):
        dropped = block(x)
    assert torch.equal(dropped, x)
    assert not torch.equal(block(x), x)


@pytest.mark.parametrize("name", ["ConvFFN", "Attention4D", "TokenFFN", "InvertedResidual"])
def test_each_sample_is_its_input_or_has_its_branch_over_the_chance_to_keep_it(name: str) -> None:
    block, x = prepared(residual_blocks()[name]), images(64)
    whole = block(x)
    with DropPath(0.25, np.random.default_rng(0)).applied_to({"stage1.block1": block}):
        dropped = block(x)
    is_kept = torch.from_numpy(np.random.default_rng(0).random(64) >= 0.25)
    assert 0 < int(is_kept.sum()) < 64
    assert torch.equal(dropped[~is_kept], x[~is_kept])
    torch.testing.assert_close(dropped[is_kept], (x + (whole - x) / 0.75)[is_kept])


@pytest.mark.parametrize("name", ["ConvFFN", "TokenFFN"])
def test_the_mean_over_many_draws_is_the_whole_block(name: str) -> None:
    block, x = prepared(residual_blocks()[name]), images()
    whole, rng, draws = block(x).detach(), np.random.default_rng(0), 500
    total = torch.zeros_like(x)
    with torch.no_grad(), DropPath(0.4, rng).applied_to({"stage1.block1": block}):
        for _ in range(draws):
            total += block(x)
    # a draw of the branch's factor has the standard deviation sqrt(0.4 / 0.6)
    allowed = 5 * (0.4 / 0.6 / draws) ** 0.5 * (whole - x).abs() + 1e-9
    assert bool(((total / draws - whole).abs() <= allowed).all())


def test_rates_rise_linearly_over_blocks_and_branches_of_a_block_share_theirs() -> None:
    slots = ["stage1.block1", "stage1.block2", "stage2.block1.attention", "stage2.block1.ffn"]
    parts: dict[str, nn.Module] = {"stem": nn.Identity(), **{slot: Scale(1) for slot in slots}}
    x, found = torch.ones(20_000, 1, 1, 1), {}
    with DropPath(0.4, np.random.default_rng(0)).applied_to(parts):
        for slot in slots:
            parts[slot].gamma.data.fill_(1.0)
            values = parts[slot](x).unique().tolist()
            found[slot] = 1 - 1 / max(values)
    expected = {slots[0]: 0.0, slots[1]: 0.2, slots[2]: 0.4, slots[3]: 0.4}
    assert found == pytest.approx(expected, abs=1e-6)


FAMILIES = (
    "demo_64px",
    "efficientformer_v1_64px",
    "efficientvit_64px",
    "levit_64px",
    "mobilenet_64px",
    "mobilevit_64px",
    "pvt_v2_64px",
)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_layer_that_may_be_left_out_has_branches_to_drop(family: str) -> None:
    space = SearchSpace.load(family)
    for slot, candidates in space.paths.items():
        for layer, shape in filter(None, candidates):
            with torch.device("meta"):
                block = make_module(layer, shape)
            with DropPath(0.5, np.random.default_rng(0)).applied_to({slot: block}):
                assert any(child._forward_hooks for child in block.modules()), layer.kind


def test_rate_zero_draws_nothing_and_changes_nothing() -> None:
    block, x = prepared(residual_blocks()["ConvFFN"]), images()
    rng = np.random.default_rng(0)
    with DropPath(0.0, rng).applied_to({"stage1.block1": block}):
        assert torch.equal(block(x), block(x))
    assert rng.random() == np.random.default_rng(0).random()


def test_nothing_is_dropped_in_evaluation_or_after_the_context() -> None:
    block, x = prepared(residual_blocks()["MetaBlock4D"]), images()
    whole = block(x)
    with DropPath(CERTAIN, np.random.default_rng(0)).applied_to({"stage1.block1": block}):
        evaluated = block.eval()(x)
    assert torch.equal(evaluated, block(x))
    assert torch.equal(block.train()(x), whole)
    assert not any(child._forward_hooks for child in block.modules())


@pytest.fixture
def supernet(tiny_space: SearchSpace) -> Supernet:
    return fresh_supernet(tiny_space, seed=0, layer_scale=0.5).double().train()


def test_a_supernet_drops_what_the_extracted_network_drops(supernet: Supernet) -> None:
    largest: Architecture = supernet.space.largest()
    x = torch.randn(8, 3, 32, 32, dtype=torch.float64, generator=torch.Generator())
    network, whole = supernet.extract(largest), supernet(x, largest)
    with DropPath(0.5, np.random.default_rng(3)).applied_to(supernet.plain_modules(largest)):
        dropped = supernet(x, largest)
    with DropPath(0.5, np.random.default_rng(3)).applied_to({"": network}):
        expected = network(x)
    torch.testing.assert_close(dropped, expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(dropped, whole)
    assert set(network.state_dict()) == set(build(largest).state_dict())


def test_a_network_without_residual_branches_is_refused() -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    refused = pytest.raises(UserError, match=r"drop_path: needs .*, got a rate of 0\.1")
    with refused, DropPath(0.1, np.random.default_rng(0)).applied_to({"": network}):
        pass
    with DropPath(0.0, np.random.default_rng(0)).applied_to({"": network}):
        pass
