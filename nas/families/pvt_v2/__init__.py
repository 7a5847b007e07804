"""PVT v2 (Wang et al., CVMJ 2022, arXiv 2106.13797): layers, and names in timm."""

from __future__ import annotations

from nas.families.efficientformer_v1.layers import TokenClassifier
from nas.families.layer import Family, TimmNames
from nas.families.pvt_v2.layers import LAYERS

TIMM = TimmNames(
    family="PVT v2",
    layers=(*LAYERS, TokenClassifier),
    networks=((r"_linear$", r"_li"),),
    rules=(
        (r"^stem\.conv\.", r"patch_embed.proj."),
        (r"^stem\.", r"patch_embed."),
        (r"^head\.norm\.", r"stages.4.norm."),
        (r"^head\.head\.", r"head."),
        (r"^stage2\.downsample\.norm_before\.", r"stages.1.norm."),
        (r"^stage3\.downsample\.norm_before\.", r"stages.2.norm."),
        (r"^stage4\.downsample\.norm_before\.", r"stages.3.norm."),
        (r"^stage(\d+)\.downsample\.conv\.", r"stages.\1.downsample.proj."),
        (r"^stage(\d+)\.downsample\.", r"stages.\1.downsample."),
        (r"^stage(\d+)\.block(\d+)\.", r"stages.\1.blocks.\2."),
        (r"\.attention\.norm\.", r".norm1."),
        (r"\.ffn\.norm\.", r".norm2."),
        (r"\.attention\.[kv]\.", r".attn.kv."),
        (r"\.attention\.reduce\.", r".attn.sr."),
        (r"\.attention\.norm_reduced\.", r".attn.norm."),
        (r"\.attention\.", r".attn."),
        (r"\.ffn\.mid\.", r".mlp.dwconv."),
        (r"\.ffn\.", r".mlp."),
    ),
)

FAMILY = Family(LAYERS, TIMM)
