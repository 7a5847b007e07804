"""EfficientViT (Liu et al., CVPR 2023, arXiv 2305.07027)."""

from __future__ import annotations

from nas.families.efficientvit.layers import LAYERS
from nas.families.efficientvit.timm import TIMM
from nas.families.layer import Family

FAMILY = Family(LAYERS, TIMM)
