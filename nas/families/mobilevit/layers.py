"""Layers of MobileViT v1, v2 and v3 (arXiv 2110.02178, 2206.02680, 2209.15159), as values.

A width that only the stem has is a stage of its own, so their five stages are 2 to 6 here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nas.families.layer import (
    Activation,
    DepthwiseKernel,
    Downsampling,
    ExpandingLayer,
    Head,
    Layer,
    ModuleCall,
    Positive,
    ResidualLayer,
    Shape,
    call,
)

PATCH = 2
"""Side of a patch in pixels; published networks have no other."""


class ShortStem(Downsampling):
    """One 3x3 convolution of stride 2."""

    kind: Literal["short_stem"] = "short_stem"
    in_channels: Positive = 3
    activation: Activation = "silu"

    def module(self, input_shape: Shape) -> ModuleCall:
        from nas.families.mobilevit.modules import ShortStemModule

        return call(ShortStemModule, self.in_channels, self.out_channels, self.activation)


class InvertedResidual(ExpandingLayer):
    """MobileNetV2's block (Sandler et al., CVPR 2018): 1x1, depthwise, 1x1, and the sum."""

    kind: Literal["inverted_residual"] = "inverted_residual"
    kernel: DepthwiseKernel = 3
    activation: Activation = "silu"

    def module(self, input_shape: Shape) -> ModuleCall:
        from nas.families.mobilevit.modules import InvertedResidualModule

        return call(
            InvertedResidualModule, self.channels, self.hidden, self.activation, kernel=self.kernel
        )


class InvertedDownsample(Layer):
    """``inverted_residual`` without the sum, which may change the width and halve the map."""

    kind: Literal["inverted_downsample"] = "inverted_downsample"
    in_channels: Positive
    out_channels: Positive
    expansion: Annotated[float, Field(gt=0)]
    stride: Literal[1, 2] = 2
    kernel: DepthwiseKernel = 3
    activation: Activation = "silu"

    @property
    def hidden(self) -> int:
        """Channels of the depthwise convolution."""
        return round(self.in_channels * self.expansion)

    def output_shape(self, input_shape: Shape) -> Shape:
        return self.strided(input_shape, self.in_channels, self.out_channels, self.stride)

    def module(self, input_shape: Shape) -> ModuleCall:
        from nas.families.mobilevit.modules import InvertedDownsampleModule

        return call(
            InvertedDownsampleModule,
            self.in_channels,
            self.hidden,
            self.out_channels,
            stride=self.stride,
            act=self.activation,
            kernel=self.kernel,
        )


class PatchTransformer(ResidualLayer):
    """Transformer layers on tokens of width ``dim``, between convolutions on the feature map.

    A token attends to those at the same place of other 2x2 patches; a map of odd sides is
    interpolated to even ones. A smaller ``depth`` keeps the first of the transformer layers.
    """

    dim: Positive
    depth: Positive
    expansion: Annotated[float, Field(gt=0)] = 2.0
    activation: Activation = "silu"

    @property
    def hidden(self) -> int:
        """Channels between the two layers of each MLP."""
        return round(self.dim * self.expansion)


class SoftmaxPatchTransformer(PatchTransformer):
    """Attention of each token to each other, at a cost that is quadratic in the map's pixels."""

    heads: Positive = 4

    def output_shape(self, input_shape: Shape) -> Shape:
        if self.dim % self.heads:
            raise ValueError(
                f"{self.slot}: dim must be a multiple of {self.heads} heads, got {self.dim}"
            )
        return super().output_shape(input_shape)


class SeparablePatchTransformer(PatchTransformer):
    """Separable attention, at a linear cost. A map of odd sides stays interpolated."""

    def output_shape(self, input_shape: Shape) -> Shape:
        channels, height, width = super().output_shape(input_shape)
        return channels, height + height % PATCH, width + width % PATCH


class SeparableAttention(ResidualLayer):
    """The attention of ``mobilevit_v2_block`` alone: residual, of all pixels at a linear cost."""

    kind: Literal["separable_attention"] = "separable_attention"

    def module(self, input_shape: Shape) -> ModuleCall:
        from nas.families.mobilevit.separable_modules import SeparableAttentionModule

        return call(SeparableAttentionModule, self.channels)


class MobileViTV1Block(SoftmaxPatchTransformer):
    """Softmax attention; its result and the input are fused by a 3x3 convolution."""

    kind: Literal["mobilevit_v1_block"] = "mobilevit_v1_block"

    def module(self, input_shape: Shape) -> ModuleCall:
        from nas.families.mobilevit.modules import MobileViTV1BlockModule

        return call(
            MobileViTV1BlockModule,
            self.channels,
            self.dim,
            self.hidden,
            depth=self.depth,
            heads=self.heads,
            act=self.activation,
        )


class MobileViTV2Block(SeparablePatchTransformer):
    """Separable attention, whose result is the block's; nothing is fused."""

    kind: Literal["mobilevit_v2_block"] = "mobilevit_v2_block"

    def module(self, input_shape: Shape) -> ModuleCall:
        from nas.families.mobilevit.separable_modules import MobileViTV2BlockModule

        return call(
            MobileViTV2BlockModule,
            self.channels,
            self.dim,
            self.hidden,
            depth=self.depth,
            act=self.activation,
        )


class MobileViTV3Block(SoftmaxPatchTransformer):
    """Softmax attention; local and global features are fused by a 1x1 convolution, with a sum."""

    kind: Literal["mobilevit_v3_block"] = "mobilevit_v3_block"

    def module(self, input_shape: Shape) -> ModuleCall:
        from nas.families.mobilevit.modules import MobileViTV3BlockModule

        return call(
            MobileViTV3BlockModule,
            self.channels,
            self.dim,
            self.hidden,
            depth=self.depth,
            heads=self.heads,
            act=self.activation,
        )


class MobileViTV3SeparableBlock(SeparablePatchTransformer):
    """``mobilevit_v3_block`` with separable attention."""

    kind: Literal["mobilevit_v3_separable_block"] = "mobilevit_v3_separable_block"

    def module(self, input_shape: Shape) -> ModuleCall:
        from nas.families.mobilevit.separable_modules import MobileViTV3SeparableBlockModule

        return call(
            MobileViTV3SeparableBlockModule,
            self.channels,
            self.dim,
            self.hidden,
            depth=self.depth,
            act=self.activation,
        )


class ConvClassifier(Layer):
    """1x1 convolution to ``features`` channels, global mean and a linear head."""

    kind: Literal["conv_classifier"] = "conv_classifier"
    in_channels: Positive
    features: Positive
    classes: Annotated[int, Field(gt=1)]
    activation: Activation = "silu"

    def output_shape(self, input_shape: Shape) -> Shape:
        self.require_channels(input_shape, self.in_channels)
        return self.classes, 1, 1

    def module(self, input_shape: Shape) -> ModuleCall:
        from nas.families.mobilevit.modules import ConvClassifierModule

        return call(
            ConvClassifierModule, self.in_channels, self.features, self.classes, self.activation
        )


class MeanClassifier(Head):
    """Global mean and a linear head."""

    kind: Literal["mean_classifier"] = "mean_classifier"

    def module(self, input_shape: Shape) -> ModuleCall:
        from nas.families.mobilevit.separable_modules import MeanClassifierModule

        return call(MeanClassifierModule, self.in_channels, self.classes)


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
