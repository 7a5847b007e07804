from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from nas.network import build
from nas.space import SearchSpace
from nas.training.step import make_optimizer, scheduled_rate, set_learning_rate
from nas.training.supernets import fresh_supernet


def test_only_kernels_and_matrices_decay(tiny_space: SearchSpace) -> None:
    supernet = fresh_supernet(tiny_space, seed=0, layer_scale=1.0)
    names = {parameter: name for name, parameter in supernet.named_parameters()}
    optimizer = make_optimizer(supernet, learning_rate=1e-3, weight_decay=0.1)
    decayed, others, logits = (
        {names[parameter] for parameter in group["params"]} for group in optimizer.param_groups
    )
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0, 0.0]
    assert decayed | others | logits == set(names.values())
    assert not decayed & others
    assert logits == {
        "stage1/block1/ffn:path_logits",
        "stage2/block1/attention:path_logits",
    }
    assert "stage2/block1/ffn:conv_ffn:mid/conv/weight" in decayed
    assert "head:classifier:head/weight" in decayed
    for name in (
        "stage2/block1/ffn:conv_ffn:mid/conv/bias",
        "stage2/block1/ffn:conv_ffn:scale/gamma",
        "stage2/block1/ffn:conv_ffn:mid/norm/weight@16",
        "stage2/block1/attention:attention4d:bias/biases",
    ):
        assert name in others


def test_plain_networks_have_the_same_groups(tiny_space: SearchSpace) -> None:
    network = build(tiny_space.largest())
    optimizer = make_optimizer(network, learning_rate=1e-3, weight_decay=0.1)
    decayed = optimizer.param_groups[0]["params"]
    assert {parameter.dim() for parameter in decayed} == {2, 4}


def test_a_step_leaves_alone_what_it_did_not_use(tiny_space: SearchSpace) -> None:
    supernet = fresh_supernet(tiny_space, seed=0, layer_scale=1.0).train()
    optimizer = make_optimizer(supernet, learning_rate=1e-2, weight_decay=0.1)
    images = torch.randn(4, 3, 32, 32)
    # a first step moves everything, so that the second one could do so by momentum alone
    for architecture in tiny_space.largest(), tiny_space.smallest():
        supernet(images, architecture).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    before = {name: it.detach().clone() for name, it in supernet.named_parameters()}
    supernet(images, tiny_space.smallest()).square().sum().backward()
    optimizer.step()
    moved = {name for name, it in supernet.named_parameters() if not torch.equal(it, before[name])}
    assert "stem:conv_stem:conv1/norm/weight@4" in moved
    assert "stem:conv_stem:conv1/norm/weight@8" not in moved
    assert not any(name.startswith("stage1/block1/ffn") for name in moved)


def test_the_fused_step_is_adamw_in_any_memory_format(tiny_space: SearchSpace) -> None:
    # fused optimizers take parameter, gradient and moments for arrays of one layout
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    labels = torch.tensor([3, 1, 4, 1])
    found = []
    for fused, memory_format in (True, torch.channels_last), (False, torch.contiguous_format):
        supernet = fresh_supernet(tiny_space, seed=0, layer_scale=1.0).double().train()
        supernet.to(memory_format=memory_format)
        optimizer = make_optimizer(supernet, learning_rate=1e-2, weight_decay=0.1)
        for group in optimizer.param_groups:
            group["fused"] = fused
        for architecture in tiny_space.largest(), tiny_space.smallest(), tiny_space.largest():
            for subnet in architecture, tiny_space.smallest():
                functional.cross_entropy(supernet(images, subnet), labels).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        found.append(supernet.state_dict())
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name], rtol=1e-6, atol=1e-6)


def test_the_rate_rises_over_the_warm_up_and_falls_to_nothing() -> None:
    rates = [scheduled_rate(step, steps=100, peak=2.0, warmup=0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[99] < 1e-3


def test_a_warm_up_of_nothing_or_of_everything_is_fine() -> None:
    assert scheduled_rate(0, steps=3, peak=1.0, warmup=0.0) == 1.0
    assert scheduled_rate(2, steps=3, peak=1.0, warmup=1.0) == 1.0


def test_the_rate_is_set_for_all_groups(tiny_space: SearchSpace) -> None:
    optimizer = make_optimizer(build(tiny_space.smallest()), learning_rate=1.0, weight_decay=0.1)
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]


def test_path_logits_have_a_rate_of_their_own_on_the_same_schedule(tiny_space: SearchSpace) -> None:
    supernet = fresh_supernet(tiny_space, seed=0, layer_scale=1.0)
    optimizer = make_optimizer(
        supernet, learning_rate=0.2, weight_decay=0.1, path_learning_rate=0.05
    )
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.2, 0.05])
    set_learning_rate(optimizer, 0.02)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.02, 0.02, 0.005])


def test_steps_without_a_mixture_leave_path_logits_alone(tiny_space: SearchSpace) -> None:
    supernet = fresh_supernet(tiny_space, seed=0, layer_scale=1.0).train()
    optimizer = make_optimizer(supernet, learning_rate=1e-2, weight_decay=0.1)
    images = torch.randn(4, 3, 32, 32)
    halves = {slot: logits.softmax(0) for slot, logits in supernet.path_logits.items()}
    supernet.mixture(images, halves).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    before = {slot: logits.detach().clone() for slot, logits in supernet.path_logits.items()}
    assert any(torch.count_nonzero(logits) for logits in before.values())
    supernet(images, tiny_space.largest()).square().sum().backward()
    optimizer.step()  # a moment or a decay would move them here
    assert all(logits.equal(before[slot]) for slot, logits in supernet.path_logits.items())
