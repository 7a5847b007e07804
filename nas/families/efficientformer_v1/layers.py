"""Layers of EfficientFormer V1 (Li et al., NeurIPS 2022, arXiv 2206.01191), as values.

Its stem and its downsampling are the ``conv_stem``, with ReLU, and the ``conv_downsample`` of V2.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nas.families import layer as base


class Pooling(base.ResidualLayer):
    """The paper's cheapest token mixer: the mean of the 3x3 pixels around, minus the pixel."""

    module_name = "efficientformer_v1.modules.PoolingModule"
    kind: Literal["pooling"] = "pooling"


class PointwiseFFN(base.ExpandingLayer):
    """Residual MLP of 1x1 convolutions, with no look at other pixels."""

    module_name = "efficientformer_v1.modules.PointwiseFFNModule"
    kind: Literal["pointwise_ffn"] = "pointwise_ffn"
    activation: base.Activation = "gelu"


class MetaBlock4D(base.ExpandingLayer):
    """``pooling`` and ``pointwise_ffn`` (the paper's MB4D)."""

    module_name = "efficientformer_v1.modules.MetaBlock4DModule"
    kind: Literal["metablock4d"] = "metablock4d"
    activation: base.Activation = "gelu"


class MetaBlock3D(base.ExpandingLayer):
    """Attention and an MLP on the pixels of a feature map as tokens (the paper's MB3D)."""

    module_name = "efficientformer_v1.modules.MetaBlock3DModule"
    kind: Literal["metablock3d"] = "metablock3d"
    activation: base.Activation = "gelu"
    heads: base.Positive = 8
    key_dim: base.Positive = 32
    value_dim: base.Positive = 128


class TokenClassifier(base.Head):
    """``classifier`` with a LayerNorm of each pixel instead of a norm over the batch."""

    module_name = "efficientformer_v1.modules.TokenClassifierModule"
    kind: Literal["token_classifier"] = "token_classifier"
    distillation: bool = True
    epsilon: Annotated[float, Field(gt=0)] = 1e-5


LAYERS = (Pooling, PointwiseFFN, MetaBlock4D, MetaBlock3D, TokenClassifier)
