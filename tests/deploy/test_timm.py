"""Weights of timm in our networks and of ours in timm's: both then compute the same."""

import copy
import re
from functools import cache
from pathlib import Path

import pytest
import safetensors.torch
import torch

import nas
from nas.deploy.formats import export_network
from nas.deploy.timm import name_in_timm, to_timm_state_dict
from nas.documents import built_in_architectures
from nas.families import FAMILIES
from nas.families.mobilevit.layers import MobileViTV3Block, MobileViTV3SeparableBlock
from nas.network import build, fold

OF_EACH_KIND = (  # networks whose layers are of all kinds that timm has
    "efficientformer_v1_l1",
    "efficientformer_v2_s0",
    "efficientvit_m0",
    "pvt_v2_b0",
    "pvt_v2_b2_linear",
    "mobilevit_v1_xxs",
    "mobilevit_v2_050",
    "levit_128s",
    "mobilenet_v2_100",
    "mobilenet_v3_small_100",
    "mobilenet_v3_large_100",
    "mobilenet_v4_conv_small",
    "mobilenet_v4_conv_medium",
    "efficientnet_lite_0",
)
SIZED = ("efficientformer_v2_s0", "efficientvit_m0", "levit_128s")  # by timm's img_size
MOBILEVIT_V3 = ("mobilevit_v3_xxs", "mobilevit_v3_050")  # which timm lacks
LONGER = {"pvt_v2_b2_linear", "mobilenet_v3_large_100", "mobilenet_v4_conv_medium"}
QUICK = {*OF_EACH_KIND, "efficientformer_v2_s1", "efficientvit_m1"} - LONGER
IN_TIMM = [name for name in built_in_architectures() if not name.startswith("mobilevit_v3")]


def marked(names):
    """Parameters of tests, of which those that take long are slow ones."""
    return [pytest.param(it, marks=[pytest.mark.slow] * (it not in QUICK)) for it in names]


def test_a_network_of_every_family_is_written_for_timm():
    kinds = {it.kind for name in OF_EACH_KIND for it in nas.Architecture.load(name).layers}
    for family in FAMILIES:
        assert kinds & {it.model_fields["kind"].default for it in family.layers}, family


def timm_name(name):
    return name_in_timm(nas.Architecture.load(name))


@pytest.fixture(scope="session")
def model(timm, randomized):
    """A function that returns timm's randomised model of a name of ours, each made once."""
    return cache(lambda name: randomized(timm.create_model(timm_name(name))))


@pytest.fixture(scope="module")
def exported(request, randomized):
    architecture = nas.Architecture.load(request.param)
    network = randomized(nas.build(architecture))
    return architecture, network, to_timm_state_dict(network, architecture)


@pytest.mark.parametrize("exported", [*OF_EACH_KIND, *MOBILEVIT_V3], indirect=True)
def test_weights_that_come_back_are_the_same_bits(exported):
    architecture, network, state = exported
    again = nas.build(architecture)
    nas.load_timm_state_dict(again, architecture, state)
    own, back = network.state_dict(), again.state_dict()
    assert all(torch.equal(own[name], back[name]) for name in own)


@pytest.mark.parametrize("exported", OF_EACH_KIND, indirect=True)
def test_timms_network_takes_them_strictly_and_computes_the_same(exported, model):
    architecture, network, state = exported
    reference = copy.deepcopy(model(architecture.name))
    reference.load_state_dict(state, strict=True)
    images = torch.randn(1, *architecture.input_shape, generator=torch.manual_seed(1))
    with torch.inference_mode():
        expected, logits = network(images), reference(images)
    assert expected.std() > 0.01
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", IN_TIMM)
def test_every_other_published_network_has_a_name_in_timm(timm, name):
    architecture = nas.Architecture.load(name).with_classes(7).with_input_size(256)
    assert timm.is_model(name_in_timm(architecture))


@pytest.mark.parametrize("name", sorted(set(built_in_architectures()) - set(IN_TIMM)))
def test_timm_lacks_version_3_of_mobilevit(name):
    assert name_in_timm(nas.Architecture.load(name)) is None


