"""EfficientFormer V1 (Li et al., NeurIPS 2022, arXiv 2206.01191): layers, and names in timm."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nas.families.efficientformer_v1.layers import LAYERS, MetaBlock3D, MetaBlock4D, TokenClassifier
from nas.families.efficientformer_v2.layers import ConvDownsample, ConvStem
from nas.families.layer import Family, Layer, TimmNames


class _EfficientFormerNames(TimmNames):
    def block_index(self, layers: Sequence[Layer], stage: int, block: int) -> int:
        """In timm the change from a map to tokens counts as a block."""
        slots = (layer.slot for layer in layers if isinstance(layer, MetaBlock3D))
        found = (re.match(rf"stage{stage}\.block(\d+)\.", slot) for slot in slots)
        first_of_tokens = next((int(match[1]) for match in found if match), block + 1)
        return block - 1 + (block >= first_of_tokens)

    def groups(self, layer: Layer, name: str) -> int:
        """A fused tensor of timm holds q, k and v of the first head, then those of the next."""
        is_fused = re.search(r"\.attention\.[qkv]\.", name)
        return layer.heads if isinstance(layer, MetaBlock3D) and is_fused else 1


TIMM = _EfficientFormerNames(
    family="EfficientFormer",
    layers=(ConvStem, ConvDownsample, MetaBlock4D, MetaBlock3D, TokenClassifier),
    networks=((r"_v1_", r"_"),),
    rules=(
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
        (r"^head\.(norm|head|head_dist)\.", r"\1."),
    ),
    has_bias_indices=True,
)

FAMILY = Family(LAYERS, TIMM)
