"""Published networks: their counts, folding, backbones."""

import pytest
import torch

import nas
from nas.families.efficientformer_v1.layers import MetaBlock3D
from nas.families.parts import ConvNorm
from nas.network import build, fold, fold_in_place, make_module, measure_size

PUBLISHED = {  # parameters with all heads, before folding; GMACs at the published size (papers)
    "efficientformer_v1_l1": (12_289_928, 1.3),
    "efficientformer_v1_l3": (31_406_000, 3.9),
    "efficientformer_v1_l7": (82_229_328, 10.2),
    "efficientformer_v2_s0": (3_600_256, 0.40),
    "efficientformer_v2_s1": (6_185_560, 0.65),
    "efficientformer_v2_s2": (12_710_112, 1.25),
    "efficientformer_v2_l": (26_322_288, 2.56),
    "efficientvit_m0": (2_349_436, 0.079),
    "efficientvit_m1": (2_980_560, 0.167),
    "efficientvit_m2": (4_187_554, 0.201),
    "efficientvit_m3": (6_900_722, 0.263),
    "efficientvit_m4": (8_804_228, 0.299),
    "efficientvit_m5": (12_473_772, 0.522),
    "pvt_v2_b0": (3_666_760, 0.566),
    "pvt_v2_b1": (14_009_000, 2.108),
    "pvt_v2_b2": (25_362_856, 4.027),
    "pvt_v2_b2_linear": (22_553_512, 3.889),
    "pvt_v2_b3": (45_238_696, 6.897),
    "pvt_v2_b4": (62_556_072, 10.101),
    "pvt_v2_b5": (81_956_008, 11.717),
    # MobileViT v1 and v3 were published with MACs of a faulty profiler; these are counted by hand
    "mobilevit_v1_xxs": (1_272_024, 0.4074),
    "mobilevit_v1_xs": (2_317_848, 1.0259),
    "mobilevit_v1_s": (5_578_632, 2.0008),
    "mobilevit_v2_050": (1_370_593, 0.4646),
    "mobilevit_v2_075": (2_866_009, 1.0280),
    "mobilevit_v2_100": (4_901_841, 1.8121),
    "mobilevit_v2_125": (7_478_089, 2.8169),
    "mobilevit_v2_150": (10_594_753, 4.0425),
    "mobilevit_v2_175": (14_251_833, 5.4888),
    "mobilevit_v2_200": (18_449_329, 7.1558),
    "mobilevit_v3_xxs": (1_249_448, 0.3322),
    "mobilevit_v3_xs": (2_490_360, 0.9666),
    "mobilevit_v3_s": (5_763_912, 1.8327),
    "mobilevit_v3_050": (1_429_985, 0.4798),
    "mobilevit_v3_075": (2_999_641, 1.0622),
    "mobilevit_v3_100": (5_139_409, 1.8729),
    "levit_128s": (7_777_058, 0.305),
    "levit_128": (9_213_936, 0.406),
    "levit_192": (10_947_069, 0.658),
    "levit_256": (18_893_876, 1.120),
    # as torch counts timm's networks: the papers' counts are rounded, or at other input sizes
    "mobilenet_v2_100": (3_504_872, 0.3008),
    "mobilenet_v3_small_100": (2_542_856, 0.0565),
    "mobilenet_v3_large_100": (5_483_032, 0.2166),
    "mobilenet_v4_conv_small": (3_774_024, 0.1860),
    "mobilenet_v4_conv_medium": (9_715_512, 1.0802),
    "mobilenet_v4_conv_large": (32_590_864, 6.3762),
    "efficientnet_lite_0": (4_652_008, 0.3852),
    "efficientnet_lite_1": (5_416_680, 0.6002),
    "efficientnet_lite_2": (6_092_072, 0.8597),
    "efficientnet_lite_3": (8_197_096, 1.6076),
    "efficientnet_lite_4": (13_006_568, 3.9436),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameters_and_macs(name):
    params, gigamacs = PUBLISHED[name]
    size = measure_size(nas.Architecture.load(name))
    assert size.params == params
    assert size.macs == pytest.approx(gigamacs * 1e9, rel=0.02)


def test_folding_halves_nothing_but_norms_and_heads(randomized):
    architecture = nas.Architecture.load("efficientformer_v2_s0").with_input_size(64)
    network = randomized(build(architecture)).double()
    folded = fold(network)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), network(images), rtol=1e-9, atol=1e-9)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    "name", ["efficientvit_m0", "efficientformer_v2_s0", "mobilevit_v1_xxs", "levit_128s"]
)
def test_convolutions_take_their_norms_and_all_else_stays(name, randomized):
    architecture = nas.Architecture.load(name).with_input_size(64)
    network = randomized(build(architecture)).double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.manual_seed(0))
    with torch.inference_mode():
        expected = network(images)
        folded = fold_in_place(network, ConvNorm)(images)
    torch.testing.assert_close(folded, expected, rtol=1e-9, atol=1e-9)
    assert not any(isinstance(module, ConvNorm) for module in network.modules())


@pytest.mark.parametrize(("height", "width"), [(96, 96), (64, 128)])
def test_efficientformer_v1_takes_images_that_its_strides_divide(height, width, randomized):
    published = nas.Architecture.load("efficientformer_v1_l1")
    architecture = nas.Architecture(input_shape=(3, height, width), layers=published.layers)
    network = randomized(build(architecture)).double()
    images = torch.randn(2, 3, height, width, dtype=torch.float64, generator=torch.manual_seed(0))
    with torch.inference_mode():
        logits = network(images)
        torch.testing.assert_close(fold(network)(images), logits, rtol=1e-9, atol=1e-9)
    assert logits.shape == (2, 1000)
    with pytest.raises(
        nas.UserError, match=r"efficientformer_v1_l1 at 100 px: stage2\.downsample: "
    ):
        published.with_input_size(100)


