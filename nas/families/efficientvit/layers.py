"""Layers of EfficientViT (Liu et al., CVPR 2023, arXiv 2305.07027), as values.

A block is a ``depthwise_ffn``, a ``cascaded_attention`` and a second ``depthwise_ffn``. Between two
stages stand a ``depthwise_ffn``, the ``patch_merging`` and another ``depthwise_ffn``.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

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


class DeepConvStem(Downsampling):
    """Four 3x3 convolutions of stride 2, each with twice the channels of the one before it."""

    stride = 16

    kind: Literal["deep_conv_stem"] = "deep_conv_stem"
    in_channels: Positive = 3
    activation: Activation = "relu"

    def output_shape(self, input_shape: Shape) -> Shape:
        shape = super().output_shape(input_shape)
        if self.out_channels % 8:
            raise ValueError(
                f"{self.slot}: the width must be a multiple of 8, got {self.out_channels}"
            )
        return shape

    def module(self, input_shape: Shape) -> ModuleCall:
        from nas.families.efficientvit.modules import DeepConvStemModule

        return call(DeepConvStemModule, self.in_channels, self.out_channels, self.activation)


class DepthwiseFFN(ExpandingLayer):
    """A residual depthwise convolution, then a residual FFN of 1x1 convolutions."""

    kind: Literal["depthwise_ffn"] = "depthwise_ffn"
    kernel: DepthwiseKernel = 3
    activation: Activation = "relu"

    def module(self, input_shape: Shape) -> ModuleCall:
        from nas.families.efficientvit.modules import DepthwiseFFNModule

        return call(
            DepthwiseFFNModule, self.channels, self.hidden, self.activation, kernel=self.kernel
        )


class CascadedAttention(ResidualLayer):
    """Residual attention in windows; each head sees its share of the channels.

    Each head but the first sees the output of the head before it, too. Maps that ``window`` does
    not divide are padded with zeros. ``kernels`` are those of the depthwise convolutions of the
    heads' queries, as in 7-5-3; further heads have the last one.
    """

    fixed: ClassVar[frozenset[str]] = frozenset({"heads", "kernels"})

    kind: Literal["cascaded_attention"] = "cascaded_attention"
    heads: Positive
    key_dim: Positive = 16
    kernels: Annotated[str, Field(pattern=r"^[1357](-[1357])*$")] = "5"
    window: Positive = 7
    activation: Activation = "relu"

    @property
    def head_kernels(self) -> tuple[int, ...]:
        """The kernel of each head."""
        given = [int(kernel) for kernel in self.kernels.split("-")]
        return tuple(given[min(head, len(given) - 1)] for head in range(self.heads))

    def output_shape(self, input_shape: Shape) -> Shape:
        if self.channels % self.heads:
            raise ValueError(
                f"{self.slot}: the width must be a multiple of {self.heads} (heads), "
                f"got {self.channels}"
            )
        return super().output_shape(input_shape)

    def module(self, input_shape: Shape) -> ModuleCall:
        from nas.families.efficientvit.modules import CascadedAttentionModule

        return call(
            CascadedAttentionModule,
            self.channels,
            key_dim=self.key_dim,
            kernels=self.head_kernels,
            map_size=input_shape[1:],
            window=self.window,
            act=self.activation,
        )


class PatchMerging(Layer):
    """1x1, depthwise 3x3 of stride 2, squeeze and excitation, 1x1; odd sides are rounded up."""

    kind: Literal["patch_merging"] = "patch_merging"
    in_channels: Positive
    out_channels: Positive
    expansion: Annotated[float, Field(gt=0)] = 4
    activation: Activation = "relu"

    @property
    def hidden(self) -> int:
        """Channels of the depthwise convolution."""
        return round(self.in_channels * self.expansion)

    def output_shape(self, input_shape: Shape) -> Shape:
        self.require_channels(input_shape, self.in_channels)
        return self.out_channels, (input_shape[1] + 1) // 2, (input_shape[2] + 1) // 2

    def module(self, input_shape: Shape) -> ModuleCall:
        from nas.families.efficientvit.modules import PatchMergingModule

        return call(
            PatchMergingModule, self.in_channels, self.hidden, self.out_channels, self.activation
        )


class PooledClassifier(Head):
    """Global mean, a norm over the batch and a linear head."""

    kind: Literal["pooled_classifier"] = "pooled_classifier"

    def module(self, input_shape: Shape) -> ModuleCall:
        from nas.families.efficientvit.modules import PooledClassifierModule

        return call(PooledClassifierModule, self.in_channels, self.classes)


LAYERS = (DeepConvStem, DepthwiseFFN, CascadedAttention, PatchMerging, PooledClassifier)
