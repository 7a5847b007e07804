"""PVT v2 (Wang et al., CVMJ 2022, arXiv 2106.13797)."""

from __future__ import annotations

from nas.families.layer import Family
from nas.families.pvt_v2.layers import LAYERS
from nas.families.pvt_v2.timm import TIMM

FAMILY = Family(LAYERS, TIMM)