@pytest.mark.parametrize("name", marked(OF_EACH_KIND))
@pytest.mark.parametrize("size", [None, pytest.param(256, marks=pytest.mark.slow)])
def test_what_is_written_for_timm_is_what_timm_loads(timm, randomized, name, size):
    architecture = nas.Architecture.load(name).with_classes(7)
    if size is not None and name != "efficientformer_v1_l1":  # whose attention is of one size
        architecture = architecture.with_input_size(size)
    network = randomized(nas.build(architecture))
    out = Path("t.safetensors")
    exported = export_network(architecture, network, "timm", out)
    assert exported.relative_difference is not None
    assert exported.relative_difference <= 1e-4
    state = safetensors.torch.load(exported.files[out])
    options = {"img_size": size} if size and name in SIZED else {}
    reference = timm.create_model(timm_name(name), num_classes=7, **options)
    reference.load_state_dict(state, strict=True)
    images = torch.randn(1, *architecture.input_shape, generator=torch.manual_seed(1))
    with torch.inference_mode():
        expected, logits = network(images), reference.eval()(images)
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("space", ["efficientformer_v2_s0_224px", "mobilevit_64px", "levit_64px"])
def test_a_slimmed_network_is_refused_for_timm(space):
    architecture = nas.SearchSpace.load(space).smallest()
    with pytest.raises(nas.UserError, match=r"timm has no network of these layers, .* --format py"):
        export_network(architecture, nas.build(architecture), "timm", Path("t.safetensors"))


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


@pytest.mark.parametrize("name", marked(IN_TIMM))
def test_logits_equal_timms_with_timms_weights(name, model):
    reference = model(name)
    architecture = nas.Architecture.load(name)
    network = nas.build(architecture).eval()
    nas.load_timm_state_dict(network, architecture, reference.state_dict())
    images = torch.randn(1, *architecture.input_shape, generator=torch.manual_seed(1))
    with torch.inference_mode():
        expected, logits, folded = reference(images), network(images), fold(network)(images)
    scale = expected.abs().max()
    assert scale > 0.1
    assert (logits - expected).abs().max() <= 1e-4 * scale
    assert (folded - expected).abs().max() <= 1e-4 * scale


