"""Layers of MobileViT v1, v2 and v3 (arXiv 2110.02178, 2206.02680, 2209.15159), as values.

A width that only the stem has is a stage of its own, so their five stages are 2 to 6 here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from nas.families import layer as base

if TYPE_CHECKING:
    from torch import nn

PATCH = 2
"""Side of a patch in pixels; published networks have no other."""


class ShortStem(base.Downsampling):
    """One 3x3 convolution of stride 2."""

    kind: Literal["short_stem"] = "short_stem"
    in_channels: base.Positive = 3
    activation: base.Activation = "silu"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.mobilevit.modules import ShortStemModule

        return ShortStemModule


class InvertedResidual(base.ExpandingLayer):
    """MobileNetV2's block (Sandler et al., CVPR 2018): 1x1, depthwise, 1x1, and the sum."""

    kind: Literal["inverted_residual"] = "inverted_residual"
    kernel: base.DepthwiseKernel = 3
    activation: base.Activation = "silu"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.mobilevit.modules import InvertedResidualModule

        return InvertedResidualModule


class InvertedDownsample(base.Layer):
    """``inverted_residual`` without the sum, which may change the width and halve the map."""

    kind: Literal["inverted_downsample"] = "inverted_downsample"
    in_channels: base.Positive
    out_channels: base.Positive
    expansion: base.Expansion
    stride: Literal[1, 2] = 2
    kernel: base.DepthwiseKernel = 3
    activation: base.Activation = "silu"

    @property
    def hidden(self) -> int:
        """Channels of the depthwise convolution."""
        return round(self.in_channels * self.expansion)

    def output_shape(self, input_shape: base.Shape) -> base.Shape:
        return self.strided(input_shape, self.in_channels, self.out_channels, self.stride)

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.parts import Bottleneck

        return Bottleneck


class PatchTransformer(base.ResidualLayer):
    """Transformer layers on tokens of width ``dim``, between convolutions on the feature map.

    A token attends to those at the same place of other 2x2 patches; odd sides are interpolated to
    even ones. A smaller ``depth`` keeps the first of the transformer layers.
    """

    dim: base.Positive
    depth: base.Positive
    expansion: base.Expansion = 2.0
    activation: base.Activation = "silu"

    @property
    def hidden(self) -> int:
        """Channels between the two layers of each MLP."""
        return round(self.dim * self.expansion)


class SoftmaxPatchTransformer(PatchTransformer):
    """Attention of each token to each other, at a cost that is quadratic in the map's pixels."""

    heads: base.Positive = 4

    def output_shape(self, input_shape: base.Shape) -> base.Shape:
        if self.dim % self.heads:
            raise ValueError(
                f"{self.slot}: dim must be a multiple of {self.heads} heads, got {self.dim}"
            )
        return super().output_shape(input_shape)


class SeparablePatchTransformer(PatchTransformer):
    """Separable attention, at a linear cost. A map of odd sides stays interpolated."""

    def output_shape(self, input_shape: base.Shape) -> base.Shape:
        channels, height, width = super().output_shape(input_shape)
        return channels, height + height % PATCH, width + width % PATCH


class SeparableAttention(base.ResidualLayer):
    """The attention of ``mobilevit_v2_block`` alone: residual, of all pixels at a linear cost."""

    kind: Literal["separable_attention"] = "separable_attention"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.mobilevit.separable_modules import SeparableAttentionModule

        return SeparableAttentionModule


class MobileViTV1Block(SoftmaxPatchTransformer):
    """Softmax attention; its result and the input are fused by a 3x3 convolution."""

    kind: Literal["mobilevit_v1_block"] = "mobilevit_v1_block"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.mobilevit.modules import MobileViTV1BlockModule

        return MobileViTV1BlockModule


class MobileViTV2Block(SeparablePatchTransformer):
    """Separable attention, whose result is the block's; nothing is fused."""

    kind: Literal["mobilevit_v2_block"] = "mobilevit_v2_block"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.mobilevit.separable_modules import MobileViTV2BlockModule

        return MobileViTV2BlockModule


class MobileViTV3Block(SoftmaxPatchTransformer):
    """Softmax attention; local and global features are fused by a 1x1 convolution, with a sum."""

    kind: Literal["mobilevit_v3_block"] = "mobilevit_v3_block"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.mobilevit.modules import MobileViTV3BlockModule

        return MobileViTV3BlockModule


class MobileViTV3SeparableBlock(SeparablePatchTransformer):
    """``mobilevit_v3_block`` with separable attention."""

    kind: Literal["mobilevit_v3_separable_block"] = "mobilevit_v3_separable_block"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.mobilevit.separable_modules import MobileViTV3SeparableBlockModule

        return MobileViTV3SeparableBlockModule


class ConvClassifier(base.Layer):
    """1x1 convolution to ``features`` channels, global mean and a linear head."""

    kind: Literal["conv_classifier"] = "conv_classifier"
    in_channels: base.Positive
    features: base.Positive
    classes: base.Classes
    activation: base.Activation = "silu"

    def output_shape(self, input_shape: base.Shape) -> base.Shape:
        self.require_channels(input_shape, self.in_channels)
        return self.classes, 1, 1

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.mobilevit.modules import ConvClassifierModule

        return ConvClassifierModule


class MeanClassifier(base.Head):
    """Global mean and a linear head."""

    kind: Literal["mean_classifier"] = "mean_classifier"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.mobilevit.separable_modules import MeanClassifierModule

        return MeanClassifierModule


LAYERS = (
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
