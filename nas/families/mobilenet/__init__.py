"""MobileNetV2 to V4, EfficientNet-Lite (arXiv 1801.04381, 2404.10518): layers, names in timm."""

from __future__ import annotations

from nas.families.layer import Family, TimmNames
from nas.families.mobilenet.layers import LAYERS

STAGES = range(2, 10)
"""Our stages that timm counts from 0; the first is the stem's width alone."""

TIMM = TimmNames(
    family="MobileNet",
    layers=LAYERS,
    networks=((r"^mobilenet_", r"mobilenet"), (r"^efficientnet_lite_", r"tf_efficientnet_lite")),
    rules=(
        (r"^stem\.conv\.conv\.", r"conv_stem."),
        (r"^stem\.conv\.norm\.", r"bn1."),
        (r"^head\.conv\.conv\.", r"conv_head."),
        (r"^head\.conv\.norm\.", r"bn2."),
        (r"^head\.conv\.", r"conv_head."),
        (r"^head\.head\.", r"classifier."),
        (r"^head\.features\.conv\.", r"conv_head."),
        (r"^head\.features\.norm\.", r"norm_head."),
        (r"^stage2\.block1\.separable\.", r"blocks.0.0."),  # that stage has no downsampling
        *((rf"^stage{stage}\.downsample\.", f"blocks.{stage - 2}.0.") for stage in STAGES),
        *((rf"^stage{stage}\.block(\d+)\.\w+\.", rf"blocks.{stage - 2}.\1.") for stage in STAGES),
        (r"\.depthwise\.conv\.", r".conv_dw."),
        (r"\.depthwise\.norm\.", r".bn1."),
        (r"\.pointwise\.conv\.", r".conv_pw."),
        (r"\.pointwise\.norm\.", r".bn2."),
        (r"\.fc1\.conv\.", r".conv_pw."),
        (r"\.fc1\.norm\.", r".bn1."),
        (r"\.mid\.conv\.", r".conv_dw."),
        (r"\.mid\.norm\.", r".bn2."),
        (r"\.fc2\.conv\.", r".conv_pwl."),
        (r"\.fc2\.norm\.", r".bn3."),
        (r"\.gate\.squeeze\.", r".se.conv_reduce."),
        (r"\.gate\.excite\.", r".se.conv_expand."),
        (r"\.expand\.conv\.", r".conv_exp."),
        (r"\.expand\.norm\.", r".bn1."),
        (r"\.project\.conv\.", r".conv_pwl."),
        (r"\.project\.norm\.", r".bn2."),
        (r"\.start\.", r".dw_start."),
        (r"\.enter\.", r".pw_exp."),
        (r"\.middle\.", r".dw_mid."),
        (r"\.leave\.", r".pw_proj."),
        (r"\.(dw_start|pw_exp|dw_mid|pw_proj)\.norm\.", r".\1.bn."),
        (r"^(blocks\.\d+)\.0\.spread\.", r"\1.0.conv."),  # timm counts two blocks
        (r"^(blocks\.\d+)\.0\.mix\.", r"\1.1.conv."),
        (r"^(blocks\.\d+\.\d+)\.conv\.conv\.", r"\1.conv."),
        (r"^(blocks\.\d+\.\d+)\.conv\.norm\.", r"\1.bn1."),
    ),
)

FAMILY = Family(LAYERS, TIMM)
