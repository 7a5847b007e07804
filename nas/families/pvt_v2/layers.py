"""Layers of PVT v2 (Wang et al., CVMJ 2022, arXiv 2106.13797), as values.

Its head is the ``token_classifier`` of EfficientFormer V1 with another epsilon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from nas.families import layer as base

if TYPE_CHECKING:
    from nas.families.pvt_v2 import modules
else:
    modules = base.LazyModule("nas.families.pvt_v2.modules")


class PatchStem(base.Downsampling):
    """Overlapping patches: a 7x7 convolution of stride 4 and a LayerNorm of each pixel."""

    stride = 4

    kind: Literal["patch_stem"] = "patch_stem"
    in_channels: base.Positive = 3

    def module(self, input_shape: base.Shape) -> base.ModuleCall:
        return base.call(modules.PatchStemModule, self.in_channels, self.out_channels)


class PatchDownsample(base.Downsampling):
    """A 3x3 convolution of stride 2 between two LayerNorms of each pixel."""

    kind: Literal["patch_downsample"] = "patch_downsample"

    def module(self, input_shape: base.Shape) -> base.ModuleCall:
        return base.call(modules.PatchDownsampleModule, self.in_channels, self.out_channels)


class ReducedAttention(base.ResidualLayer):
    """Residual attention whose keys and values come from a smaller map.

    That is a convolution of kernel and stride ``reduction``, or with ``pooled`` the map averaged to
    7x7 (linear attention), whatever its size.
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

    def module(self, input_shape: base.Shape) -> base.ModuleCall:
        return base.call(
            modules.ReducedAttentionModule,
            self.channels,
            heads=self.heads,
            head_dim=self.head_dim,
            reduction=self.reduction,
            pooled=self.pooled,
        )


class TokenFFN(base.ExpandingLayer):
    """Residual MLP of each pixel, with a depthwise convolution before its activation.

    With ``rectified`` a ReLU stands before the convolution, as in the networks with linear
    attention.
    """

    # of B0 to B3, and of B4 and B5
    published_drop_path = ((45_238_696, 0.1), (62_556_072, 0.3))

    kind: Literal["token_ffn"] = "token_ffn"
    rectified: bool = False
    kernel: base.DepthwiseKernel = 3
    activation: base.Activation = "gelu"

    def module(self, input_shape: base.Shape) -> base.ModuleCall:
        return base.call(
            modules.TokenFFNModule,
            self.channels,
            self.hidden,
            self.activation,
            rectified=self.rectified,
            kernel=self.kernel,
        )


LAYERS = (PatchStem, PatchDownsample, ReducedAttention, TokenFFN)