def test_timm_weights_at_another_input_size(timm, randomized):
    reference = randomized(timm.create_model("efficientformerv2_s0", img_size=96))
    architecture = nas.Architecture.load("efficientformer_v2_s0").with_input_size(96)
    network = nas.build(architecture).eval()
    nas.load_timm_state_dict(network, architecture, reference.state_dict())
    images = torch.randn(2, 3, 96, 96, generator=torch.manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(network(images), reference(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (64, 96)])
@pytest.mark.parametrize("name", ["mobilevit_v1_xxs", "mobilevit_v2_050"])
def test_mobilevit_interpolates_maps_of_odd_sides_as_timm_does(name, height, width, model):
    reference = model(name)
    published = nas.Architecture.load(name)
    architecture = nas.Architecture(input_shape=(3, height, width), layers=published.layers)
    network = nas.build(architecture).eval()
    nas.load_timm_state_dict(network, architecture, reference.state_dict())
    images = torch.randn(2, 3, height, width, generator=torch.manual_seed(1))
    with torch.inference_mode():
        expected = reference(images)
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(fold(network)(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "kind", "fused", "halves"),
    [
        ("mobilevit_v1_xxs", MobileViTV3Block, "conv_fusion", "fusion"),
        ("mobilevit_v2_050", MobileViTV3SeparableBlock, "conv_proj", "leave"),
    ],
)
def test_mobilevit_v3_takes_weights_by_timms_names(name, kind, fused, halves, model):
    state = dict(model(name).state_dict())
    published = nas.Architecture.load(name)
    layers = []
    for layer, shape in published.placed():
        if layer.slot.endswith("mobilevit"):
            block = f"stages.{int(layer.slot[5]) - 2}.1"
            second = shape[0] if kind is MobileViTV3Block else layer.dim
            state[f"{block}.conv_kxk.conv.weight"] = torch.randn(shape[0], 1, 3, 3)
            state[f"{block}.{fused}.conv.weight"] = torch.randn(shape[0], layer.dim + second, 1, 1)
            layer = kind(slot=layer.slot, channels=shape[0], dim=layer.dim, depth=layer.depth)  # noqa: PLW2901
        layers.append(layer)
    architecture = nas.Architecture(input_shape=(3, 64, 64), layers=tuple(layers))
    network = nas.build(architecture)
    nas.load_timm_state_dict(network, architecture, state)
    fusion = network.get_submodule(f"stage5.block1.mobilevit.{halves}")
    weight = torch.cat([fusion.first.weight, fusion.second.weight], 1)
    assert torch.equal(weight, state[f"stages.3.1.{fused}.conv.weight"])


def test_timm_weights_of_another_network_are_refused_by_name(model):
    architecture = nas.Architecture.load("efficientformer_v2_s0")
    network = nas.build(architecture)
    state = model("efficientformer_v2_s1").state_dict()
    message = (
        r"do not fit efficientformer_v2_s0: 'stages\.2\.downsample\.conv\.conv\.weight' is "
        r"\(120, 48, 3, 3\), must be \(96, 48, 3, 3\); they are those of efficientformer_v2_s1$"
    )
    with pytest.raises(nas.UserError, match=message):
        nas.load_timm_state_dict(network, architecture, state)
    own = model("efficientformer_v2_s0").state_dict()
    missing = {key: value for key, value in own.items() if key != "head.bias"}
    with pytest.raises(nas.UserError, match=r"'head.bias' is missing \(our 'head.head.bias'\)"):
        nas.load_timm_state_dict(network, architecture, missing)
    extra = {**own, "surplus.weight": torch.zeros(1)}
    with pytest.raises(nas.UserError, match=r"'surplus.weight' has no place in it"):
        nas.load_timm_state_dict(network, architecture, extra)


def test_timm_index_buffers_are_optional(model):
    architecture = nas.Architecture.load("efficientformer_v2_s0")
    network = nas.build(architecture)
    state = dict(model("efficientformer_v2_s0").state_dict())
    state["stages.2.blocks.4.token_mixer.attention_bias_idxs"] = torch.zeros(49, 49).long()
    nas.load_timm_state_dict(network, architecture, state)


def test_timms_fused_qkv_with_other_heads_is_refused(model):
    architecture = nas.Architecture.load("efficientformer_v1_l1")
    state = dict(model("efficientformer_v1_l1").state_dict())
    state["stages.3.blocks.4.token_mixer.qkv.bias"] = torch.zeros(768)
    message = r"'stages\.3\.blocks\.4\.token_mixer\.qkv\.bias' is \(768,\), must be \(1536,\)"
    with pytest.raises(nas.UserError, match=message):
        nas.load_timm_state_dict(nas.build(architecture), architecture, state)


@pytest.mark.parametrize("name", [name for name in OF_EACH_KIND if name != "pvt_v2_b2_linear"])
def test_a_backbones_maps_equal_timms(name, model):
    reference = model(name)
    architecture = nas.Architecture.load(name)
    network = build(architecture).eval()
    nas.load_timm_state_dict(network, architecture, reference.state_dict())
    backbone = build(architecture, features=True).eval()
    backbone.load_state_dict(network.state_dict())
    images = torch.randn(1, *architecture.input_shape, generator=torch.manual_seed(1))
    with torch.inference_mode():
        maps = backbone(images)
        expected = reference.forward_intermediates(images, intermediates_only=True)
        # timm's maps of PVT v2 end with a norm, and MobileViT v1's last with the head's convolution
        if name.startswith("pvt"):
            norms = [getattr(network, f"stage{n}").downsample.norm_before for n in (2, 3, 4)]
            norms.append(network.head.norm)
            maps = [
                norm(one.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
                for one, norm in zip(maps, norms, strict=True)
            ]
        if name.startswith("mobilevit_v1"):
            maps[-1] = torch.nn.functional.silu(network.head.conv(maps[-1]))
        if name == "efficientvit_m0":
            # the channels of one of its four heads are neighbours there, and what stands between
            # the last block of a stage and the stride belongs to the next stage
            maps = [it.unflatten(1, (-1, 4)).transpose(1, 2).flatten(1, 2) for it in maps]
            for stage in (0, 1):
                expected[stage] = reference.stages[stage + 1].downsample.res1(expected[stage])
    for one, other in zip(maps, expected[-len(maps) :], strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= 1e-4 * other.abs().max()


@pytest.mark.parametrize("name", IN_TIMM)
def test_published_networks_see_pictures_as_in_timm(timm, name):
    config = timm.get_pretrained_cfg(timm_name(name))
    found = nas.Architecture.load(name).preprocessing
    assert (found.mean, found.std, found.crop) == (config.mean, config.std, config.crop_pct)
