"""The supernet against independent oracles: masking, the extracted network, its gradients."""

import itertools
from functools import cache, partial
from itertools import pairwise

import numpy as np
import pytest
import torch

from nas.families import LAYERS
from nas.families.parts import RelativeBias
from nas.network import build, make_module
from nas.space import SearchSpace
from nas.space.document import SPECS
from nas.supernet import Supernet

SPACE = {
    "name": "every_v2_kind",
    "input_size": [16, 32],
    "classes": 5,
    "stem": {"kind": "conv_stem"},
    "stages": [
        {"width": [8, 12], "blocks": [{"repeat": 2, "ffn": ["identity", _ffn := {
            "kind": "conv_ffn", "expansion": [1, 1.5, 2]}]}]},
        {"width": [8, 16], "downsample": {"kind": "conv_downsample"}, "blocks": [{
            "attention": ["identity", {
                "kind": "attention4d", "stride": 2, "heads": [1, 2], "key_dim": [2, 4],
                "value_dim": [3, 5]}],
            "ffn": ["identity", _ffn]}]},
        {"width": [16, 24], "downsample": {
            "kind": "attention_downsample", "heads": [2, 3], "key_dim": [2, 4],
            "value_dim": [2, 6]},
         "blocks": [{"attention": ["identity", {
             "kind": "attention4d", "heads": 2, "key_dim": 4, "value_dim": 4,
             "talking_heads": False}]}]},
    ],
    "head": {"kind": "classifier"},
}  # fmt: skip

TOKENS = {
    "name": "every_v1_kind",
    "input_size": [16, 32],
    "classes": 5,
    "stem": {"kind": "conv_stem", "activation": "relu"},
    "stages": [
        {"width": [8, 12], "blocks": [{"repeat": 2, "metablock": ["identity", {
            "kind": "metablock4d", "expansion": [1, 1.5, 2]}]}]},
        {"width": [8, 16], "downsample": {"kind": "conv_downsample"}, "blocks": [{
            "repeat": 2, "metablock": [
                "identity", {"kind": "metablock4d", "expansion": [1, 2]},
                {"kind": "metablock3d", "expansion": [1, 2], "heads": [1, 2], "key_dim": [2, 4],
                 "value_dim": [3, 5]}]}]},
    ],
    "head": {"kind": "token_classifier"},
}  # fmt: skip

CASCADE = {
    "name": "cascade",
    "input_size": 32,
    "classes": 5,
    "stem": {"kind": "deep_conv_stem"},
    "stages": [
        {"width": [16, 24], "blocks": [{
            "ffn": ["identity", {"kind": "depthwise_ffn", "expansion": [1, 1.5, 2]}],
            "attention": ["identity", {
                "kind": "cascaded_attention", "heads": 4, "key_dim": [2, 4], "kernels": "5-3"}]}]},
        {"width": [12, 16, 24], "downsample": {"kind": "patch_merging", "expansion": [1, 2]}},
    ],
    "head": {"kind": "pooled_classifier"},
}  # fmt: skip

WINDOWS = {  # of 3 pixels on maps of 8, which are padded to 9; of 2 on maps of 2
    **CASCADE,
    "name": "windows",
    "input_size": [8, 32],
    "stem": {"kind": "conv_stem"},
    "stages": [{"width": [12, 24], "blocks": [{"attention": ["identity", {
        "kind": "cascaded_attention", "heads": 3, "key_dim": 2, "kernels": "3", "window": 3}]}]}],
}  # fmt: skip

_FEW = {"kind": "reduced_attention", "heads": [1, 2], "head_dim": [2, 4]}
_MLP = {"kind": "token_ffn", "expansion": [1, 1.5, 2]}
REDUCED = {
    "name": "reduced",
    "input_size": 32,
    "classes": 5,
    "stem": {"kind": "patch_stem"},
    "stages": [
        {"width": [8, 12], "blocks": [
            {"attention": ["identity", {**_FEW, "reduction": 2}], "ffn": ["identity", _MLP]},
            {"attention": ["identity", {**_FEW, "pooled": True}],
             "ffn": ["identity", {**_MLP, "rectified": True}]}]},
        {"width": [8, 16], "downsample": {"kind": "patch_downsample"}, "blocks": [
            {"attention": ["identity", _FEW]}]},
    ],
    "head": {"kind": "token_classifier", "distillation": False, "epsilon": 1e-6},
}  # fmt: skip

_patches = {"dim": [4, 8], "depth": [1, 2], "expansion": [1, 2]}
MOBILEVIT = {
    "name": "every_mobilevit_kind",
    "input_size": [24, 32],  # to maps of odd sides, which are interpolated, and of even ones
    "classes": 5,
    "stem": {"kind": "short_stem"},
    "stages": [
        {"width": [4, 8]},
        {"width": [8, 12], "downsample": {
            "kind": "inverted_downsample", "stride": 1, "expansion": [1, 2]},
         "blocks": [{"residual": ["identity", {
             "kind": "inverted_residual", "expansion": [1, 1.5]}]}]},
        {"width": [8, 12], "downsample": {"kind": "inverted_downsample", "expansion": 2}, "blocks": [
            {"mobilevit": ["identity", {"kind": "mobilevit_v2_block", **_patches}]},
            {"mobilevit": ["identity", {"kind": "mobilevit_v3_separable_block", **_patches}]}]},
        {"width": [8, 12], "downsample": {"kind": "inverted_downsample", "expansion": 2}, "blocks": [
            {"mobilevit": ["identity", {"kind": "mobilevit_v1_block", "heads": 2, **_patches}]},
            {"mobilevit": ["identity", {"kind": "mobilevit_v3_block", "heads": 2, **_patches}]}]},
    ],
    "head": {"kind": "conv_classifier", "features": [8, 12]},
}  # fmt: skip

