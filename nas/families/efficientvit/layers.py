"""Layers of EfficientViT (Liu et al., CVPR 2023, arXiv 2305.07027), as values.

A block is a ``depthwise_ffn``, a ``cascaded_attention`` and a second ``depthwise_ffn``. Between two
stages stand a ``depthwise_ffn``, the ``patch_merging`` and another ``depthwise_ffn``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from nas.families import layer as base

if TYPE_CHECKING:
    from torch import nn


class DeepConvStem(base.Downsampling):
    """Four 3x3 convolutions of stride 2, each with twice the channels of the one before it."""

    stride = 16

    kind: Literal["deep_conv_stem"] = "deep_conv_stem"
    in_channels: base.Positive = 3
    activation: base.Activation = "relu"

    def output_shape(self, input_shape: base.Shape) -> base.Shape:
        shape = super().output_shape(input_shape)
        if self.out_channels % 8:
            raise ValueError(
                f"{self.slot}: the width must be a multiple of 8, got {self.out_channels}"
            )
        return shape

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.efficientvit.modules import DeepConvStemModule

        return DeepConvStemModule


class DepthwiseFFN(base.ExpandingLayer):
    """A residual depthwise convolution, then a residual FFN of 1x1 convolutions."""

    kind: Literal["depthwise_ffn"] = "depthwise_ffn"
    kernel: base.DepthwiseKernel = 3
    activation: base.Activation = "relu"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.efficientvit.modules import DepthwiseFFNModule

        return DepthwiseFFNModule


class CascadedAttention(base.ResidualLayer):
    """Residual attention in windows; each head sees its channels and the head before it.

    Maps that ``window`` does not divide are padded with zeros. ``kernels`` are those of the heads'
    queries, as in 7-5-3; further heads have the last one.
    """

    fixed: ClassVar[frozenset[str]] = frozenset({"heads", "kernels"})

    kind: Literal["cascaded_attention"] = "cascaded_attention"
    heads: base.Positive
    key_dim: base.Positive = 16
    kernels: Annotated[str, Field(pattern=r"^[1357](-[1357])*$")] = "5"
    window: base.Positive = 7
    activation: base.Activation = "relu"

    @property
    def head_kernels(self) -> tuple[int, ...]:
        """The kernel of each head."""
        given = [int(kernel) for kernel in self.kernels.split("-")]
        return tuple(given[min(head, len(given) - 1)] for head in range(self.heads))

    def output_shape(self, input_shape: base.Shape) -> base.Shape:
        if self.channels % self.heads:
            raise ValueError(
                f"{self.slot}: the width must be a multiple of {self.heads} (heads), "
                f"got {self.channels}"
            )
        return super().output_shape(input_shape)

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.efficientvit.modules import CascadedAttentionModule

        return CascadedAttentionModule


class PatchMerging(base.Layer):
    """1x1, depthwise 3x3 of stride 2, squeeze and excitation, 1x1; odd sides are rounded up."""

    kind: Literal["patch_merging"] = "patch_merging"
    in_channels: base.Positive
    out_channels: base.Positive
    expansion: base.Expansion = 4
    activation: base.Activation = "relu"

    @property
    def hidden(self) -> int:
        """Channels of the depthwise convolution."""
        return round(self.in_channels * self.expansion)

    def output_shape(self, input_shape: base.Shape) -> base.Shape:
        self.require_channels(input_shape, self.in_channels)
        return self.out_channels, (input_shape[1] + 1) // 2, (input_shape[2] + 1) // 2

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.efficientvit.modules import PatchMergingModule

        return PatchMergingModule


class PooledClassifier(base.Head):
    """Global mean, a norm over the batch and a linear head."""

    kind: Literal["pooled_classifier"] = "pooled_classifier"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.efficientvit.modules import PooledClassifierModule

        return PooledClassifierModule


LAYERS = (DeepConvStem, DepthwiseFFN, CascadedAttention, PatchMerging, PooledClassifier)
