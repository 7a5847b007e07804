"""LeViT (Graham et al., ICCV 2021, arXiv 2104.01136): layers, and names in timm."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nas.families.efficientvit.layers import DeepConvStem
from nas.families.layer import Family, Layer, Sizes, TimmNames
from nas.families.levit.layers import LAYERS, LevitAttention, LevitDownsample


class _LevitNames(TimmNames):
    def block_index(self, layers: Sequence[Layer], stage: int, block: int) -> int:
        """The first block of a later stage is a part of timm's downsampling."""
        return super().block_index(layers, stage, block) - (stage > 1)

    def groups(self, layer: Layer, name: str) -> int:
        """A fused tensor of timm holds all parts of the first head, then those of the next."""
        if isinstance(layer, LevitAttention | LevitDownsample) and re.search(r"\.[qkv]\.", name):
            return layer.heads
        return 1

    def shape(self, layer: Layer, shape: Sizes) -> Sizes:
        """1x1 convolutions are linear layers in timm."""
        return shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape


TIMM = _LevitNames(
    family="LeViT",
    layers=(DeepConvStem, *LAYERS),
    rules=(
        (r"^stage(\d+)\.downsample\.", r"stages.\1.downsample.attn_downsample."),
        (r"^stage([2-9]|\d\d+)\.block1\.ffn\.", r"stages.\1.downsample.mlp."),
        (r"^stage(\d+)\.block(\d+)\.ffn\.", r"stages.\1.blocks.\2.mlp."),
        (r"^stage(\d+)\.block(\d+)\.attention\.", r"stages.\1.blocks.\2.attn."),
        (r"\.mlp\.fc(\d)\.", r".mlp.ln\1."),
        (r"\.attn\.[qkv]\.", r".attn.qkv."),
        (r"\.attn_downsample\.[kv]\.", r".attn_downsample.kv."),
        (r"\.attn_downsample\.q\.", r".attn_downsample.q.ln."),
        (r"\.proj\.", r".proj.ln."),
        (r"\.bias\.biases$", r".attention_biases"),
        (r"^head\.(head|head_dist)\.(weight|bias)$", r"\1.linear.\2"),
        (r"^head\.(head|head_dist)\.norm\.", r"\1.norm."),
        (r"\.conv\.weight$", r".linear.weight"),
        (r"(?<=\.)norm\.(?=[a-z_]+$)", r"bn."),
    ),
)

FAMILY = Family(LAYERS, TIMM)
