"""EfficientFormer V2 (Li et al., ICCV 2023, arXiv 2212.08059)."""

from __future__ import annotations

from nas.families.efficientformer_v2.layers import (
    Attention4D,
    AttentionDownsample,
    Classifier,
    ConvDownsample,
    ConvFFN,
    ConvStem,
)

LAYERS = (
    ConvStem,
    ConvFFN,
    Attention4D,
    ConvDownsample,
    AttentionDownsample,
    Classifier,
)
