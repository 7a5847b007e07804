"""What timm calls each tensor of our networks, family by family (timm: Wightman, Apache-2.0)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from nas.architecture import Architecture
from nas.errors import UserError
from nas.families import (
    Layer,
    efficientformer_v1,
    efficientformer_v2,
    efficientvit,
    mobilevit,
    pvt_v2,
)
from nas.families.efficientformer_v1.layers import MetaBlock3D, TokenClassifier
from nas.families.efficientvit.layers import DeepConvStem
from nas.families.mobilevit.layers import ShortStem
from nas.families.pvt_v2.layers import PatchStem

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

_EFFICIENTVIT: Rules = (
    (r"^stem\.", r"patch_embed."),
    (r"^stage(\d+)\.downsample\.", r"stages.\1.downsample.patchmerge."),
    (r"\.squeeze\.", r".se.fc1."),
    (r"\.excite\.", r".se.fc2."),
    (r"^stage(\d+)\.block1\.ffn\.", r"stages.\1.downsample.res2."),
    (r"^stage1\.block\d+\.ffn\.", r"stages.2.downsample.res1."),
    (r"^stage2\.block\d+\.ffn\.", r"stages.3.downsample.res1."),
    (r"(?<=res[12])\.depthwise\.", r".0.m."),
    (r"(?<=res[12])\.fc(\d)\.", r".1.m.pw\1."),
    (r"^stage(\d+)\.block(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.ffn1\.depthwise\.", r".dw0.m."),
    (r"\.ffn2\.depthwise\.", r".dw1.m."),
    (r"\.ffn1\.fc(\d)\.", r".ffn0.m.pw\1."),
    (r"\.ffn2\.fc(\d)\.", r".ffn1.m.pw\1."),
    (r"\.attention\.heads\.(\d+)\.[qkv]\.", r".mixer.m.attn.qkvs.\1."),
    (r"\.attention\.heads\.(\d+)\.q_local\.", r".mixer.m.attn.dws.\1."),
    (r"\.attention\.bias\.biases$", r".mixer.m.attn.attention_biases"),
    (r"\.attention\.proj\.", r".mixer.m.attn.proj.1."),
    (r"^head\.head\.", r"head.linear."),
    (r"(?<=\.)norm\.(?=[a-z_]+$)", r"bn."),
)

_PVT_V2: Rules = (
    (r"^stem\.conv\.", r"patch_embed.proj."),
    (r"^stem\.", r"patch_embed."),
    (r"^head\.norm\.", r"stages.4.norm."),
    (r"^head\.head\.", r"head."),
    (r"^stage2\.downsample\.norm_before\.", r"stages.1.norm."),
    (r"^stage3\.downsample\.norm_before\.", r"stages.2.norm."),
    (r"^stage4\.downsample\.norm_before\.", r"stages.3.norm."),
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
    (r"^stage(\d+)\.downsample\.", r"stages.\1.0."),
    (r"^stage(\d+)\.block(\d+)\.[a-z0-9_]+\.", r"stages.\1.\2."),
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


class Family(NamedTuple):
    """The layers that networks of a family have in timm, and how its names come from ours."""

    name: str
    rules: Rules
    kinds: tuple[type[Layer], ...]


EFFICIENTFORMER_V1 = Family(
    "EfficientFormer",
    _EFFICIENTFORMER_V1,
    (
        *(
            efficientformer_v2.layers.ConvStem,
            efficientformer_v2.layers.ConvDownsample,
            efficientformer_v1.layers.MetaBlock4D,
            efficientformer_v1.layers.MetaBlock3D,
        ),
        efficientformer_v1.layers.TokenClassifier,
    ),
)
EFFICIENTFORMER_V2 = Family(
    "EfficientFormer V2",
    _EFFICIENTFORMER_V2,
    (
        *(
            efficientformer_v2.layers.ConvStem,
            efficientformer_v2.layers.ConvDownsample,
            efficientformer_v2.layers.ConvFFN,
            efficientformer_v2.layers.Attention4D,
        ),
        *(efficientformer_v2.layers.AttentionDownsample, efficientformer_v2.layers.Classifier),
    ),
)
EFFICIENTVIT = Family(
    "EfficientViT",
    _EFFICIENTVIT,
    (
        *(
            efficientvit.layers.DeepConvStem,
            efficientvit.layers.DepthwiseFFN,
            efficientvit.layers.CascadedAttention,
        ),
        *(efficientvit.layers.PatchMerging, efficientvit.layers.PooledClassifier),
    ),
)
PVT_V2 = Family(
    "PVT v2",
    _PVT_V2,
    (
        *(
            pvt_v2.layers.PatchStem,
            pvt_v2.layers.PatchDownsample,
            pvt_v2.layers.ReducedAttention,
            pvt_v2.layers.TokenFFN,
        ),
        efficientformer_v1.layers.TokenClassifier,
    ),
)
MOBILEVIT = Family(
    "MobileViT",
    _MOBILEVIT,
    (
        *(
            mobilevit.layers.ShortStem,
            mobilevit.layers.InvertedResidual,
            mobilevit.layers.InvertedDownsample,
        ),
        *(
            mobilevit.layers.MobileViTV1Block,
            mobilevit.layers.MobileViTV2Block,
            mobilevit.layers.MobileViTV3Block,
        ),
        *(
            mobilevit.layers.MobileViTV3SeparableBlock,
            mobilevit.layers.ConvClassifier,
            mobilevit.layers.MeanClassifier,
        ),
    ),
)


def family_of(architecture: Architecture) -> Family:
    """The family of timm that an architecture is of.

    Raises:
        UserError: a layer is none of that family; the message names its slot.
    """
    family = _family(architecture.layers[0], architecture.layers[-1])
    for layer in architecture.layers:
        if not isinstance(layer, family.kinds):
            raise UserError(
                f"{architecture.name or 'the architecture'}: timm's {family.name} has no layer "
                f"such as {layer.slot} ({layer.kind})"
            )
    return family


def _family(first: Layer, last: Layer) -> Family:
    match first:
        case DeepConvStem():
            return EFFICIENTVIT
        case PatchStem():
            return PVT_V2
        case ShortStem():
            return MOBILEVIT
        case _:
            return EFFICIENTFORMER_V1 if isinstance(last, TokenClassifier) else EFFICIENTFORMER_V2


def timm_names(architecture: Architecture, names: Iterable[str]) -> dict[str, str]:
    """The name in timm of each of our tensors; several of ours may be parts of one there."""
    family, turns = family_of(architecture), _turns(architecture)

    def stage_from_zero(found: re.Match[str]) -> str:
        # where only the stem has a width, it is our first stage and none of timm's
        return f"stages.{int(found[1]) - (2 if family is MOBILEVIT else 1)}."

    def block_from_zero(found: re.Match[str]) -> str:
        stage, block = int(found[1]), int(found[2])
        index = block - 1 + (block >= turns.get(stage, block + 1))
        if family is EFFICIENTVIT and stage > 1:
            index -= 1  # our first block is a part of timm's downsampling
        return f"stages.{stage}.blocks.{index}."

    found = {}
    for name in names:
        key = name
        for pattern, replacement in family.rules:
            key = re.sub(pattern, replacement, key)
        key = re.sub(r"^stages\.(\d+)\.blocks\.(\d+)\.", block_from_zero, key)
        found[name] = re.sub(r"^stages\.(\d+)\.", stage_from_zero, key)
    return found


def _turns(architecture: Architecture) -> dict[int, int]:
    """For each stage its first block of tokens; timm counts the change to tokens as a block."""
    turns: dict[int, int] = {}
    for layer in architecture.layers:
        found = re.match(r"stage(\d+)\.block(\d+)\.", layer.slot)
        if found and isinstance(layer, MetaBlock3D):
            turns.setdefault(int(found[1]), int(found[2]))
    return turns
