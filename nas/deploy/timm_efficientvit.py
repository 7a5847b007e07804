"""EfficientViT's weights as timm has them: names, fused tensors, the order of channels."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from nas.architecture import Architecture
from nas.layers import CascadedAttention, Layer

RULES = (
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

STAGE_CHANNELS = (
    (r"^stem\.conv4\.", 0),
    (r"\.depthwise\.", 0),
    (r"\.fc1\.conv\.", 1),
    (r"\.(fc2|proj)\.", 0),
    (r"\.downsample\.conv1\.conv\.", 1),
    (r"\.downsample\.conv3\.", 0),
    (r"^head\.norm\.", 0),
    (r"^head\.head\.weight$", 1),
)
"""The tensors of which an axis is the channels of a stage, and that axis."""


def own_part(name: str, tensor: torch.Tensor, layers: Mapping[str, Layer]) -> torch.Tensor:
    """The rows of a head's fused qkv that are our q, k or v; any other tensor as it is."""
    found = re.search(r"\.attention\.heads\.\d+\.([qkv])\.", name)
    layer = layers.get(name.partition(".attention.")[0] + ".attention")
    if found is None or not isinstance(layer, CascadedAttention) or not tensor.dim():
        return tensor
    sizes = (layer.key_dim, layer.key_dim, layer.channels // layer.heads)
    if len(tensor) != sum(sizes):
        return tensor
    index = "qkv".index(found[1])
    return tensor[sum(sizes[:index]) : sum(sizes[: index + 1])]


def channel_orders(architecture: Architecture) -> Mapping[int, torch.Tensor]:
    """For each stage with cascaded attention the channels of timm in our order.

    There a head has consecutive channels, here every ``heads``-th.
    """
    return {
        int(layer.slot[len("stage") :].partition(".")[0]): torch.arange(layer.channels)
        .reshape(layer.heads, -1)
        .t()
        .flatten()
        for layer in architecture.layers
        if isinstance(layer, CascadedAttention)
    }


def reordered(name: str, tensor: torch.Tensor, orders: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """The tensor with the channels of its stage in our order."""
    axis = next((axis for pattern, axis in STAGE_CHANNELS if re.search(pattern, name)), None)
    if axis is None or not tensor.dim() or not orders:
        return tensor
    stages = {"stem": 1, "head": max(orders)}
    slot = name.partition(".")[0]
    stage = stages[slot] if slot in stages else int(slot.removeprefix("stage"))
    if ".downsample.conv1." in name:
        stage -= 1
    return tensor.index_select(axis, orders[stage]) if stage in orders else tensor
