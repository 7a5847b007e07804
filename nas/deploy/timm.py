"""Weights named as timm names them, into our networks (timm: Wightman, Apache-2.0)."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import nn

from nas.architecture import Architecture
from nas.deploy import timm_efficientvit
from nas.errors import UserError
from nas.layers import (
    DeepConvStem,
    Layer,
    MetaBlock3D,
    PatchStem,
    ReducedAttention,
    ShortStem,
    TokenClassifier,
)

Rules = tuple[tuple[str, str], ...]

_HEAD = (r"^head\.(norm|head|head_dist)\.", r"\1.")

_EFFICIENTFORMER_V1: Rules = (
    (r"^stem\.conv(\d)\.(conv|norm)\.", r"stem.\2\1."),
    (r"^stage(\d+)\.downsample\.", r"stages.\1.downsample."),
    (r"^stage(\d+)\.block(\d+)\.metablock\.", r"stages.\1.blocks.\2."),
    (r"\.mixer\.scale\.", r".ls1."),
    (r"\.scale\.", r".ls2."),
    (r"\.scale(\d)\.", r".ls\1."),
    (r"\.fc(\d)\.(conv\.)?", r".mlp.fc\1."),
    (r"\.mlp\.fc(\d)\.norm\.", r".mlp.norm\1."),
    (r"\.attention\.bias\.biases$", r".token_mixer.attention_biases"),
    (r"\.attention\.[qkv]\.", r".token_mixer.qkv."),
    (r"\.attention\.proj\.", r".token_mixer.proj."),
    _HEAD,
)

_EFFICIENTFORMER_V2: Rules = (
    (r"^stage(\d+)\.downsample\.conv\.(conv|norm)\.", r"stages.\1.downsample.conv.\2."),
    (r"^stage(\d+)\.downsample\.(conv|norm)\.", r"stages.\1.downsample.conv.\2."),
    (r"^stage(\d+)\.downsample\.bias\.biases", r"stages.\1.downsample.attn.attention_biases"),
    (r"^stage(\d+)\.downsample\.q_local", r"stages.\1.downsample.attn.q.local"),
    (r"^stage(\d+)\.downsample\.q\.", r"stages.\1.downsample.attn.q.proj."),
    (r"^stage(\d+)\.downsample\.(k|v|v_local|proj)\.", r"stages.\1.downsample.attn.\2."),
    (r"^stage(\d+)\.block(\d+)\.ffn\.scale", r"stages.\1.blocks.\2.ls2"),
    (r"^stage(\d+)\.block(\d+)\.ffn\.", r"stages.\1.blocks.\2.mlp."),
    (r"^stage(\d+)\.block(\d+)\.attention\.scale", r"stages.\1.blocks.\2.ls1"),
    (
        r"^stage(\d+)\.block(\d+)\.attention\.bias\.biases",
        r"stages.\1.blocks.\2.token_mixer.attention_biases",
    ),
    (r"^stage(\d+)\.block(\d+)\.attention\.", r"stages.\1.blocks.\2.token_mixer."),
    _HEAD,
    (r"(?<=\.)norm\.(?=[a-z_]+$)", r"bn."),  # timm's name of a norm behind a convolution
)

_PVT_V2: Rules = (
    (r"^stem\.conv\.", r"patch_embed.proj."),
    (r"^stem\.", r"patch_embed."),
    (r"^head\.norm\.", r"stages.3.norm."),
    (r"^head\.head\.", r"head."),
    (r"^stage2\.downsample\.norm_before\.", r"stages.0.norm."),
    (r"^stage3\.downsample\.norm_before\.", r"stages.1.norm."),
    (r"^stage4\.downsample\.norm_before\.", r"stages.2.norm."),
    (r"^stage(\d+)\.downsample\.conv\.", r"stages.\1.downsample.proj."),
    (r"^stage(\d+)\.downsample\.", r"stages.\1.downsample."),
    (r"^stage(\d+)\.block(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.attention\.norm\.", r".norm1."),
    (r"\.ffn\.norm\.", r".norm2."),
    (r"\.attention\.[kv]\.", r".attn.kv."),
    (r"\.attention\.reduce\.", r".attn.sr."),
    (r"\.attention\.norm_reduced\.", r".attn.norm."),
    (r"\.attention\.", r".attn."),
    (r"\.ffn\.mid\.", r".mlp.dwconv."),
    (r"\.ffn\.", r".mlp."),
)

_MOBILEVIT: Rules = (
    (r"^stage(\d+)\.downsample\.", r"stage\1.0."),
    (r"^stage(\d+)\.block(\d+)\.[a-z0-9_]+\.", r"stage\1.\2."),
    (r"\.fc1\.(conv|norm)\.", r".conv1_1x1.\1."),
    (r"\.mid\.", r".conv2_kxk."),
    (r"\.fc2\.(conv|norm)\.", r".conv3_1x1.\1."),
    (r"\.local\.", r".conv_kxk."),
    (r"\.enter\.", r".conv_1x1."),
    (r"\.leave\.", r".conv_proj."),
    (r"\.fusion\.", r".conv_fusion."),
    (r"\.(first|second)\.", r".conv."),
    (r"\.transformer\.layers\.", r".transformer."),
    (r"\.transformer\.norm\.", r".norm."),
    (r"\.attention\.[qkv]\.", r".attn.qkv."),
    (r"\.attention\.proj\.", r".attn.proj."),
    (r"\.attention\.(query|key|value)\.", r".attn.qkv_proj."),
    (r"\.attention\.out\.", r".attn.out_proj."),
    (r"\.fc(\d)\.(weight|bias)$", r".mlp.fc\1.\2"),
    (r"^head\.conv\.", r"final_conv."),
    (r"^head\.head\.", r"head.fc."),
    (r"^stem\.conv\.", r"stem."),
    (r"(stem|conv\w*)\.norm\.", r"\1.bn."),
)


def load_timm_state_dict(
    network: nn.Module, architecture: Architecture, state_dict: Mapping[str, torch.Tensor]
) -> None:
    """Load weights named as timm names them into ``build(architecture)``, in place.

    timm's integer index buffers may be there or not.

    Raises:
        UserError: a tensor is missing, left over, or of another shape; the message names the first.
    """
    given = {key: tensor for key, tensor in state_dict.items() if not _is_index(key)}
    names = _timm_names(architecture, network)
    layers = {layer.slot: layer for layer in architecture.layers}
    orders = timm_efficientvit.channel_orders(architecture)
    parts = {}
    owns = network.state_dict()
    for name, own in owns.items():
        key = names[name]
        if key not in given:
            raise _mismatch(architecture, f"'{key}' is missing (our '{name}')")
        if _is_mobilevit(architecture):
            siblings = {other: owns[other] for other, its in names.items() if its == key}
            part = _segment(name, given[key], siblings)
        else:
            part = _part(name, given[key], layers)
            part = timm_efficientvit.own_part(name, part, layers)
        if part.numel() != own.numel() or not _same_layout(part, own):
            raise _mismatch(
                architecture,
                f"'{key}' is {tuple(given[key].shape)}, ours takes {tuple(own.shape)}",
            )
        parts[name] = timm_efficientvit.reordered(name, part.reshape(own.shape), orders)
    for key in given:
        if key not in names.values():
            raise _mismatch(architecture, f"'{key}' has no place in it")
    network.load_state_dict(parts)


def _timm_names(architecture: Architecture, network: nn.Module) -> dict[str, str]:
    """The name in timm of each of our tensors; several of ours may be parts of one there."""
    if _is_mobilevit(architecture):
        return {name: _mobilevit_name(name) for name in network.state_dict()}
    rules = _rules(architecture)
    turns = _turns(architecture)

    def count_from_zero(found: re.Match[str]) -> str:
        stage, block = int(found[1]), int(found[2])
        index = block - 1 + (block >= turns.get(stage, block + 1))
        if rules is timm_efficientvit.RULES and stage > 1:
            index -= 1  # our first block is a part of timm's downsampling
        return f"stages.{stage - 1}.blocks.{index}."

    names = {}
    for name in network.state_dict():
        key = name
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        key = re.sub(r"^stages\.(\d+)\.blocks\.(\d+)\.", count_from_zero, key)
        names[name] = re.sub(
            r"^stages\.(\d+)\.d", lambda found: f"stages.{int(found[1]) - 1}.d", key
        )
    return names


def _rules(architecture: Architecture) -> Rules:
    first, last = architecture.layers[0], architecture.layers[-1]
    if isinstance(first, DeepConvStem):
        return timm_efficientvit.RULES
    if isinstance(first, PatchStem):
        return _PVT_V2
    return _EFFICIENTFORMER_V1 if isinstance(last, TokenClassifier) else _EFFICIENTFORMER_V2


def _is_mobilevit(architecture: Architecture) -> bool:
    return isinstance(architecture.layers[0], ShortStem)


def _mobilevit_name(name: str) -> str:
    for pattern, replacement in _MOBILEVIT:
        name = re.sub(pattern, replacement, name)
    # timm counts stages from that behind the stem, which is the second here
    return re.sub(r"^stage(\d+)\.", lambda found: f"stages.{int(found[1]) - 2}.", name)


def _turns(architecture: Architecture) -> dict[int, int]:
    """For each stage its first block of tokens; timm counts the change to tokens as a block."""
    turns: dict[int, int] = {}
    for layer in architecture.layers:
        found = re.match(r"stage(\d+)\.block(\d+)\.", layer.slot)
        if found and isinstance(layer, MetaBlock3D):
            turns.setdefault(int(found[1]), int(found[2]))
    return turns


def _part(name: str, tensor: torch.Tensor, layers: Mapping[str, Layer]) -> torch.Tensor:
    """The rows of timm's fused qkv that are our q, k or v; any other tensor as it is."""
    slot, _, path = name.partition(".attention.")
    layer = layers.get(slot) or layers.get(f"{slot}.attention")
    if isinstance(layer, ReducedAttention) and path[:2] in ("k.", "v."):
        return tensor.chunk(2)["kv".index(path[0])]
    if not isinstance(layer, MetaBlock3D) or path[:2] not in ("q.", "k.", "v."):
        return tensor
    dims = (layer.key_dim, layer.key_dim, layer.value_dim)
    if tensor.shape[0] != layer.heads * sum(dims):
        return tensor
    heads = tensor.reshape(layer.heads, sum(dims), *tensor.shape[1:])
    index = "qkv".index(path[0])
    start, stop = sum(dims[:index]), sum(dims[: index + 1])
    return heads[:, start:stop].flatten(0, 1)


