"""Layers of PVT v2 (Wang et al., CVMJ 2022, arXiv 2106.13797), as values.

Its head is the ``token_classifier`` of EfficientFormer V1 with another epsilon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from nas.families import layer as base

if TYPE_CHECKING:
    from torch import nn


class PatchStem(base.Downsampling):
    """Overlapping patches: a 7x7 convolution of stride 4 and a LayerNorm of each pixel."""

    stride = 4

    kind: Literal["patch_stem"] = "patch_stem"
    in_channels: base.Positive = 3

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.pvt_v2.modules import PatchStemModule

        return PatchStemModule


class PatchDownsample(base.Downsampling):
    """A 3x3 convolution of stride 2 between two LayerNorms of each pixel."""

    kind: Literal["patch_downsample"] = "patch_downsample"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.pvt_v2.modules import PatchDownsampleModule

        return PatchDownsampleModule


class ReducedAttention(base.ResidualLayer):
    """Residual attention whose keys and values come from a smaller map.

    A convolution of stride ``reduction`` makes it; with ``pooled`` it is the mean of 7x7 parts.
    """

    fixed: ClassVar[frozenset[str]] = frozenset({"reduction", "pooled"})

    kind: Literal["reduced_attention"] = "reduced_attention"
    heads: base.Positive
    head_dim: base.Positive
    reduction: Literal[1, 2, 4, 8] = 1
    pooled: bool = False

    def output_shape(self, input_shape: base.Shape) -> base.Shape:
        self.require_divisible(input_shape, self.reduction)
        if self.pooled and self.reduction > 1:
            raise ValueError(f"{self.slot}: reduction must be 1 with pooled, got {self.reduction}")
        return super().output_shape(input_shape)

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.pvt_v2.modules import ReducedAttentionModule

        return ReducedAttentionModule


class TokenFFN(base.ExpandingLayer):
    """Residual MLP of each pixel, with a depthwise convolution before its activation.

    With ``rectified``, as in the networks with linear attention, a ReLU precedes it.
    """

    # of B0 to B3, and of B4 and B5
    published_drop_path = ((45_238_696, 0.1), (62_556_072, 0.3))

    kind: Literal["token_ffn"] = "token_ffn"
    rectified: bool = False
    kernel: base.DepthwiseKernel = 3
    activation: base.Activation = "gelu"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.pvt_v2.modules import TokenFFNModule

        return TokenFFNModule


LAYERS = (PatchStem, PatchDownsample, ReducedAttention, TokenFFN)
