"""EfficientFormer V1 (Li et al., NeurIPS 2022, arXiv 2206.01191)."""

from __future__ import annotations

from nas.families.efficientformer_v1.layers import (
    MetaBlock3D,
    MetaBlock4D,
    PointwiseFFN,
    Pooling,
    TokenClassifier,
)

LAYERS = (
    Pooling,
    PointwiseFFN,
    MetaBlock4D,
    MetaBlock3D,
    TokenClassifier,
)
