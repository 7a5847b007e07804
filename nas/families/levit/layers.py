"""Layers of LeViT (Graham et al., ICCV 2021, arXiv 2104.01136), as values.

Its stem is the ``deep_conv_stem`` of EfficientViT, with hard-swish. A block is a
``levit_attention`` and a ``levit_ffn``; one more ``levit_ffn`` follows each ``levit_downsample``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from nas.families import layer as base

if TYPE_CHECKING:
    from torch import nn


class LevitAttention(base.ResidualLayer):
    """Residual attention with an activation before its projection, all linear parts with norms."""

    kind: Literal["levit_attention"] = "levit_attention"
    heads: base.Positive
    key_dim: base.Positive = 16
    value_dim: base.Positive = 32
    activation: base.Activation = "hardswish"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.levit.modules import LevitAttentionModule

        return LevitAttentionModule


class LevitFFN(base.ExpandingLayer):
    """Residual MLP of each pixel, with norms."""

    kind: Literal["levit_ffn"] = "levit_ffn"
    activation: base.Activation = "hardswish"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.levit.modules import LevitFFNModule

        return LevitFFNModule


class LevitDownsample(base.Layer):
    """An attention, not residual, whose queries are every second pixel; odd sides are rounded up.

    As published, ``heads`` is ``in_channels`` over ``key_dim``.
    """

    kind: Literal["levit_downsample"] = "levit_downsample"
    in_channels: base.Positive
    out_channels: base.Positive
    heads: base.Positive
    key_dim: base.Positive = 16
    value_dim: base.Positive = 64
    activation: base.Activation = "hardswish"

    def output_shape(self, input_shape: base.Shape) -> base.Shape:
        self.require_channels(input_shape, self.in_channels)
        return self.out_channels, (input_shape[1] + 1) // 2, (input_shape[2] + 1) // 2

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.levit.modules import LevitDownsampleModule

        return LevitDownsampleModule


class LevitClassifier(base.Head):
    """Global mean, then one or two linear heads, each behind a norm over the batch of its own."""

    kind: Literal["levit_classifier"] = "levit_classifier"
    distillation: bool = True

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.levit.modules import LevitClassifierModule

        return LevitClassifierModule


LAYERS = (LevitAttention, LevitFFN, LevitDownsample, LevitClassifier)
