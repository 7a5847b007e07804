"""MobileNetV2 to V4, EfficientNet-Lite (arXiv 1801.04381, 1905.02244, 2404.10518, 1905.11946).

Convolutions before a norm have no bias; the last of a block has no activation.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from nas.families.parts import ConvNorm, TokenLinear, activation


class MobileConvNorm(ConvNorm):
    """(N, C, H, W) to (N, C', H / stride, W / stride), rounded up, without a bias."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        padding: str = "symmetric",
        epsilon: float,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel=kernel, stride=stride, groups=groups, bias=False
        )
        if padding == "same" and stride > 1:  # at stride 1 both are the same
            self.conv = SameConv2d(
                in_channels, out_channels, kernel, stride, groups=groups, bias=False
            )
        self.norm.eps = epsilon


class SameConv2d(nn.Conv2d):
    """A strided convolution whose zeros around the map are as few as give H / stride, rounded up.

    Of an odd number of rows or columns one more is below or on the right, as in TensorFlow.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(functional.pad(x, self.zeros(*x.shape[2:])))

    def zeros(self, height: int, width: int) -> tuple[int, int, int, int]:
        """How many stand left, right, above and below a map, as functional.pad takes them."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        rows, columns = (max(kernel - (it - 1) % stride - 1, 0) for it in (height, width))
        return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2


class MobileStemModule(nn.Sequential):
    """(N, 3, H, W) to (N, C, H/2, W/2)."""

    def __init__(
        self, in_channels: int, out_channels: int, act: str, *, padding: str, epsilon: float
    ) -> None:
        super().__init__()
        self.conv = MobileConvNorm(
            in_channels, out_channels, kernel=3, stride=2, padding=padding, epsilon=epsilon
        )
        self.act = mobile_activation(act)