SEPARABLE = {
    "name": "mobilevit_v2",
    "input_size": [16, 32],
    "classes": 5,
    "stem": {"kind": "short_stem"},
    "stages": [
        {"width": [4, 8]},
        {"width": [8, 12], "downsample": {"kind": "inverted_downsample", "expansion": 2}, "blocks": [
            {"mobilevit": ["identity", {"kind": "mobilevit_v2_block", **_patches}]}]},
    ],
    "head": {"kind": "mean_classifier"},
}  # fmt: skip

MIXERS = {
    "name": "mixers_of_all_families",
    "input_size": 32,
    "classes": 5,
    "stem": {"kind": "conv_stem"},
    "stages": [
        {"width": [8, 12], "blocks": [{
            "mixer": [
                "identity", {"kind": "pooling"}, {"kind": "separable_attention"},
                {"kind": "reduced_attention", "heads": [1, 2], "head_dim": [2, 4], "reduction": 2},
                {"kind": "cascaded_attention", "heads": 2, "key_dim": 4, "window": 8},
                {"kind": "attention4d", "heads": [1, 2, 3], "key_dim": 2, "value_dim": 3}],
            "ffn": [
                "identity", {"kind": "pointwise_ffn", "expansion": [1, 2]},
                {"kind": "token_ffn", "expansion": [1, 1.5]},
                {"kind": "conv_ffn", "expansion": [1, 2]}]}]},
    ],
    "head": {"kind": "mean_classifier"},
}  # fmt: skip

_ATTENTION = {"heads": [1, 2], "key_dim": [2, 4], "value_dim": [3, 5]}
_NORMED = {"kind": "levit_ffn", "expansion": [1, 1.5, 2]}
LEVIT = {
    "name": "every_levit_kind",
    "input_size": [24, 32],  # to maps of odd sides, which are rounded up, and of even ones
    "classes": 5,
    "stem": {"kind": "conv_stem", "activation": "hardswish"},
    "stages": [
        {"width": [8, 12], "blocks": [{
            "repeat": 2, "attention": ["identity", {"kind": "levit_attention", **_ATTENTION}],
            "ffn": ["identity", _NORMED]}]},
        {"width": [8, 16], "downsample": {"kind": "levit_downsample", **_ATTENTION},
         "blocks": [{"ffn": ["identity", _NORMED]}]},
        {"width": [12, 16], "downsample": {"kind": "levit_downsample", **_ATTENTION},
         "blocks": [{"attention": ["identity", {"kind": "levit_attention", **_ATTENTION}]}]},
    ],
    "head": {"kind": "levit_classifier"},
}  # fmt: skip

_wide = {"expansion": [1, 1.5, 2], "kernel": [3, 5]}
MOBILENET = {
    "name": "mobilenet",
    "input_size": [24, 32],
    "classes": 5,
    "stem": {"kind": "mobile_stem", "padding": "same", "epsilon": 1e-3},
    "stages": [
        {"width": [4, 8]},
        {"width": [8, 12], "downsample": {
            "kind": "separable_downsample", "stride": 1, "kernel": [3, 5]},
         "blocks": [{"separable": ["identity", {
             "kind": "separable_residual", "squeeze": [False, True]}]}]},
        {"width": [8, 12], "downsample": {"kind": "mobile_downsample", "padding": "same", **_wide},
         "blocks": [{"residual": ["identity", {"kind": "mobile_residual", **_wide}]}]},
    ],
    "head": {"kind": "mobile_classifier", "features": [8, 12], "epsilon": 1e-3},
}  # fmt: skip

GATED = {
    **MOBILENET,
    "name": "gated",
    "stem": {"kind": "mobile_stem", "activation": "hardswish"},
    "stages": [
        {"width": [4, 8]},
        {"width": [24, 40], "downsample": {"kind": "separable_downsample", "squeeze": True},
         "blocks": [{"residual": ["identity", {
             "kind": "mobile_residual", "squeeze": True, "activation": "relu", **_wide}]}]},
        {"width": [8, 12], "downsample": {
            "kind": "mobile_downsample", "squeeze": [False, True], "activation": "hardswish",
            **_wide}},
        {"width": [12, 24], "downsample": {"kind": "pointwise_conv"}},
    ],
    "head": {"kind": "pooled_first_classifier", "features": [8, 12]},
}  # fmt: skip

UNIVERSAL = {
    **MOBILENET,
    "name": "universal",
    "stem": {"kind": "mobile_stem", "activation": "relu"},
    "stages": [
        {"width": [4, 8]},
        {"width": [8, 12],
         "downsample": [{"kind": "fused_downsample", "expansion": [1, 2]},
                        {"kind": "edge_downsample", "expansion": [1, 2]}],
         "blocks": [{"residual": ["identity", {
             "kind": "universal_residual", "start_kernel": 3, **_wide}]}]},
        {"width": [8, 12], "downsample": {
            "kind": "universal_downsample", "start_kernel": 3, **_wide},
         "blocks": [{"residual": ["identity", {
             "kind": "universal_residual", "start_kernel": 5, "kernel": 0,
             "expansion": [1, 2]}]}]},
    ],
    "head": {"kind": "pooled_norm_classifier", "features": [8, 12]},
}  # fmt: skip

