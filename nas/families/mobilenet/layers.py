"""Layers of MobileNetV2, MobileNetV3, MobileNetV4 and EfficientNet-Lite, as values.

MobileNetV2: Sandler et al., CVPR 2018, arXiv 1801.04381. MobileNetV3: Howard et al., ICCV 2019,
arXiv 1905.02244. MobileNetV4: Qin et al., ECCV 2024, arXiv 2404.10518. EfficientNet-Lite: Tan and
Le, ICML 2019, arXiv 1905.11946, without squeeze and excitation. The first block of a stage, which
changes the width and may halve the map, is its downsampling; a width that only the stem has is a
stage of its own. Odd sides are rounded up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from nas.families import layer as base

if TYPE_CHECKING:
    from torch import nn

Activation = Literal[base.Activation, "relu6"]
Padding = Literal["symmetric", "same"]
"""Zeros around a map before a stride of 2: ``same``, as TensorFlow pads, has one more on the right
and below than on the left and above where the side is even."""
Epsilon = base.Epsilon
"""The number that norms add to the variance: 1e-5, or TensorFlow's 1e-3."""
FIXED = frozenset({"padding", "epsilon"})
"""Fields that published weights need; nothing for a search to choose."""


def squeezed_channels(channels: int) -> int:
    """Channels inside a squeeze and excitation: a quarter, as a multiple of 8.

    Rounding never takes away more than a tenth, as in the published networks.
    """
    quarter = channels / 4
    rounded = max(8, int(quarter + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * quarter else rounded + 8


class MobileStem(base.Downsampling):
    """One 3x3 convolution of stride 2."""

    fixed: ClassVar[frozenset[str]] = FIXED

    kind: Literal["mobile_stem"] = "mobile_stem"
    in_channels: base.Positive = 3
    padding: Padding = "symmetric"
    epsilon: Epsilon = 1e-5
    activation: Activation = "relu6"

    def output_shape(self, input_shape: base.Shape) -> base.Shape:
        self.require_channels(input_shape, self.in_channels)
        return _strided(input_shape, self.out_channels, self.stride)

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.mobilenet.modules import MobileStemModule

        return MobileStemModule


class SeparableResidual(base.ResidualLayer):
    """Depthwise and 1x1 convolutions, and the sum: an inverted residual that does not expand."""

    fixed: ClassVar[frozenset[str]] = FIXED

    kind: Literal["separable_residual"] = "separable_residual"
    kernel: base.DepthwiseKernel = 3
    squeeze: bool = False
    epsilon: Epsilon = 1e-5
    activation: Activation = "relu6"

    @property
    def squeezed(self) -> int:
        """Channels inside the squeeze and excitation, 0 if there is none."""
        return squeezed_channels(self.channels) if self.squeeze else 0

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.mobilenet.modules import SeparableResidualModule

        return SeparableResidualModule


class MobileResidual(base.ExpandingLayer):
    """1x1, depthwise and 1x1 convolutions, and the sum; with ``squeeze`` also the excitation."""

    fixed: ClassVar[frozenset[str]] = FIXED

    kind: Literal["mobile_residual"] = "mobile_residual"
    kernel: base.DepthwiseKernel = 3
    squeeze: bool = False
    epsilon: Epsilon = 1e-5
    activation: Activation = "relu6"

    @property
    def squeezed(self) -> int:
        """Channels inside the squeeze and excitation, 0 if there is none."""
        return squeezed_channels(self.hidden) if self.squeeze else 0

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.mobilenet.modules import MobileResidualModule

        return MobileResidualModule


class SeparableDownsample(base.Layer):
    """``separable_residual`` without the sum, which may change the width and halve the map."""

    fixed: ClassVar[frozenset[str]] = FIXED

    kind: Literal["separable_downsample"] = "separable_downsample"
    in_channels: base.Positive
    out_channels: base.Positive
    stride: Literal[1, 2] = 2
    kernel: base.DepthwiseKernel = 3
    squeeze: bool = False
    padding: Padding = "symmetric"
    epsilon: Epsilon = 1e-5
    activation: Activation = "relu6"

    @property
    def squeezed(self) -> int:
        """Channels inside the squeeze and excitation, 0 if there is none."""
        return squeezed_channels(self.in_channels) if self.squeeze else 0

    def output_shape(self, input_shape: base.Shape) -> base.Shape:
        self.require_channels(input_shape, self.in_channels)
        return _strided(input_shape, self.out_channels, self.stride)

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.mobilenet.modules import SeparableModule

        return SeparableModule


class MobileDownsample(base.Layer):
    """``mobile_residual`` without the sum, which may change the width and halve the map."""

    fixed: ClassVar[frozenset[str]] = FIXED

    kind: Literal["mobile_downsample"] = "mobile_downsample"
    in_channels: base.Positive
    out_channels: base.Positive
    expansion: base.Expansion
    stride: Literal[1, 2] = 2
    kernel: base.DepthwiseKernel = 3
    squeeze: bool = False
    padding: Padding = "symmetric"
    epsilon: Epsilon = 1e-5
    activation: Activation = "relu6"

    @property
    def hidden(self) -> int:
        """Channels of the depthwise convolution."""
        return round(self.in_channels * self.expansion)

    @property
    def squeezed(self) -> int:
        """Channels inside the squeeze and excitation, 0 if there is none."""
        return squeezed_channels(self.hidden) if self.squeeze else 0

    def output_shape(self, input_shape: base.Shape) -> base.Shape:
        self.require_channels(input_shape, self.in_channels)
        return _strided(input_shape, self.out_channels, self.stride)

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.mobilenet.modules import InvertedModule

        return InvertedModule


class UniversalResidual(base.ExpandingLayer):
    """MobileNetV4's: depthwise of ``start_kernel``, 1x1, depthwise of ``kernel``, 1x1, and the sum.

    A kernel of 0 leaves its convolution out.
    """

    fixed: ClassVar[frozenset[str]] = FIXED | {"start_kernel"}

    kind: Literal["universal_residual"] = "universal_residual"
    start_kernel: Literal[0, 3, 5] = 0
    kernel: Literal[0, 3, 5] = 3
    epsilon: Epsilon = 1e-5
    activation: Activation = "relu"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.mobilenet.modules import UniversalResidualModule

        return UniversalResidualModule


class UniversalDownsample(base.Layer):
    """``universal_residual`` without the sum; its middle convolution has the stride."""

    fixed: ClassVar[frozenset[str]] = FIXED | {"start_kernel"}

    kind: Literal["universal_downsample"] = "universal_downsample"
    in_channels: base.Positive
    out_channels: base.Positive
    expansion: base.Expansion
    stride: Literal[1, 2] = 2
    start_kernel: Literal[0, 3, 5] = 0
    kernel: base.DepthwiseKernel = 3
    epsilon: Epsilon = 1e-5
    activation: Activation = "relu"

    @property
    def hidden(self) -> int:
        """Channels of the middle convolution."""
        return round(self.in_channels * self.expansion)

    def output_shape(self, input_shape: base.Shape) -> base.Shape:
        self.require_channels(input_shape, self.in_channels)
        return _strided(input_shape, self.out_channels, self.stride)

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.mobilenet.modules import UniversalModule

        return UniversalModule


class ExpandingDownsampling(base.Downsampling):
    """3x3 convolution of stride 2, wider by ``expansion``, and a 1x1 convolution."""

    fixed: ClassVar[frozenset[str]] = FIXED

    expansion: base.Expansion
    epsilon: Epsilon = 1e-5
    activation: Activation = "relu"

    @property
    def hidden(self) -> int:
        """Channels between the two convolutions."""
        return round(self.in_channels * self.expansion)

    def output_shape(self, input_shape: base.Shape) -> base.Shape:
        self.require_channels(input_shape, self.in_channels)
        return _strided(input_shape, self.out_channels, self.stride)


class FusedDownsample(ExpandingDownsampling):
    """3x3 convolution of stride 2, wider by ``expansion``, and 1x1, both with an activation."""

    kind: Literal["fused_downsample"] = "fused_downsample"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.mobilenet.modules import FusedDownsampleModule

        return FusedDownsampleModule


class EdgeDownsample(ExpandingDownsampling):
    """``fused_downsample`` without an activation behind the 1x1: EfficientNet-EdgeTPU's block."""

    kind: Literal["edge_downsample"] = "edge_downsample"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.mobilenet.modules import EdgeDownsampleModule

        return EdgeDownsampleModule


class PointwiseConv(base.Layer):
    """One 1x1 convolution with norm and activation: the last of MobileNetV3 before the mean."""

    fixed: ClassVar[frozenset[str]] = FIXED

    kind: Literal["pointwise_conv"] = "pointwise_conv"
    in_channels: base.Positive
    out_channels: base.Positive
    epsilon: Epsilon = 1e-5
    activation: Activation = "hardswish"

    def output_shape(self, input_shape: base.Shape) -> base.Shape:
        self.require_channels(input_shape, self.in_channels)
        return _strided(input_shape, self.out_channels, 1)

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.mobilenet.modules import PointwiseConvModule

        return PointwiseConvModule


class MobileClassifier(base.Head):
    """1x1 convolution to ``features`` channels with a norm, global mean and a linear head."""

    fixed: ClassVar[frozenset[str]] = FIXED

    kind: Literal["mobile_classifier"] = "mobile_classifier"
    features: base.Positive
    epsilon: Epsilon = 1e-5
    activation: Activation = "relu6"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.mobilenet.modules import MobileClassifierModule

        return MobileClassifierModule


class PooledFirstClassifier(base.Head):
    """MobileNetV3's: global mean, 1x1 convolution to ``features`` channels and a linear head."""

    kind: Literal["pooled_first_classifier"] = "pooled_first_classifier"
    features: base.Positive
    activation: Activation = "hardswish"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.mobilenet.modules import PooledFirstClassifierModule

        return PooledFirstClassifierModule


class PooledNormClassifier(base.Head):
    """MobileNetV4's: ``pooled_first_classifier`` with a norm behind the 1x1 convolution."""

    fixed: ClassVar[frozenset[str]] = FIXED

    kind: Literal["pooled_norm_classifier"] = "pooled_norm_classifier"
    features: base.Positive
    epsilon: Epsilon = 1e-5
    activation: Activation = "relu"

    @staticmethod
    def module_class() -> type[nn.Module]:
        from nas.families.mobilenet.modules import PooledNormClassifierModule

        return PooledNormClassifierModule


LAYERS = (
    MobileStem,
    SeparableResidual,
    SeparableDownsample,
    MobileResidual,
    MobileDownsample,
    UniversalResidual,
    UniversalDownsample,
    FusedDownsample,
    EdgeDownsample,
    PointwiseConv,
    MobileClassifier,
    PooledFirstClassifier,
    PooledNormClassifier,
)


def _strided(input_shape: base.Shape, channels: int, stride: int) -> base.Shape:
    _, height, width = input_shape
    return channels, -(-height // stride), -(-width // stride)
