"""MobileViT v1, v2 and v3 (arXiv 2110.02178, 2206.02680, 2209.15159)."""

from __future__ import annotations

from nas.families.layer import Family
from nas.families.mobilevit.layers import LAYERS
from nas.families.mobilevit.timm import TIMM

FAMILY = Family(LAYERS, TIMM)
