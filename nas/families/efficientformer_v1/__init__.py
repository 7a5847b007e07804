"""EfficientFormer V1 (Li et al., NeurIPS 2022, arXiv 2206.01191)."""

from __future__ import annotations

from nas.families.efficientformer_v1.layers import LAYERS
from nas.families.efficientformer_v1.timm import TIMM
from nas.families.layer import Family

FAMILY = Family(LAYERS, TIMM)
