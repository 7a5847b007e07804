"""EfficientViT (Liu et al., CVPR 2023, arXiv 2305.07027): layers, and names in timm."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nas.families.efficientvit.layers import LAYERS, CascadedAttention
from nas.families.layer import Family, Layer, TimmNames

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


class _EfficientViTNames(TimmNames):
    def block_index(self, layers: Sequence[Layer], stage: int, block: int) -> int:
        """The first block of a later stage is a part of timm's downsampling."""
        return super().block_index(layers, stage, block) - (stage > 1)

    def order(self, layers: Sequence[Layer], name: str) -> tuple[int, Sequence[int]] | None:
        """A head has consecutive channels in timm, and every ``heads``-th here."""
        axis = next((axis for pattern, axis in STAGE_CHANNELS if re.search(pattern, name)), None)
        attentions = {
            int(layer.slot[len("stage") :].partition(".")[0]): layer
            for layer in layers
            if isinstance(layer, CascadedAttention)
        }
        if axis is None or not attentions:
            return None
        slot = name.partition(".")[0]
        ends = {"stem": 1, "head": max(attentions)}
        stage = ends[slot] if slot in ends else int(slot.removeprefix("stage"))
        if ".downsample.conv1." in name:
            stage -= 1
        if stage not in attentions:
            return None
        channels, heads = attentions[stage].channels, attentions[stage].heads
        share = channels // heads
        return axis, [head * share + index for index in range(share) for head in range(heads)]


TIMM = _EfficientViTNames(
    family="EfficientViT",
    layers=LAYERS,
    rules=(
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
    ),
)

FAMILY = Family(LAYERS, TIMM)
