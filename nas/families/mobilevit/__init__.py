"""MobileViT v1, v2 and v3 (arXiv 2110.02178, 2206.02680, 2209.15159)."""

from __future__ import annotations

from nas.families.mobilevit.layers import (
    ConvClassifier,
    InvertedDownsample,
    InvertedResidual,
    MeanClassifier,
    MobileViTV1Block,
    MobileViTV2Block,
    MobileViTV3Block,
    MobileViTV3SeparableBlock,
    SeparableAttention,
    ShortStem,
)

LAYERS = (
    ShortStem,
    InvertedResidual,
    InvertedDownsample,
    SeparableAttention,
    MobileViTV1Block,
    MobileViTV2Block,
    MobileViTV3Block,
    MobileViTV3SeparableBlock,
    ConvClassifier,
    MeanClassifier,
)
