"""PVT v2 (Wang et al., CVMJ 2022, arXiv 2106.13797)."""

from __future__ import annotations

from nas.families.layer import Family
from nas.families.pvt_v2 import layers
from nas.families.pvt_v2.timm import TIMM

FAMILY = Family(
    layers=(
        layers.PatchStem,
        layers.PatchDownsample,
        layers.ReducedAttention,
        layers.TokenFFN,
    ),
    timm=TIMM,
)