def _segment(name: str, tensor: torch.Tensor, siblings: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Of a tensor that holds all ``siblings`` one after the other the part that is ours.

    Rows of a fused qkv follow each other, and input channels of a convolution of two maps.
    """
    if tensor.dim() == 4 and siblings[name].dim() == 2:
        tensor = tensor.squeeze((2, 3))  # a 1x1 convolution that is a linear layer here
    axis = 1 if re.search(r"\.(first|second)\.", name) else 0
    if len(siblings) == 1 or tensor.dim() <= axis:
        return tensor
    sizes = [own.shape[axis] for own in siblings.values()]
    if tensor.shape[axis] != sum(sizes):
        return tensor
    start = sum(sizes[: list(siblings).index(name)])
    return tensor.narrow(axis, start, siblings[name].shape[axis])


def _is_index(key: str) -> bool:
    return key.endswith(("attention_bias_idxs", "attention_biase_idxs"))


def _same_layout(given: torch.Tensor, own: torch.Tensor) -> bool:
    """Equal shapes, or relative biases, of which timm flattens the offsets."""
    return given.shape == own.shape or given.shape == own.flatten(1).shape if own.dim() else True


def _mismatch(architecture: Architecture, detail: str) -> UserError:
    return UserError(f"timm weights do not fit {architecture.name or 'the architecture'}: {detail}")
