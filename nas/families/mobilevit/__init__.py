"""MobileViT v1, v2 and v3 (arXiv 2110.02178, 2206.02680, 2209.15159): layers, and names in timm.

timm lacks version 3, whose weights go by the names that versions 1 and 2 have there.
"""

from __future__ import annotations

import re

from nas.families.layer import Family, Layer, Sizes, TimmNames
from nas.families.mobilevit.layers import (
    LAYERS,
    MobileViTV2Block,
    MobileViTV3SeparableBlock,
    SeparableAttention,
)


class _MobileViTNames(TimmNames):
    def axis(self, name: str) -> int:
        """In timm one convolution of two concatenated maps fuses them."""
        return 1 if re.search(r"\.(first|second)\.", name) else 0

    def shape(self, layer: Layer, shape: Sizes) -> Sizes:
        """Separable attention has 1x1 convolutions in timm, and linear layers here."""
        is_separable = isinstance(layer, MobileViTV2Block | MobileViTV3SeparableBlock)
        return (*shape, 1, 1) if is_separable and len(shape) == 2 else shape


TIMM = _MobileViTNames(
    family="MobileViT",
    layers=tuple(layer for layer in LAYERS if layer is not SeparableAttention),
    networks=((r"_v1_", r"_"), (r"_v2_", r"v2_")),
    lacking="_v3_",
    rules=(
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
    ),
    first_stage=2,
)

FAMILY = Family(LAYERS, TIMM)
