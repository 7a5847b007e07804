"""Layers of EfficientFormer V2 (Li et al., ICCV 2023, arXiv 2212.08059), as values."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from nas.families import layer as base

if TYPE_CHECKING:
    from torch import nn


class ConvStem(base.Downsampling):
    """Two 3x3 convolutions of stride 2, the first with half the channels."""

    stride = 4

    kind: Literal["conv_stem"] = "conv_stem"
    in_channels: base.Positive = 3
    activation: base.Activation = "gelu"

    def output_shape(self, input_shape: base.Shape) -> base.Shape:
        if self.out_channels < 2:
            raise ValueError(f"{self.slot}: the width must be at least 2, got {self.out_channels}")
        return super().output_shape(input_shape)

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.efficientformer_v2.modules import ConvStemModule

        return ConvStemModule


class ConvFFN(base.ExpandingLayer):
    """Residual FFN of 1x1, depthwise and 1x1 convolutions."""

    # of S1, S2 and L
    published_drop_path = ((6_185_560, 0.0), (12_710_112, 0.02), (26_322_288, 0.1))

    kind: Literal["conv_ffn"] = "conv_ffn"
    kernel: base.DepthwiseKernel = 3
    activation: base.Activation = "gelu"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.efficientformer_v2.modules import ConvFFNModule

        return ConvFFNModule


class Attention4D(base.ResidualLayer):
    """Residual attention, with talking heads and local values, on a map ``stride`` times smaller.

    The result is interpolated back.
    """

    descending: ClassVar[frozenset[str]] = frozenset({"stride"})

    kind: Literal["attention4d"] = "attention4d"
    heads: base.Positive = 8
    key_dim: base.Positive = 32
    value_dim: base.Positive = 128
    stride: Literal[1, 2] = 1
    talking_heads: bool = True
    activation: base.Activation = "gelu"

    def output_shape(self, input_shape: base.Shape) -> base.Shape:
        self.require_divisible(input_shape, self.stride)
        return super().output_shape(input_shape)

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.efficientformer_v2.modules import Attention4DModule

        return Attention4DModule


class ConvDownsample(base.Downsampling):
    """3x3 convolution of stride 2."""

    kind: Literal["conv_downsample"] = "conv_downsample"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.efficientformer_v2.modules import ConvDownsampleModule

        return ConvDownsampleModule


class AttentionDownsample(base.Downsampling):
    """Sum of a strided convolution and an attention whose queries are the halved map."""

    kind: Literal["attention_downsample"] = "attention_downsample"
    heads: base.Positive = 8
    key_dim: base.Positive = 16
    value_dim: base.Positive = 64
    activation: base.Activation = "gelu"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.efficientformer_v2.modules import AttentionDownsampleModule

        return AttentionDownsampleModule


class Classifier(base.Head):
    """Norm, global mean and a linear head; with ``distillation`` a second one, averaged."""

    kind: Literal["classifier"] = "classifier"
    distillation: bool = True

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.efficientformer_v2.modules import ClassifierModule

        return ClassifierModule


LAYERS = (ConvStem, ConvFFN, Attention4D, ConvDownsample, AttentionDownsample, Classifier)