def test_attention_of_tokens_equals_the_formula_head_by_head(randomized):
    layer = MetaBlock3D(slot="block", channels=6, expansion=2, heads=2, key_dim=3, value_dim=4)
    attention = randomized(make_module(layer, (6, 2, 3))).double().attention
    x = torch.randn(1, 2, 3, 6, dtype=torch.float64, generator=torch.manual_seed(0))
    tokens = x.reshape(6, 6)
    heads = []
    with torch.inference_mode():
        for head in range(2):
            keys, values = slice(3 * head, 3 * head + 3), slice(4 * head, 4 * head + 4)
            q = tokens @ attention.q.weight[keys].T + attention.q.bias[keys]
            k = tokens @ attention.k.weight[keys].T + attention.k.bias[keys]
            v = tokens @ attention.v.weight[values].T + attention.v.bias[values]
            scores = q @ k.T / 3**0.5
            for i in range(6):
                for j in range(6):
                    dy, dx = abs(i // 3 - j // 3), abs(i % 3 - j % 3)
                    scores[i, j] += attention.bias.biases[head, dy, dx]
            heads.append(scores.softmax(1) @ v)
        expected = attention.proj(torch.cat(heads, 1)).reshape(1, 2, 3, 6)
        torch.testing.assert_close(attention(x), expected, rtol=1e-12, atol=1e-12)


def test_state_dict_keys_follow_the_slots():
    keys = build(nas.SearchSpace.load("mobile_64px").largest()).state_dict()
    assert "stage3.block2.ffn.fc1.conv.weight" in keys
    assert "stage4.block3.attention.bias.biases" in keys


SMALL = (
    "efficientformer_v1_l1",
    "efficientformer_v2_s0",
    "efficientvit_m0",
    "pvt_v2_b0",
    "mobilevit_v1_xxs",
    "mobilevit_v2_050",
    "mobilevit_v3_xxs",
    "mobilevit_v3_050",
    "levit_128s",
    "mobilenet_v2_100",
    "mobilenet_v3_small_100",
    "mobilenet_v4_conv_small",
    "efficientnet_lite_0",
)


@pytest.mark.parametrize(
    "name", [pytest.param(it, marks=[pytest.mark.slow] * (it not in SMALL)) for it in PUBLISHED]
)
def test_a_backbone_gives_a_map_of_each_resolution(name):
    architecture = nas.Architecture.load(name)
    with torch.device("meta"):
        backbone = nas.build(architecture, features=True).eval()
        maps = backbone(torch.empty(2, *architecture.input_shape))
    has_deep_stem = name.startswith(("efficientvit", "levit"))
    assert backbone.strides == ((16, 32, 64) if has_deep_stem else (4, 8, 16, 32))
    sides = [-(-architecture.input_size // stride) for stride in backbone.strides]
    expected = zip(backbone.channels, sides, strict=True)
    assert [it.shape for it in maps] == [(2, channels, side, side) for channels, side in expected]
    assert backbone.channels[-1] == architecture.layers[-1].in_channels


@pytest.mark.parametrize("name", SMALL)
def test_a_backbones_last_map_is_what_the_head_sees(name, randomized):
    architecture = nas.Architecture.load(name).with_input_size(64)
    classifier = randomized(build(architecture))
    seen = []
    classifier.head.register_forward_pre_hook(lambda head, inputs: seen.append(inputs[0]))
    backbone = build(architecture, features=True).eval()
    backbone.load_state_dict(classifier.state_dict())
    images = torch.randn(1, 3, 64, 64, generator=torch.manual_seed(0))
    with torch.inference_mode():
        maps, _ = backbone(images), classifier(images)
        folded = fold(backbone)(images)
    assert torch.equal(maps[-1], seen[0])
    for one, other in zip(maps, folded, strict=True):
        assert (one - other).abs().max() <= 1e-4 * one.abs().max()


def test_a_backbone_inside_another_module_takes_a_classifiers_weights_strictly():
    architecture = nas.Architecture.load("efficientformer_v2_s0").with_input_size(64)
    state = build(architecture).state_dict()
    backbone = build(architecture, features=True)
    assert set(backbone.state_dict()) == {key for key in state if not key.startswith("head.")}
    detector = torch.nn.ModuleDict({"backbone": backbone, "head": torch.nn.Linear(2, 2)})
    own = {f"head.{key}": tensor for key, tensor in detector.head.state_dict().items()}
    detector.load_state_dict({**own, **{f"backbone.{key}": it for key, it in state.items()}})
    assert torch.equal(
        backbone.state_dict()["stem.conv1.conv.weight"], state["stem.conv1.conv.weight"]
    )
    del state["stem.conv1.conv.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"stem.conv1.conv"):
        backbone.load_state_dict(state)


def test_maps_of_sides_that_are_rounded_up_keep_their_strides():
    architecture = nas.Architecture.load("efficientvit_m0").with_input_size(16)
    backbone = build(architecture, features=True).eval()
    maps = backbone(torch.zeros(1, 3, 16, 16))
    assert backbone.strides == (16, 32, 64)
    assert [tuple(it.shape[2:]) for it in maps] == [(1, 1)] * 3
