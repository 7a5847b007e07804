"""Layer configs: immutable values, no torch. ``LAYERS`` maps each kind to its class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from nas.layers.base import CONTEXT_FIELDS, NAME, Activation, Layer, MapMisfitError, Shape
from nas.layers.efficientformer_v1 import MetaBlock3D, MetaBlock4D, TokenClassifier
from nas.layers.efficientformer_v2 import (
    Attention4D,
    AttentionDownsample,
    Classifier,
    ConvDownsample,
    ConvFFN,
    ConvStem,
)
from nas.layers.efficientvit import (
    CascadedAttention,
    DeepConvStem,
    DepthwiseFFN,
    PatchMerging,
    PooledClassifier,
)
from nas.layers.mobilevit import (
    ConvClassifier,
    InvertedDownsample,
    InvertedResidual,
    MeanClassifier,
    MobileViTV1Block,
    MobileViTV2Block,
    MobileViTV3Block,
    MobileViTV3SeparableBlock,
    ShortStem,
)
from nas.layers.pvt_v2 import PatchDownsample, PatchStem, ReducedAttention, TokenFFN

LAYERS: dict[str, type[Layer]] = {
    layer.model_fields["kind"].default: layer
    for layer in (
        ConvStem,
        ConvFFN,
        Attention4D,
        ConvDownsample,
        AttentionDownsample,
        Classifier,
        MetaBlock4D,
        MetaBlock3D,
        TokenClassifier,
        DeepConvStem,
        DepthwiseFFN,
        CascadedAttention,
        PatchMerging,
        PooledClassifier,
        PatchStem,
        PatchDownsample,
        ReducedAttention,
        TokenFFN,
        ShortStem,
        InvertedResidual,
        InvertedDownsample,
        MobileViTV1Block,
        MobileViTV2Block,
        MobileViTV3Block,
        MobileViTV3SeparableBlock,
        ConvClassifier,
        MeanClassifier,
    )
}

if TYPE_CHECKING:
    AnyLayer = Layer
else:  # pydantic picks the class by its kind, and reports errors at the right key
    AnyLayer = Annotated[Union[tuple(LAYERS.values())], Field(discriminator="kind")]  # noqa: UP007

__all__ = [
    "CONTEXT_FIELDS",
    "LAYERS",
    "NAME",
    "Activation",
    "AnyLayer",
    "Attention4D",
    "AttentionDownsample",
    "CascadedAttention",
    "Classifier",
    "ConvClassifier",
    "ConvDownsample",
    "ConvFFN",
    "ConvStem",
    "DeepConvStem",
    "DepthwiseFFN",
    "InvertedDownsample",
    "InvertedResidual",
    "Layer",
    "MapMisfitError",
    "MeanClassifier",
    "MetaBlock3D",
    "MetaBlock4D",
    "MobileViTV1Block",
    "MobileViTV2Block",
    "MobileViTV3Block",
    "MobileViTV3SeparableBlock",
    "PatchDownsample",
    "PatchMerging",
    "PatchStem",
    "PooledClassifier",
    "ReducedAttention",
    "Shape",
    "ShortStem",
    "TokenClassifier",
    "TokenFFN",
]
