"""Reordered networks compute what they did; the channels that matter come first."""

import pytest
import torch

from nas.network import build
from nas.space import SearchSpace
from nas.training.importance import Channels, exchangeable, sort_channels

QUICK = ("cifar10_32px",)
SLOW = (
    *("mobile_64px", "efficientvit_64px", "across_64px", "efficientformer_v1_64px"),
    *("levit_64px", "pvt_v2_64px", "mobilevit_64px", "mobilenet_64px"),
)
SPACES = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def logits(network, space):
    shape = space.largest().input_shape
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return network.eval()(images)


@pytest.mark.parametrize("name", SPACES)
def test_reordering_leaves_the_outputs_of_the_largest_network(name, randomized):
    space = SearchSpace.load(name)
    network = randomized(build(space.largest())).eval()
    found = sort_channels(network, space, None, importance="magnitude")
    before, after = logits(network, space), logits(found, space)
    assert (before - after).abs().max() <= 1e-5 * before.abs().max().clamp(min=1)
    changed = [
        key
        for key, tensor in network.state_dict().items()
        if not torch.equal(tensor, found.state_dict()[key])
    ]
    least = 1 / 10 if name == "efficientvit_64px" else 1 / 4  # whose attention splits channels
    assert len(changed) > least * len(network.state_dict())


@pytest.mark.parametrize("name", [*QUICK, pytest.param("levit_64px", marks=pytest.mark.slow)])
def test_each_width_and_expansion_has_channels_that_may_change_places(name, randomized):
    space = SearchSpace.load(name)
    channels = Channels.of(space)
    network = randomized(build(space.largest())).eval()
    found = {group.name for group in exchangeable(channels, network, space)}
    for choice in space.typed_choices:
        if choice.role == "width":
            assert choice.name in found
        if choice.field == "expansion":
            assert choice.slot in found, choice.name


def test_groups_are_the_same_after_a_search_has_asked_layers_for_their_names(tiny_space):
    groups = Channels.of(tiny_space).groups
    assert all(layer.signature for layer in tiny_space.largest().layers)
    assert groups == Channels.of(tiny_space).groups != []


def test_groups_hold_the_axes_that_one_reads_in_the_modules(tiny_space):
    groups = {group.name: group for group in Channels.of(tiny_space).groups}
    ffn = groups["stage1.block1.ffn"]
    assert ffn.size == 32
    axes = {(name.rpartition("ffn.")[2], axis) for name, axis in ffn.axes}
    assert {("fc1.conv.weight", 0), ("mid.conv.weight", 0), ("fc2.conv.weight", 1)} <= axes
    assert ("fc2.conv.weight", 0) not in axes
    stream = {name for name, _ in groups["stage1.width"].axes}
    assert "stage1.block1.ffn.fc1.conv.weight" in stream
    assert any(name.startswith("stage2.downsample.") for name in stream)
    assert not any(name.startswith("stage2.block") for name in stream)


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_channels_that_do_nothing_come_last(tiny_space, digits, randomized, importance):
    network = randomized(build(tiny_space.largest()))
    dead = torch.tensor([0, 3, 7])
    ffn = network.get_submodule("stage1.block1.ffn")
    with torch.no_grad():
        for parameter in (ffn.fc1.conv.weight, ffn.fc1.conv.bias, ffn.mid.conv.weight):
            parameter[dead] = 0
        for norm in (ffn.fc1.norm, ffn.mid.norm):
            norm.weight[dead] = norm.bias[dead] = 0
        ffn.mid.conv.bias[dead] = 0
        ffn.fc2.conv.weight[:, dead] = 0
    found = sort_channels(network, tiny_space, digits.train, importance=importance)
    sorted_ffn = found.get_submodule("stage1.block1.ffn")
    assert not sorted_ffn.fc2.conv.weight[:, -3:].any()
    assert sorted_ffn.fc2.conv.weight[:, :-3].abs().amax((0, 2, 3)).min() > 0


def test_without_importance_all_stays_in_its_place(tiny_space, randomized):
    network = randomized(build(tiny_space.largest()))
    found = sort_channels(network, tiny_space, None, importance="none")
    for name, tensor in network.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)