class SeparableModule(nn.Module):
    """Depthwise and 1x1 convolutions: (N, C, H, W) to (N, C', H / stride, W / stride)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        act: str,
        *,
        stride: int,
        kernel: int,
        squeezed: int,
        padding: str,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.depthwise = MobileConvNorm(
            in_channels, in_channels, kernel=kernel, stride=stride, groups=in_channels,
            padding=padding, epsilon=epsilon,
        )  # fmt: skip
        self.act = mobile_activation(act)
        self.gate = SqueezeExcite(in_channels, squeezed) if squeezed else nn.Identity()
        self.pointwise = MobileConvNorm(in_channels, out_channels, epsilon=epsilon)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.gate(self.act(self.depthwise(x)))  # (N, C, H / stride, W / stride)
        return self.pointwise(x)  # type: ignore[no-any-return]


class SeparableResidualModule(SeparableModule):
    """The sum of the input (N, C, H, W) and the convolutions' output."""

    branch_ends = ("pointwise",)

    def __init__(
        self, channels: int, act: str, *, kernel: int, squeezed: int, epsilon: float
    ) -> None:
        super().__init__(
            channels, channels, act, stride=1, kernel=kernel, squeezed=squeezed,
            padding="symmetric", epsilon=epsilon,
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


class InvertedModule(nn.Module):
    """1x1, depthwise and 1x1 convolutions: (N, C, H, W) to (N, C', H / stride, W / stride)."""

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        out_channels: int,
        act: str,
        *,
        stride: int,
        kernel: int,
        squeezed: int,
        padding: str,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.fc1 = MobileConvNorm(in_channels, hidden, epsilon=epsilon)
        self.mid = MobileConvNorm(
            hidden, hidden, kernel=kernel, stride=stride, groups=hidden,
            padding=padding, epsilon=epsilon,
        )  # fmt: skip
        self.gate = SqueezeExcite(hidden, squeezed) if squeezed else nn.Identity()
        self.fc2 = MobileConvNorm(hidden, out_channels, epsilon=epsilon)
        self.act1, self.act2 = mobile_activation(act), mobile_activation(act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act1(self.fc1(x))  # (N, hidden, H, W)
        x = self.gate(self.act2(self.mid(x)))  # (N, hidden, H / stride, W / stride)
        return self.fc2(x)  # type: ignore[no-any-return]


class MobileResidualModule(InvertedModule):
    """The sum of the input (N, C, H, W) and the convolutions' output."""

    branch_ends = ("fc2",)

    def __init__(
        self, channels: int, hidden: int, act: str, *, kernel: int, squeezed: int, epsilon: float
    ) -> None:
        super().__init__(
            channels, hidden, channels, act, stride=1, kernel=kernel, squeezed=squeezed,
            padding="symmetric", epsilon=epsilon,
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


class SqueezeExcite(nn.Module):
    """Each channel times a number in [0, 1] made of all channels' means: (N, C, H, W)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.squeeze(x.mean((2, 3), keepdim=True)).relu()  # (N, squeezed, 1, 1)
        return x * functional.hardsigmoid(self.excite(y))


class UniversalModule(nn.Module):
    """Depthwise, 1x1, depthwise, 1x1: (N, C, H, W) to (N, C', H / stride, W / stride).

    Depthwise convolutions of kernel 0 are left out; the middle one has the stride.
    """

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        out_channels: int,
        act: str,
        *,
        stride: int,
        start_kernel: int,
        kernel: int,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.start: nn.Module = nn.Identity()
        if start_kernel:
            self.start = MobileConvNorm(
                in_channels, in_channels, kernel=start_kernel, groups=in_channels, epsilon=epsilon
            )
        self.enter = MobileConvNorm(in_channels, hidden, epsilon=epsilon)
        self.act1 = mobile_activation(act)
        self.middle: nn.Module = nn.Identity()
        self.act2: nn.Module = nn.Identity()
        if kernel:
            self.middle = MobileConvNorm(
                hidden, hidden, kernel=kernel, stride=stride, groups=hidden, epsilon=epsilon
            )
            self.act2 = mobile_activation(act)
        self.leave = MobileConvNorm(hidden, out_channels, epsilon=epsilon)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act1(self.enter(self.start(x)))  # (N, hidden, H, W)
        x = self.act2(self.middle(x))  # (N, hidden, H / stride, W / stride)
        return self.leave(x)  # type: ignore[no-any-return]


class UniversalResidualModule(UniversalModule):
    """The sum of the input (N, C, H, W) and the convolutions' output."""

    branch_ends = ("leave",)

    def __init__(
        self,
        channels: int,
        hidden: int,
        act: str,
        *,
        start_kernel: int,
        kernel: int,
        epsilon: float,
    ) -> None:
        super().__init__(
            channels, hidden, channels, act, stride=1, start_kernel=start_kernel, kernel=kernel,
            epsilon=epsilon,
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


class FusedDownsampleModule(nn.Sequential):
    """(N, C, H, W) to (N, C', H/2, W/2)."""

    def __init__(
        self, in_channels: int, hidden: int, out_channels: int, act: str, *, epsilon: float
    ) -> None:
        super().__init__()
        self.spread = MobileConvNorm(in_channels, hidden, kernel=3, stride=2, epsilon=epsilon)
        self.act1 = mobile_activation(act)
        self.mix = MobileConvNorm(hidden, out_channels, epsilon=epsilon)
        self.act2 = mobile_activation(act)


class EdgeDownsampleModule(nn.Sequential):
    """(N, C, H, W) to (N, C', H/2, W/2)."""

    def __init__(
        self, in_channels: int, hidden: int, out_channels: int, act: str, *, epsilon: float
    ) -> None:
        super().__init__()
        self.expand = MobileConvNorm(in_channels, hidden, kernel=3, stride=2, epsilon=epsilon)
        self.act = mobile_activation(act)
        self.project = MobileConvNorm(hidden, out_channels, epsilon=epsilon)


class PointwiseConvModule(nn.Sequential):
    """(N, C, H, W) to (N, C', H, W)."""

    def __init__(self, in_channels: int, out_channels: int, act: str, *, epsilon: float) -> None:
        super().__init__()
        self.conv = MobileConvNorm(in_channels, out_channels, epsilon=epsilon)
        self.act = mobile_activation(act)


class MobileClassifierModule(nn.Module):
    """(N, C, H, W) to logits (N, classes): 1x1 convolution, global mean, linear head."""

    def __init__(
        self, in_channels: int, features: int, classes: int, act: str, *, epsilon: float
    ) -> None:
        super().__init__()
        self.conv = MobileConvNorm(in_channels, features, epsilon=epsilon)
        self.act = mobile_activation(act)
        self.head = TokenLinear(features, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.conv(x)).mean((2, 3)))  # type: ignore[no-any-return]


class PooledFirstClassifierModule(nn.Module):
    """(N, C, H, W) to logits (N, classes): global mean, 1x1 convolution, linear head."""

    def __init__(self, in_channels: int, features: int, classes: int, act: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, features, 1)
        self.act = mobile_activation(act)
        self.head = TokenLinear(features, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.conv(x.mean((2, 3), keepdim=True)))  # (N, features, 1, 1)
        return self.head(x.squeeze((2, 3)))  # type: ignore[no-any-return]


class PooledNormClassifierModule(nn.Module):
    """(N, C, H, W) to logits (N, classes): global mean, 1x1 convolution with norm, linear head."""

    def __init__(
        self, in_channels: int, features: int, classes: int, act: str, *, epsilon: float
    ) -> None:
        super().__init__()
        self.features = MobileConvNorm(in_channels, features, epsilon=epsilon)
        self.act = mobile_activation(act)
        self.head = TokenLinear(features, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.features(x.mean((2, 3), keepdim=True)))  # (N, features, 1, 1)
        return self.head(x.squeeze((2, 3)))  # type: ignore[no-any-return]


def mobile_activation(name: str) -> nn.Module:
    """The module of an activation's name, relu6 among them."""
    return nn.ReLU6() if name == "relu6" else activation(name)
