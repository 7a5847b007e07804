"""Layers of EfficientFormer V2 (Li et al., ICCV 2023, arXiv 2212.08059), as values."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from nas.families.layer import Activation, DepthwiseKernel, Layer, Positive, ResidualLayer, Shape


class ConvStem(Layer):
    """Two 3x3 convolutions of stride 2, the first with half the channels."""

    kind: Literal["conv_stem"] = "conv_stem"
    in_channels: Positive = 3
    out_channels: Positive
    activation: Activation = "gelu"

    def output_shape(self, input_shape: Shape) -> Shape:
        return self.strided(input_shape, self.in_channels, self.out_channels, 4)


class ConvFFN(ResidualLayer):
    """Residual FFN of 1x1, depthwise and 1x1 convolutions."""

    kind: Literal["conv_ffn"] = "conv_ffn"
    expansion: Annotated[float, Field(gt=0)]
    kernel: DepthwiseKernel = 3
    activation: Activation = "gelu"

    @property
    def hidden(self) -> int:
        """Channels of the depthwise convolution."""
        return round(self.channels * self.expansion)


class Attention4D(Layer):
    """Residual attention on a feature map, with talking heads and local values.

    With ``stride`` 2 queries, keys and values live on a map of half the side, and the result is
    interpolated back.
    """

    descending: ClassVar[frozenset[str]] = frozenset({"stride"})

    kind: Literal["attention4d"] = "attention4d"
    channels: Positive
    heads: Positive = 8
    key_dim: Positive = 32
    value_dim: Positive = 128
    stride: Literal[1, 2] = 1
    talking_heads: bool = True
    activation: Activation = "gelu"

    def output_shape(self, input_shape: Shape) -> Shape:
        self.require_channels(input_shape, self.channels)
        self.require_divisible(input_shape, self.stride)
        return input_shape


class ConvDownsample(Layer):
    """3x3 convolution of stride 2."""

    kind: Literal["conv_downsample"] = "conv_downsample"
    in_channels: Positive
    out_channels: Positive

    def output_shape(self, input_shape: Shape) -> Shape:
        return self.strided(input_shape, self.in_channels, self.out_channels, 2)


class AttentionDownsample(Layer):
    """Sum of a strided convolution and an attention whose queries are the halved map."""

    kind: Literal["attention_downsample"] = "attention_downsample"
    in_channels: Positive
    out_channels: Positive
    heads: Positive = 8
    key_dim: Positive = 16
    value_dim: Positive = 64
    activation: Activation = "gelu"

    def output_shape(self, input_shape: Shape) -> Shape:
        return self.strided(input_shape, self.in_channels, self.out_channels, 2)


class Classifier(Layer):
    """Norm, global mean and a linear head; with ``distillation`` a second one, averaged."""

    kind: Literal["classifier"] = "classifier"
    in_channels: Positive
    classes: Annotated[int, Field(gt=1)]
    distillation: bool = True

    def output_shape(self, input_shape: Shape) -> Shape:
        self.require_channels(input_shape, self.in_channels)
        return self.classes, 1, 1
