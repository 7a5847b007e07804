"""Layers of MobileNetV2, MobileNetV3 and EfficientNet-Lite, as values.

MobileNetV2: Sandler et al., CVPR 2018, arXiv 1801.04381. MobileNetV3: Howard et al., ICCV 2019,
arXiv 1905.02244. EfficientNet-Lite: Tan and Le, ICML 2019, arXiv 1905.11946, without squeeze and
excitation. The first block of a stage, which changes the width and may halve the map, is its
downsampling; a width that only the stem has is a stage of its own. Odd sides are rounded up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from nas.families import layer as base

if TYPE_CHECKING:
    from torch import nn

Activation = Literal[base.Activation, "relu6"]
Padding = Literal["symmetric", "same"]
"""Zeros around a map before a stride of 2: ``same``, as TensorFlow pads, has one more on the right
and below than on the left and above where the side is even."""
Epsilon = Annotated[float, Field(gt=0)]
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
    expansion: Annotated[float, Field(gt=0)]
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


class PointwiseConv(base.Layer):
    """One 1x1 convolution with norm and activation: MobileNetV3's last before the mean."""

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


LAYERS = (
    MobileStem,
    SeparableResidual,
    SeparableDownsample,
    MobileResidual,
    MobileDownsample,
    PointwiseConv,
    MobileClassifier,
    PooledFirstClassifier,
)


def _strided(input_shape: base.Shape, channels: int, stride: int) -> base.Shape:
    _, height, width = input_shape
    return channels, -(-height // stride), -(-width // stride)