_KERNELS = {"expansion": 1, "kernel": [3, 5]}
FINER = {
    **MIXERS,
    "name": "finer_choices",
    "stages": [
        {"width": [8, 12], "blocks": [
            {"ffn": ["identity", {"kind": "conv_ffn", "activation": ["relu", "gelu"], **_KERNELS}]},
            {"ffn": ["identity", {"kind": "depthwise_ffn", **_KERNELS}]},
            {"attention": ["identity", {
                "kind": "attention4d", "stride": [2, 1], "heads": 2, "key_dim": 2,
                "value_dim": 2, "talking_heads": [False, True], "activation": "silu"}]}]},
        {"width": [8, 12],
         "downsample": [{"kind": "conv_downsample"},
                        {"kind": "inverted_downsample", **_KERNELS},
                        {"kind": "attention_downsample", "heads": 2, "key_dim": 2, "value_dim": 4}],
         "blocks": [
             {"ffn": ["identity", {"kind": "token_ffn", **_KERNELS}]},
             {"ffn": ["identity", {"kind": "inverted_residual", **_KERNELS}]}]},
    ],
}  # fmt: skip
NO_SIZES = ("activation", "stride", "talking_heads", "squeeze")
"""What an option may change without making a tensor smaller."""

SPACES = {
    each["name"]: SearchSpace.model_validate(each)
    for each in (
        *(SPACE, TOKENS, CASCADE, WINDOWS, REDUCED, MOBILEVIT, SEPARABLE, MIXERS, FINER),
        *(LEVIT, MOBILENET, GATED, UNIVERSAL),
    )
}


@pytest.fixture(params=SPACES)
def space(request):
    return SPACES[request.param]


@pytest.fixture
def supernet(space):
    return random_supernet(space)


def random_supernet(space):
    """The supernet of a space with random weights; the same object, fresh again, in each test."""
    supernet, state = _random_supernet(space)
    supernet.load_state_dict(state)
    supernet.zero_grad(set_to_none=True)
    return supernet.eval()


@cache
def _random_supernet(space):
    torch.manual_seed(0)
    supernet = Supernet(space).double()
    with torch.no_grad():
        for tensor in (*supernet.parameters(), *supernet.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.3, 1.0).mul_(torch.randint(0, 2, tensor.shape) * 2 - 1)
        for name, tensor in supernet.named_buffers():
            if "running_var" in name:
                tensor.abs_()
    return supernet, {name: tensor.clone() for name, tensor in supernet.state_dict().items()}


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.manual_seed(1))


def architectures(space, count=12):
    rng = np.random.default_rng(3)
    return [space.largest(), space.smallest(), *(space.sample(rng) for _ in range(count))]


def fitting(images, architecture):
    """The images' corner of the architecture's size."""
    _, height, width = architecture.input_shape
    return images[:, :, :height, :width]


def channels(layer, side):
    """The channels of the widest layer that ``layer`` keeps, written down kind by kind."""
    sizes = {"in": "in_channels", "out": "out_channels"}
    name = sizes[side] if hasattr(layer, sizes[side]) else "channels"
    return torch.arange(getattr(layer, name))


def head_channels(heads, dim, widest_dim):
    return torch.cat([torch.arange(dim) + head * widest_dim for head in range(heads)])


