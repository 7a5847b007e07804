"""Layer configs: immutable values, no torch. ``LAYERS`` maps each kind to its class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import (
    Field,
    SerializeAsAny,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from nas.families.efficientformer_v1.layers import (
    MetaBlock3D,
    MetaBlock4D,
    PointwiseFFN,
    Pooling,
    TokenClassifier,
)
from nas.families.efficientformer_v2.layers import (
    Attention4D,
    AttentionDownsample,
    Classifier,
    ConvDownsample,
    ConvFFN,
    ConvStem,
)
from nas.families.efficientvit.layers import (
    CascadedAttention,
    DeepConvStem,
    DepthwiseFFN,
    PatchMerging,
    PooledClassifier,
)
from nas.families.layer import (
    CONTEXT_FIELDS,
    NAME,
    Activation,
    BlockFile,
    Layer,
    MapMisfitError,
    ResidualLayer,
    Shape,
)
from nas.families.mobilevit.layers import (
    ConvClassifier,
    InvertedDownsample,
    InvertedResidual,
    MeanClassifier,
    MobileViTV1Block,
    MobileViTV2Block,
    MobileViTV3Block,
    MobileViTV3SeparableBlock,
    SeparableAttention,
    ShortStem,
)
from nas.families.own import Kinds, pick
from nas.families.pvt_v2.layers import PatchDownsample, PatchStem, ReducedAttention, TokenFFN

LAYERS: dict[str, type[Layer]] = {
    layer.model_fields["kind"].default: layer
    for layer in (
        ConvStem,
        ConvFFN,
        Attention4D,
        ConvDownsample,
        AttentionDownsample,
        Classifier,
        Pooling,
        PointwiseFFN,
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
        SeparableAttention,
        MobileViTV1Block,
        MobileViTV2Block,
        MobileViTV3Block,
        MobileViTV3SeparableBlock,
        ConvClassifier,
        MeanClassifier,
    )
}


def _layer(data: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> object:
    if isinstance(data, Layer):
        return data
    return pick(data, handler, info, lambda layer: layer, LAYERS)


if TYPE_CHECKING:
    AnyLayer = Layer
else:  # pydantic picks the class by its kind, and reports errors at the right key
    AnyLayer = SerializeAsAny[
        Annotated[
            Union[tuple(LAYERS.values())],  # noqa: UP007 - made from a tuple
            Field(discriminator="kind"),
            WrapValidator(_layer),
        ]
    ]

__all__ = [
    "CONTEXT_FIELDS",
    "LAYERS",
    "NAME",
    "Activation",
    "AnyLayer",
    "Attention4D",
    "AttentionDownsample",
    "BlockFile",
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
    "Kinds",
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
    "PointwiseFFN",
    "PooledClassifier",
    "Pooling",
    "ReducedAttention",
    "ResidualLayer",
    "SeparableAttention",
    "Shape",
    "ShortStem",
    "TokenClassifier",
    "TokenFFN",
    "pick",
]
