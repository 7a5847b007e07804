"""EfficientFormer V2 (Li et al., ICCV 2023, arXiv 2212.08059)."""

from __future__ import annotations

from nas.families.efficientformer_v2.layers import LAYERS
from nas.families.efficientformer_v2.timm import TIMM
from nas.families.layer import Family

FAMILY = Family(LAYERS, TIMM)