def kept_axes(layer, widest, shape, name):  # noqa: C901 - one case for each kind
    """For each axis of the widest layer's tensor the indices that stay, from the paper's text."""
    here, there = channels(layer, "in"), None
    leaf = name.split(".")[0]
    if hasattr(layer, "features"):
        features = torch.arange(layer.features)
        classes = torch.arange(layer.classes)
        return [classes, features] if leaf == "head" else [features, here]
    if layer.kind in ("classifier", "token_classifier", "pooled_classifier", "mean_classifier"):
        return [here] if leaf == "norm" else [torch.arange(layer.classes), here]
    if layer.kind == "levit_classifier":
        return [here] if ".norm." in name else [torch.arange(layer.classes), here]
    there = channels(layer, "out")
    if layer.kind == "conv_stem":
        half = torch.arange(layer.out_channels // 2)
        return {"conv1": [half, here], "conv2": [there, half]}[leaf]
    if layer.kind == "pooling":
        return [here]
    if layer.kind == "separable_attention":
        query = torch.arange(1) if name.startswith("attention.query") else here
        return [query, here]
    if layer.kind in ("metablock4d", "pointwise_ffn", "levit_ffn"):
        hidden = torch.arange(layer.hidden)
        return {"fc1": [hidden, here], "fc2": [there, hidden], "scale": [here], "mixer": [here]}[
            leaf
        ]
    if layer.kind in ("patch_stem", "patch_downsample"):
        return {"conv": [there, here], "norm": [there], "norm_before": [here]}[leaf]
    if layer.kind == "token_ffn":
        hidden = torch.arange(layer.hidden)
        return {"norm": [here], "fc1": [hidden, here], "mid": [hidden], "fc2": [here, hidden]}[leaf]
    if layer.kind == "reduced_attention":
        inner = head_channels(layer.heads, layer.head_dim, widest.head_dim)
        return {
            "q": [inner, here], "k": [inner, here], "v": [inner, here], "proj": [here, inner],
            "reduce": [here, here], "norm": [here], "norm_reduced": [here],
        }[leaf]  # fmt: skip
    if layer.kind == "deep_conv_stem":
        widths = [here, *(torch.arange(layer.out_channels // share) for share in (8, 4, 2, 1))]
        step = int(leaf.removeprefix("conv"))
        return [widths[step], widths[step - 1]]
    if layer.kind == "depthwise_ffn":
        hidden = torch.arange(layer.hidden)
        return {"depthwise": [here], "fc1": [hidden, here], "fc2": [here, hidden]}[leaf]
    if layer.kind == "patch_merging":
        hidden = torch.arange(layer.hidden)
        return {
            "conv1": [hidden, here], "conv2": [hidden], "conv3": [there, hidden],
            "squeeze": [here, hidden], "excite": [hidden, here],
        }[leaf]  # fmt: skip
    if layer.kind == "cascaded_attention":
        share, widest_share = layer.channels // layer.heads, widest.channels // layer.heads
        keys, values = torch.arange(layer.key_dim), torch.arange(share)
        if leaf != "heads":
            columns = head_channels(layer.heads, share, widest_share)
            return {"bias": [torch.arange(layer.heads)], "proj": [here, columns]}[leaf]
        return {
            "q": [keys, values], "q_local": [keys], "k": [keys, values], "v": [values, values],
        }[name.split(".")[2]]  # fmt: skip
    if layer.kind == "conv_ffn":
        hidden = torch.arange(layer.hidden)
        return {"fc1": [hidden, here], "mid": [hidden], "fc2": [there, hidden], "scale": [here]}[
            leaf
        ]
    if layer.kind == "conv_downsample":
        return [there, here]
    if layer.kind in ("short_stem", "mobile_stem", "pointwise_conv"):
        return [there, here]
    if layer.kind in ("fused_downsample", "edge_downsample"):
        hidden = torch.arange(layer.hidden)
        return {
            "spread": [hidden, here], "mix": [there, hidden],
            "expand": [hidden, here], "project": [there, hidden],
        }[leaf]  # fmt: skip
    if layer.kind.startswith("universal_"):
        hidden = torch.arange(layer.hidden)
        return {
            "start": [here], "enter": [hidden, here], "middle": [hidden], "leave": [there, hidden],
        }[leaf]  # fmt: skip
    if layer.kind.startswith(("separable_", "mobile_")):
        hidden = torch.arange(getattr(layer, "hidden", len(here)))
        if leaf == "gate":
            squeezed = torch.arange(layer.squeezed)
            gates = {"squeeze": [squeezed, hidden], "excite": [hidden, squeezed]}
            return gates[name.split(".")[1]]
        return {
            "depthwise": [here], "pointwise": [there, here],
            "fc1": [hidden, here], "mid": [hidden], "fc2": [there, hidden],
        }[leaf]  # fmt: skip
    if layer.kind in ("inverted_residual", "inverted_downsample"):
        hidden = torch.arange(layer.hidden)
        return {"fc1": [hidden, here], "mid": [hidden], "fc2": [there, hidden]}[leaf]
    if hasattr(layer, "dim"):
        return mobilevit_axes(layer, widest, name)
    keys = head_channels(layer.heads, layer.key_dim, widest.key_dim)
    values = head_channels(layer.heads, layer.value_dim, widest.value_dim)
    heads = torch.arange(layer.heads)
    if layer.kind == "metablock3d":
        hidden = torch.arange(layer.hidden)
        rows, columns = (torch.arange(side) for side in shape[1:])
        return {
            "norm1": [here],
            "norm2": [here],
            "scale1": [here],
            "scale2": [here],
            "fc1": [hidden, here],
            "fc2": [here, hidden],
            "attention.q": [keys, here],
            "attention.k": [keys, here],
            "attention.v": [values, here],
            "attention.proj": [here, values],
            "attention.bias": [heads, rows, columns],
        }[".".join(name.split(".")[: 1 + name.startswith("attention")])]
    return {
        "q": [keys, here], "k": [keys, here], "v": [values, here], "v_local": [values],
        "proj": [there, values], "bias": [heads], "talking_head1": [heads, heads],
        "talking_head2": [heads, heads], "scale": [there], "stride_conv": [here],
        "q_local": [here], "conv": [there, here],
    }[leaf]  # fmt: skip


def mobilevit_axes(layer, widest, name):
    here, dim, hidden = (torch.arange(it) for it in (layer.channels, layer.dim, layer.hidden))
    parts = {"first": dim, "second": here if layer.kind == "mobilevit_v3_block" else dim}
    if layer.kind == "mobilevit_v1_block":
        parts = {"first": here, "second": here}
    *path, leaf = name.removeprefix("transformer.").split(".")[:-1]
    if path[:1] == ["layers"]:
        if int(path[1]) >= layer.depth:  # adds nothing to its input
            return [torch.arange(0)] * 2
        heads = dim
        if hasattr(layer, "heads"):
            count = layer.heads
            heads = head_channels(count, layer.dim // count, widest.dim // count)
        return {
            "norm1": [dim], "norm2": [dim], "fc1": [hidden, dim], "fc2": [dim, hidden],
            "q": [heads, dim], "k": [heads, dim], "v": [heads, dim], "proj": [dim, heads],
            "query": [torch.arange(1), dim], "key": [dim, dim], "value": [dim, dim],
            "out": [dim, dim],
        }[leaf]  # fmt: skip
    if name.startswith("transformer.norm"):
        return [dim]
    if leaf in parts:
        return [here, parts[leaf]]
    local = [here, here] if layer.kind == "mobilevit_v1_block" else [here]
    return {
        "local": local, "enter": [dim, here], "leave": [here, dim], "fusion": [here],
    }[(path or [leaf])[0]]  # fmt: skip


def stored(supernet, layer, name, width=None):
    """The supernet's own tensor, addressed without its cropping code."""
    key = f"{layer.slot}:{layer.kind}:{name}".replace(".", "/")
    return getattr(supernet, key if width is None else f"{key}@{width}").detach()


def masked_module(supernet, layer, widest, shape):
    """The module of the widest channels with zeros wherever ``layer`` has no channel."""
    module = make_module(widest, shape).double().eval()
    state = {}
    for name, tensor in module.state_dict().items():
        axes = kept_axes(layer, widest, shape, name)
        if any(part.startswith("norm") for part in name.split(".")):
            state[name] = torch.ones_like(tensor) if "running_var" in name else tensor * 0
            if tensor.dim() and len(axes[0]):
                state[name][axes[0]] = stored(supernet, layer, name, len(axes[0]))
        else:
            mask = torch.zeros_like(tensor)
            mask[torch.meshgrid(*axes[: tensor.dim()], indexing="ij")] = 1
            if tensor.shape[2:] == (5, 5) and getattr(layer, "kernel", 5) == 3:
                mask *= torch.tensor([0, 1, 1, 1, 0]) * torch.tensor([[0], [1], [1], [1], [0]])
            whole = stored(supernet, layer, name)  # of the largest map
            state[name] = whole[tuple(slice(side) for side in tensor.shape)] * mask
    for name, ratio in query_scales(layer, widest, state):
        state[name] *= ratio**0.5
    module.load_state_dict(state)
    for name, norm in module.named_modules():
        if isinstance(norm, torch.nn.LayerNorm):
            width = getattr(layer, "dim", None)
            width = width or len(kept_axes(layer, widest, shape, f"{name}.weight")[0])
            norm.forward = partial(masked_layer_norm, norm, width)
        if isinstance(norm, torch.nn.GroupNorm):
            width = getattr(layer, "dim", None) or layer.channels
            norm.forward = partial(masked_image_norm, norm, width)
    return module


def query_scales(layer, widest, names):
    """The tensors of queries: the widest layer divides by the root of its own head's dimension."""
    if hasattr(layer, "key_dim"):
        paths = {
            "metablock3d": ["attention.q"],
            "cascaded_attention": [f"heads.{head}.q_local.norm" for head in range(layer.heads)],
        }.get(layer.kind, ["q.norm"])
        for path, leaf in itertools.product(paths, ("weight", "bias")):
            yield f"{path}.{leaf}", widest.key_dim / layer.key_dim
    elif layer.kind == "reduced_attention":
        yield from ((f"q.{leaf}", widest.head_dim / layer.head_dim) for leaf in ("weight", "bias"))
    elif hasattr(layer, "dim") and hasattr(layer, "heads"):
        yield from ((name, widest.dim / layer.dim) for name in names if ".attention.q." in name)


def masked_layer_norm(norm, width, x):
    """Mean and variance over the first ``width`` channels; all others stay zero."""
    mean = x.sum(-1, keepdim=True) / width
    difference = (x - mean) * (torch.arange(x.shape[-1]) < width)
    variance = difference.square().sum(-1, keepdim=True) / width
    return difference / (variance + norm.eps).sqrt() * norm.weight + norm.bias


def masked_image_norm(norm, width, x):
    """Mean and variance over the first ``width`` channels of all tokens; others stay zero."""
    count = x[0, ..., 0].numel() * width
    mean = x.sum((1, 2, 3), keepdim=True) / count
    difference = (x - mean) * (torch.arange(x.shape[-1]) < width)
    variance = difference.square().sum((1, 2, 3), keepdim=True) / count
    return difference / (variance + norm.eps).sqrt() * norm.weight + norm.bias


def test_the_spaces_of_these_tests_hold_every_kind():
    kinds = {layer.kind for space in SPACES.values() for layer in space.layers().values()}
    assert kinds == set(LAYERS)


def test_subnet_equals_masked_supernet(space, supernet, images):
    widest = {
        (slot.name, layer.kind): (layer, shape[0])
        for slot in space.slots
        for layer, shape in space.variants(slot)  # the widest of a kind comes last
        if layer is not None
    }
    for architecture in architectures(space):
        x = fitting(images, architecture)
        for layer, shape in architecture.placed():
            wide_layer, width = widest[layer.slot, layer.kind]
            same = {name: getattr(layer, name) for name in NO_SIZES if hasattr(layer, name)}
            wide_layer = wide_layer.model_copy(update=same)
            wide_shape = (width, *shape[1:])
            padded = torch.zeros(2, *wide_shape, dtype=torch.float64)
            padded[:, : x.shape[1]] = x
            y = masked_module(supernet, layer, wide_layer, wide_shape)(padded)
            made = layer.output_shape(shape)[0]
            assert torch.count_nonzero(y[:, made:]) == 0, layer
            x = y[:, :made]
        with torch.no_grad():
            expected = supernet(fitting(images, architecture), architecture)
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-9)


@cache
def numbered_supernet(name):
    """A supernet in which each weight is its own number."""
    supernet = Supernet(SPACES[name])
    with torch.no_grad():
        for tensor in supernet.parameters():
            tensor.copy_(torch.arange(tensor.numel(), dtype=torch.float32).view(tensor.shape))
    return supernet


@pytest.mark.parametrize(
    ("name", "choice"),
    [
        pytest.param(name, choice, id=f"{name}-{choice.name}")
        for name in SPACES
        for choice in SPACES[name].typed_choices
    ],
)
def test_crops_of_a_cheaper_option_lie_within_those_of_a_more_expensive_one(name, choice):
    space, supernet = SPACES[name], numbered_supernet(name)
    position = space.typed_choices.index(choice)
    chain = []
    for option in range(space.sizes[position]):
        assignment = with_a_kind_of(space, choice)
        assignment[position] = option
        network = supernet.extract(space.decode(assignment))
        chain.append(
            {
                name: set(parameter.detach().flatten().tolist())
                for name, parameter in network.named_parameters()
                if not any(part.startswith("norm") for part in name.split("."))
            }
        )
    # each kind has its own tensors, so each is compared with leaving the slot out
    pairs = list(pairwise(chain))
    if choice.role == "kind":
        pairs = [(chain[0], other) for other in chain[1:]] if choice.is_optional else []
    if choice.field == "stride":  # a strided attention has a convolution of its own
        for one in chain:
            one.pop(f"{choice.slot}.stride_conv.conv.weight", None)
            one.pop(f"{choice.slot}.stride_conv.conv.bias", None)
    for smaller, larger in pairs:
        assert smaller.keys() <= larger.keys()
        assert all(smaller[name] <= larger[name] for name in smaller)
        # only relative biases depend on the input size, nothing on the activation
        assert smaller != larger or choice.role == "input_size" or choice.field == "activation"


def with_a_kind_of(space, choice):
    """The largest assignment in which the slot of a choice is of a kind that the choice is for."""
    assignment = [size - 1 for size in space.sizes]
    for slot in space.slots:
        for index, spec in enumerate(slot.candidates):
            if slot.is_path_choice and choice.is_field_of(slot, spec):
                assignment[space.kind_choices[slot.name]] = index
    return assignment


def test_a_smaller_size_has_the_attention_biases_of_the_same_pixels():
    supernet = random_supernet(SPACES["every_v2_kind"])
    large = supernet.space.largest()
    networks = [supernet.extract(large.with_input_size(pixels)) for pixels in (32, 16)]
    found = [
        {name: it for name, it in network.named_modules() if isinstance(it, RelativeBias)}
        for network in networks
    ]
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) == 3
    for name, wide in found[0].items():
        maps = []
        for bias in (wide, found[1][name]):
            side = bias.biases.shape[-1]
            queries = -(-side // bias.stride)
            maps.append(bias().reshape(-1, queries, queries, side, side))
        corner = tuple(slice(side) for side in maps[1].shape)
        assert maps[1].shape != maps[0].shape
        assert torch.equal(maps[0][corner], maps[1])


@pytest.mark.parametrize(("name", "has_biases"), [("every_v2_kind", True), ("reduced", False)])
def test_resolutions_add_attention_biases_and_change_nothing_else(name, has_biases, images):
    space = SPACES[name]
    supernet, plain = Supernet(space, (48, 64)).double().eval(), random_supernet(space)
    assert supernet.resolutions == (*space.input_sizes, 48, 64)
    wide, own = supernet.state_dict(), plain.state_dict()
    assert wide.keys() == own.keys()
    larger = {key for key in own if wide[key].shape != own[key].shape}
    assert larger == {key for key in own if key.endswith("biases")}
    assert bool(larger) == has_biases
    for key, tensor in own.items():  # the rest of the biases stays zero
        wide[key][tuple(slice(side) for side in tensor.shape)] = tensor
    supernet.load_state_dict(wide)
    for architecture in architectures(space, 3):
        some = fitting(images, architecture)
        with torch.no_grad():
            assert torch.equal(supernet(some, architecture), plain(some, architecture))
    sized = space.largest().with_input_size(64)
    with torch.no_grad():
        logits = supernet(torch.ones(2, 3, 64, 64, dtype=torch.float64), sized)
    assert logits.shape == (2, 5)
    if has_biases:
        with pytest.raises(ValueError, match=r"a corner of .* does not fit"):
            plain(torch.ones(2, 3, 64, 64, dtype=torch.float64), sized)


def test_extracted_network_equals_supernet(space, supernet, images):
    for architecture in architectures(space):
        network = supernet.extract(architecture)
        with torch.no_grad():
            x = fitting(images, architecture)
            assert torch.equal(network(x), supernet(x, architecture))
        assert not network.training
        shared = {tensor.data_ptr() for tensor in supernet.parameters()}
        assert not shared & {tensor.data_ptr() for tensor in network.parameters()}


def test_modules_of_its_layers_compute_what_the_supernet_does_on_its_own_weights(
    space, supernet, images
):
    weights = {it.untyped_storage().data_ptr() for it in supernet.parameters()}
    buffers = {it.untyped_storage().data_ptr() for it in supernet.buffers()}
    for architecture in architectures(space):
        x = inputs = fitting(images, architecture)
        for layer, shape in architecture.placed():
            module = supernet.module_of(layer, shape)
            assert not module.training
            assert not any(it.requires_grad for it in module.parameters())
            assert not {it.untyped_storage().data_ptr() for it in module.buffers()} & buffers
            x = module(x)
        assert torch.equal(x, supernet(inputs, architecture))
        convolution = supernet.module_of(*next(iter(architecture.placed())))
        assert {it.untyped_storage().data_ptr() for it in convolution.parameters()} <= weights


def test_shared_norms_are_leading_channels_of_one(images):
    space = SearchSpace.model_validate(SPACE | {"norms": "shared"})
    supernet = Supernet(space).double().train()
    names = [name for name in supernet.state_dict() if "norm" in name]
    assert names
    assert not any("@" in name for name in names)
    (name,) = (it for it in names if it.startswith("stem") and it.endswith("conv2/norm/weight"))
    for architecture in architectures(space, count=3):
        extracted = supernet.extract(architecture)
        some = fitting(images, architecture)
        torch.testing.assert_close(supernet(some, architecture), extracted(some), rtol=0, atol=0)
        mean = extracted.get_submodule("stem.conv2.norm").running_mean
        torch.testing.assert_close(
            supernet.state_dict()[name.replace("weight", "running_mean")][: len(mean)], mean
        )


def test_gradients_and_statistics_equal_the_extracted_networks(space, supernet, images):
    gradients = Supernet(space).double()
    supernet.train()
    for architecture in architectures(space, 4):
        network = supernet.extract(architecture)
        for model, call in ((network, network), (supernet, lambda x: supernet(x, architecture))):  # noqa: B023
            model.zero_grad(set_to_none=True)
            call(fitting(images, architecture)).square().sum().backward()
        total = sum(p.grad.square().sum() for p in supernet.parameters() if p.grad is not None)
        expected = sum(p.grad.square().sum() for p in network.parameters())
        torch.testing.assert_close(total, expected, rtol=1e-10, atol=0)
        # a step along the gradient moves the extracted copy where it moves the network itself
        moved = supernet.extract(architecture)
        with torch.no_grad():  # the supernet's gradients, extracted like weights
            for name, parameter in gradients.named_parameters():
                found = supernet.get_parameter(name).grad
                parameter.copy_(torch.zeros_like(parameter) if found is None else found)
        for gradient, parameter in zip(
            gradients.extract(architecture).parameters(), network.parameters(), strict=True
        ):
            torch.testing.assert_close(gradient.detach(), parameter.grad, rtol=1e-9, atol=1e-12)
        for name, buffer in network.named_buffers():
            torch.testing.assert_close(moved.get_buffer(name), buffer, rtol=1e-12, atol=0)


def test_unused_weights_get_no_gradient(space, supernet, images):
    smallest = space.smallest()
    supernet.train()(fitting(images, smallest), smallest).sum().backward()
    dropped = [n for n, p in supernet.named_parameters() if "block" in n and p.grad is not None]
    assert dropped == []


def test_plain_layers_live_on_meta_and_hold_no_weights(space, supernet, images):
    largest = space.largest()
    supernet(images, largest)
    for module in supernet.plain_modules(largest).values():
        assert all(tensor.is_meta for tensor in module.state_dict().values())


def with_first_stage(**changes):
    return SearchSpace.model_validate(
        {**SPACE, "stages": [{**SPACE["stages"][0], **changes}, *SPACE["stages"][1:]]}
    )


def test_a_crop_that_does_not_fit_names_layer_and_both_sizes(images):
    supernet = random_supernet(SPACES["every_v2_kind"])
    stranger = with_first_stage(width=[64, 128]).largest()
    message = r"stem\.conv1\.conv\.weight: a corner of \(64, 3, 3, 3\) .* supernet's \(6, 3, 3, 3\)"
    with pytest.raises(ValueError, match=message):
        supernet(images, stranger)


def test_what_no_corner_of_the_weights_can_be_is_no_choice():
    attention = {"kind": "cascaded_attention", "heads": 3, "kernels": ["3", "5"]}
    with pytest.raises(ValueError, match=r"kernels\n  Input should be a valid string"):
        with_first_stage(blocks=[{"attention": attention}])


def test_a_width_that_the_heads_do_not_divide_is_refused():
    attention = {"kind": "cascaded_attention", "heads": 3}
    message = r"stage1\.block1\.attention: the width must be a multiple of 3 \(heads\), got 8"
    with pytest.raises(ValueError, match=message):
        with_first_stage(blocks=[{"attention": attention}])


def test_a_layer_between_the_options_of_the_space_is_refused(images):
    supernet = random_supernet(SPACES["every_v2_kind"])
    between = with_first_stage(blocks=[{"ffn": {"kind": "conv_ffn", "expansion": 1.25}}]).largest()
    with pytest.raises(ValueError, match=r"conv_ffn channels=12 expansion=1.25 is not in every_v2"):
        supernet(images, between)


def test_supernet_can_be_pickled_and_keeps_its_weights(space, supernet, images, tmp_path):
    torch.save(supernet.state_dict(), tmp_path / "weights.pt")
    other = Supernet(space).double().eval()
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    with torch.no_grad():
        largest = space.largest()
        assert torch.equal(other(images, largest), supernet(images, largest))


def test_every_parameter_of_a_network_gets_a_gradient(space, images):
    network = build(space.largest()).double().train()
    network(images).square().sum().backward()
    # keys shift all scores of a query alike, so their bias has no effect on the softmax
    missing = [n for n, p in network.named_parameters() if p.grad is None]
    assert missing == []


def test_specs_cover_every_layer_kind():
    assert set(SPECS) == {*LAYERS, "identity"}


def weighted(space, seed=0):
    rng = np.random.default_rng(seed)
    return {
        slot: torch.from_numpy(rng.dirichlet(np.ones(len(candidates)))).requires_grad_()
        for slot, candidates in space.paths.items()
    }


def with_kind(space, slot, option):
    """The largest architecture, but for the kind of one slot."""
    assignment = [size - 1 for size in space.sizes]
    assignment[space.kind_choices[slot]] = option
    return space.decode(assignment)


def mixed_by_hand(space, supernet, images, weights):
    """The mixture from modules of extracted networks, one slot after the other."""
    x = images
    largest = supernet.extract(space.largest())
    for slot in (slot.name for slot in space.slots):
        if slot not in weights:
            x = largest.get_submodule(slot)(x)
            continue
        outputs = []
        for option, kind in enumerate(space.typed_choices[space.kind_choices[slot]].options):
            network = supernet.extract(with_kind(space, slot, option))
            outputs.append(x if kind == "identity" else network.get_submodule(slot)(x))
        x = torch.einsum("k,k...->...", weights[slot], torch.stack(outputs))
    return x


def test_mixture_is_the_weighted_sum_of_candidates_computed_by_hand(space, supernet, images):
    weights = weighted(space)
    assert weights.keys() == space.kind_choices.keys()
    expected = mixed_by_hand(space, supernet, images, weights)
    torch.testing.assert_close(supernet.mixture(images, weights), expected, rtol=1e-12, atol=1e-12)


TWO_KINDS = {
    **SPACE,
    "name": "two_kinds",
    "input_size": 32,
    "stages": [
        {"width": [8, 12], "blocks": [{"mixer": [
            "identity",
            {"kind": "conv_ffn", "expansion": [1, 2]},
            {"kind": "attention4d", "stride": 2, "heads": 2, "key_dim": 4, "value_dim": [3, 4]}]}]},
        {"width": [16, 24],
         "downsample": [{"kind": "conv_downsample"},
                        {"kind": "attention_downsample", "heads": 2, "key_dim": 2, "value_dim": 4}],
         "blocks": [{"ffn": {"kind": "conv_ffn", "expansion": 2}}]},
    ],
}  # fmt: skip


def test_slots_of_several_kinds_mix_them_all(images):
    space = SearchSpace.model_validate(TWO_KINDS)
    torch.manual_seed(0)
    supernet = Supernet(space).double().eval()
    weights = weighted(space)
    x = images
    networks = [
        supernet.extract(space.decode([*[size - 1 for size in space.sizes[:1]], *rest]))
        for rest in ([1, 1, 1, 1, 0], [2, 1, 1, 1, 1])
    ]  # the second takes the more expensive kind of both slots
    assert list(space.choices) == [
        "stage1.width", "stage1.block1.mixer.kind", "stage1.block1.mixer.expansion",
        "stage1.block1.mixer.value_dim", "stage2.width", "stage2.downsample.kind",
    ]  # fmt: skip
    for slot in networks[0].slots:
        outputs = [network.get_submodule(slot)(x) for network in networks]
        if slot == "stage1.block1.mixer":
            x = torch.einsum("k,k...->...", weights[slot], torch.stack([x, *outputs]))
        elif slot == "stage2.downsample":
            x = torch.einsum("k,k...->...", weights[slot], torch.stack(outputs))
        else:
            assert torch.equal(*outputs)
            x = outputs[0]
    torch.testing.assert_close(supernet.mixture(images, weights), x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("option", [0, 1, 2])
def test_mixture_of_one_candidate_is_that_path(space, supernet, images, option):
    assignment = [size - 1 for size in space.sizes]
    for index in space.kind_choices.values():
        assignment[index] = min(option, assignment[index])
    weights = {
        slot: torch.eye(space.sizes[index], dtype=torch.float64)[assignment[index]]
        for slot, index in space.kind_choices.items()
    }
    with torch.no_grad():
        expected = supernet(images, space.decode(assignment))
        found = supernet.mixture(images, weights)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_mixture_teaches_the_path_weights_and_nothing_else(space, supernet, images):
    weights = weighted(space)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    supernet.train().mixture(images, weights).square().sum().backward()
    for slot, one in weights.items():
        assert torch.count_nonzero(one.grad) == len(one), slot
    assert all(parameter.grad is None for parameter in supernet.parameters())
    # not even norms in training remember what they saw
    assert all(tensor.equal(before[name]) for name, tensor in supernet.state_dict().items())


def test_mixture_normalises_by_its_own_batch_in_training(space, supernet, images):
    weights = weighted(space)
    expected = mixed_by_hand(space, supernet.train(), images, weights)
    torch.testing.assert_close(supernet.mixture(images, weights), expected, rtol=1e-9, atol=1e-9)


def test_path_logits_start_uniform_and_are_part_of_the_state(space):
    supernet = Supernet(space)
    assert list(supernet.path_logits) == list(space.paths)
    assert all(torch.count_nonzero(logits) == 0 for logits in supernet.path_logits.values())
    names = {f"{slot.replace('.', '/')}:path_logits" for slot in space.paths}
    assert names <= supernet.state_dict().keys()


@pytest.mark.parametrize("space", [SPACE, TOKENS], ids=lambda it: it["name"])
def test_absorb_is_the_inverse_of_extract(space, randomized):
    space = SearchSpace.model_validate(space)
    first, second = Supernet(space), Supernet(space)
    randomized(first)
    for network in (space.largest(), space.smallest()):
        second.absorb(first.extract(network), network)
        expected, found = first.extract(network).state_dict(), second.extract(network).state_dict()
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), name


def test_private_norms_of_narrower_widths_begin_as_slices_of_what_is_absorbed(randomized):
    space = SearchSpace.model_validate(SPACE)
    supernet = Supernet(space)
    network = randomized(build(space.largest()))
    supernet.absorb(network, space.largest())
    narrow = supernet.extract(space.smallest()).get_submodule("stem")
    for name, tensor in network.get_submodule("stem").state_dict().items():
        part = narrow.state_dict()[name]
        if "norm" in name and tensor.dim():
            assert torch.equal(part, tensor[: len(part)])
