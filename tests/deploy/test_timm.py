"""Weights out of our networks and into timm's, which then compute the same; and back."""

import re

import pytest
import torch

import nas
from nas.deploy.timm import to_timm_state_dict

IN_TIMM = {  # one network of each family, whose layers are of all its kinds
    "efficientformer_v1_l1": "efficientformer_l1",
    "efficientformer_v2_s0": "efficientformerv2_s0",
    "efficientvit_m0": "efficientvit_m0",
    "pvt_v2_b0": "pvt_v2_b0",
    "pvt_v2_b2_linear": "pvt_v2_b2_li",
    "mobilevit_v1_xxs": "mobilevit_xxs",
    "mobilevit_v2_050": "mobilevitv2_050",
}
MOBILEVIT_V3 = ("mobilevit_v3_xxs", "mobilevit_v3_050")  # which timm lacks


def random_network(architecture):
    """Weights, biases and statistics that all matter."""
    network = nas.build(architecture).eval()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var") or (name.endswith("weight") and tensor.dim() == 1):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point() and tensor.dim() < 2:
            tensor.normal_(0, 0.2, generator=generator)
        elif name.endswith("biases"):
            tensor.normal_(0, 1, generator=generator)
    return network


@pytest.fixture(scope="module")
def exported(request):
    architecture = nas.Architecture.load(request.param)
    network = random_network(architecture)
    return architecture, network, to_timm_state_dict(network, architecture)


@pytest.mark.parametrize("exported", [*IN_TIMM, *MOBILEVIT_V3], indirect=True)
def test_weights_that_come_back_are_the_same_bits(exported):
    architecture, network, state = exported
    again = nas.build(architecture)
    nas.load_timm_state_dict(again, architecture, state)
    own, back = network.state_dict(), again.state_dict()
    assert all(torch.equal(own[name], back[name]) for name in own)


@pytest.mark.parametrize("exported", IN_TIMM, indirect=True)
def test_timms_network_takes_them_strictly_and_computes_the_same(exported, timm):
    architecture, network, state = exported
    reference = timm.create_model(IN_TIMM[architecture.name]).eval()
    reference.load_state_dict(state, strict=True)
    images = torch.randn(1, *architecture.input_shape, generator=torch.manual_seed(1))
    with torch.inference_mode():
        expected, logits = network(images), reference(images)
    assert expected.std() > 0.01
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_a_network_that_timm_lacks_is_refused_by_slot():
    architecture = nas.SearchSpace.load("efficientvit_64px").largest()  # with another stem
    with pytest.raises(
        nas.UserError, match=r"timm's EfficientFormer V2 has no layer such as stage1"
    ):
        to_timm_state_dict(nas.build(architecture), architecture)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("efficientvit_m1", "they are those of efficientvit_m1"),
        ("mobilevit_v3_050", "they are those of mobilevit_v3_050"),
    ],
)
def test_weights_of_another_family_name_their_own(given, hint):
    architecture = nas.Architecture.load(given)
    state = to_timm_state_dict(nas.build(architecture), architecture)
    other = nas.Architecture.load("efficientformer_v2_s0")
    message = rf"do not fit efficientformer_v2_s0: '[a-z0-9_.]+' is missing \(our '.*'\); {hint}$"
    with pytest.raises(nas.UserError, match=message):
        nas.load_timm_state_dict(nas.build(other), other, state)


def test_weights_with_other_classes_name_the_closest_only_if_it_is_another():
    architecture = nas.Architecture.load("efficientvit_m0")
    fewer = architecture.with_classes(10)
    state = to_timm_state_dict(nas.build(fewer), fewer)
    message = r"'head\.linear\.weight' is \(10, 192\), must be \(1000, 192\)"
    with pytest.raises(nas.UserError, match=message + "$"):
        nas.load_timm_state_dict(nas.build(architecture), architecture, state)
    other = nas.Architecture.load("efficientvit_m2")
    with pytest.raises(nas.UserError, match=r"; they come closest to efficientvit_m0$"):
        nas.load_timm_state_dict(nas.build(other), other, state)


def test_a_slimmed_networks_names_count_its_blocks_as_ours_do():
    space = nas.SearchSpace.load("efficientformer_v2_s0_224px")
    architecture = space.smallest()
    state = to_timm_state_dict(nas.build(architecture), architecture)
    blocks = {re.match(r"stages\.(\d)\.blocks\.(\d+)", key) for key in state}
    found = {(int(it[1]) + 1, int(it[2]) + 1) for it in blocks if it}
    slots = [re.match(r"stage(\d)\.block(\d+)", layer.slot) for layer in architecture.layers]
    assert found == {(int(it[1]), int(it[2])) for it in slots if it}
