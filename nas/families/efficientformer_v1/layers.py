"""Layers of EfficientFormer V1 (Li et al., NeurIPS 2022, arXiv 2206.01191), as values.

Its stem and its downsampling are the ``conv_stem``, with ReLU, and the ``conv_downsample`` of V2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from nas.families import layer as base

if TYPE_CHECKING:
    from torch import nn


class Pooling(base.ResidualLayer):
    """The paper's cheapest token mixer: the mean of the 3x3 pixels around, minus the pixel."""

    kind: Literal["pooling"] = "pooling"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.efficientformer_v1.modules import PoolingModule

        return PoolingModule


class PointwiseFFN(base.ExpandingLayer):
    """Residual MLP of 1x1 convolutions, with no look at other pixels."""

    kind: Literal["pointwise_ffn"] = "pointwise_ffn"
    activation: base.Activation = "gelu"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.efficientformer_v1.modules import PointwiseFFNModule

        return PointwiseFFNModule


class MetaBlock4D(base.ExpandingLayer):
    """``pooling`` and ``pointwise_ffn`` (the paper's MB4D)."""

    kind: Literal["metablock4d"] = "metablock4d"
    activation: base.Activation = "gelu"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.efficientformer_v1.modules import MetaBlock4DModule

        return MetaBlock4DModule


class MetaBlock3D(base.ExpandingLayer):
    """Attention and an MLP on the pixels of a feature map as tokens (the paper's MB3D)."""

    kind: Literal["metablock3d"] = "metablock3d"
    activation: base.Activation = "gelu"
    heads: base.Positive = 8
    key_dim: base.Positive = 32
    value_dim: base.Positive = 128

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.efficientformer_v1.modules import MetaBlock3DModule

        return MetaBlock3DModule


class TokenClassifier(base.Head):
    """``classifier`` with a LayerNorm of each pixel instead of a norm over the batch."""

    kind: Literal["token_classifier"] = "token_classifier"
    distillation: bool = True
    epsilon: base.Epsilon = 1e-5

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.efficientformer_v1.modules import TokenClassifierModule

        return TokenClassifierModule


LAYERS = (Pooling, PointwiseFFN, MetaBlock4D, MetaBlock3D, TokenClassifier)
