"""MobileViT v1, v2 and v3 (arXiv 2110.02178, 2206.02680, 2209.15159)."""

from __future__ import annotations

from nas.families.layer import Family
from nas.families.mobilevit import layers
from nas.families.mobilevit.timm import TIMM

FAMILY = Family(
    layers=(
        layers.ShortStem,
        layers.InvertedResidual,
        layers.InvertedDownsample,
        layers.SeparableAttention,
        layers.MobileViTV1Block,
        layers.MobileViTV2Block,
        layers.MobileViTV3Block,
        layers.MobileViTV3SeparableBlock,
        layers.ConvClassifier,
        layers.MeanClassifier,
    ),
    timm=TIMM,
)
