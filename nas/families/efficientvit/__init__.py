"""EfficientViT (Liu et al., CVPR 2023, arXiv 2305.07027)."""

from __future__ import annotations

from nas.families.efficientvit.layers import (
    CascadedAttention,
    DeepConvStem,
    DepthwiseFFN,
    PatchMerging,
    PooledClassifier,
)

LAYERS = (
    DeepConvStem,
    DepthwiseFFN,
    CascadedAttention,
    PatchMerging,
    PooledClassifier,
)
