"""EfficientFormer V2 (Li et al., ICCV 2023, arXiv 2212.08059): layers, and names in timm."""

from __future__ import annotations

from nas.families.efficientformer_v2.layers import LAYERS
from nas.families.layer import Family, TimmNames

TIMM = TimmNames(
    family="EfficientFormer V2",
    layers=LAYERS,
    networks=((r"_v2_", r"v2_"),),
    rules=(
        (r"^stage(\d+)\.downsample\.conv\.(conv|norm)\.", r"stages.\1.downsample.conv.\2."),
        (r"^stage(\d+)\.downsample\.(conv|norm)\.", r"stages.\1.downsample.conv.\2."),
        (r"^stage(\d+)\.downsample\.bias\.biases", r"stages.\1.downsample.attn.attention_biases"),
        (r"^stage(\d+)\.downsample\.q_local", r"stages.\1.downsample.attn.q.local"),
        (r"^stage(\d+)\.downsample\.q\.", r"stages.\1.downsample.attn.q.proj."),
        (r"^stage(\d+)\.downsample\.(k|v|v_local|proj)\.", r"stages.\1.downsample.attn.\2."),
        (r"^stage(\d+)\.block(\d+)\.ffn\.scale", r"stages.\1.blocks.\2.ls2"),
        (r"^stage(\d+)\.block(\d+)\.ffn\.", r"stages.\1.blocks.\2.mlp."),
        (r"^stage(\d+)\.block(\d+)\.attention\.scale", r"stages.\1.blocks.\2.ls1"),
        (
            r"^stage(\d+)\.block(\d+)\.attention\.bias\.biases",
            r"stages.\1.blocks.\2.token_mixer.attention_biases",
        ),
        (r"^stage(\d+)\.block(\d+)\.attention\.", r"stages.\1.blocks.\2.token_mixer."),
        (r"^head\.(norm|head|head_dist)\.", r"\1."),
        (r"(?<=\.)norm\.(?=[a-z_]+$)", r"bn."),  # timm's name of a norm behind a convolution
    ),
)

FAMILY = Family(LAYERS, TIMM)
