"""PVT v2 (Wang et al., CVMJ 2022, arXiv 2106.13797)."""

from __future__ import annotations

from nas.families.pvt_v2.layers import (
    PatchDownsample,
    PatchStem,
    ReducedAttention,
    TokenFFN,
)

LAYERS = (
    PatchStem,
    PatchDownsample,
    ReducedAttention,
    TokenFFN,
)
