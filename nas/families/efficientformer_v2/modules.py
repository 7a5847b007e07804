"""EfficientFormer V2 (Li et al., ICCV 2023, arXiv 2212.08059).

All convolutions have a bias even before a norm, as in the published networks.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from nas.families.parts import (
    Bottleneck,
    ConvNorm,
    MultiHead,
    RelativeBias,
    Scale,
    activation,
    fold_norm_before,
    fold_scale,
)


class ConvStemModule(nn.Sequential):
    """(N, 3, H, W) to (N, C, H/4, W/4)."""

    def __init__(self, in_channels: int, out_channels: int, act: str) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, out_channels // 2, kernel=3, stride=2)
        self.act1 = activation(act)
        self.conv2 = ConvNorm(out_channels // 2, out_channels, kernel=3, stride=2)
        self.act2 = activation(act)


class ConvFFNModule(Bottleneck):
    """x + scale * FFN(x), the FFN with a depthwise convolution between its 1x1 ones."""

    has_biases = True

    def __init__(self, channels: int, hidden: int, act: str, *, kernel: int = 3) -> None:
        super().__init__(channels, hidden, channels, stride=1, act=act, kernel=kernel)
        self.scale: nn.Module = Scale(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale(super().forward(x))  # type: ignore[no-any-return]

    def fold(self) -> nn.Module:
        self.fc2, self.scale = fold_scale(self.fc2, self.scale), nn.Identity()
        return self


class Attention4DModule(MultiHead):
    """x + scale * attention(x), with talking heads and a depthwise "local" path of the values."""

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        key_dim: int,
        value_dim: int,
        map_size: tuple[int, int],
        stride: int,
        talking_heads: bool,
        act: str,
    ) -> None:
        super().__init__(heads, key_dim, value_dim)
        values = heads * value_dim
        self.stride_conv = (
            ConvNorm(channels, channels, kernel=3, stride=stride, groups=channels)
            if stride > 1
            else nn.Identity()
        )
        self.upsample: nn.Module = (
            nn.Upsample(scale_factor=stride, mode="bilinear") if stride > 1 else nn.Identity()
        )
        self.q = ConvNorm(channels, heads * key_dim)
        self.k = ConvNorm(channels, heads * key_dim)
        self.v = ConvNorm(channels, values)
        self.v_local = ConvNorm(values, values, kernel=3, groups=values)
        self.bias = RelativeBias(heads, (map_size[0] // stride, map_size[1] // stride))
        self.talking_head1 = nn.Conv2d(heads, heads, 1) if talking_heads else nn.Identity()
        self.talking_head2 = nn.Conv2d(heads, heads, 1) if talking_heads else nn.Identity()
        self.act = activation(act)
        self.proj: nn.Module = ConvNorm(values, channels)
        self.scale: nn.Module = Scale(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stride_conv(x)
        n, _, height, width = y.shape
        q = self.q(y).reshape(n, self.heads, self.key_dim, height * width).transpose(2, 3)
        k = self.k(y).reshape(n, self.heads, self.key_dim, height * width)
        v = self.v(y)  # (N, heads * value_dim, H, W)
        local = self.v_local(v)
        v = v.reshape(n, self.heads, self.value_dim, height * width).transpose(2, 3)
        weights = (q @ k) * self.key_dim**-0.5 + self.bias()  # (N, heads, HW, HW)
        weights = self.talking_head2(self.talking_head1(weights).softmax(-1))
        y = (weights @ v).transpose(2, 3).reshape(n, -1, height, width) + local
        return x + self.scale(self.proj(self.act(self.upsample(y))))  # type: ignore[no-any-return]

    def fold(self) -> nn.Module:
        self.proj, self.scale = fold_scale(self.proj, self.scale), nn.Identity()
        if isinstance(self.upsample, nn.Upsample):
            # pooling of one pixel brings the map into onnxruntime's blocked layout, in which it
            # interpolates faster (see benchmarks/README.md)
            self.upsample = nn.Sequential(nn.AvgPool2d(1), self.upsample)
        return self


class ConvDownsampleModule(ConvNorm):
    """(N, C, H, W) to (N, C', H/2, W/2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel=3, stride=2)


class AttentionDownsampleModule(MultiHead):
    """(N, C, H, W) to (N, C', H/2, W/2): a strided convolution plus a strided attention."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        heads: int,
        key_dim: int,
        value_dim: int,
        map_size: tuple[int, int],
        act: str,
    ) -> None:
        super().__init__(heads, key_dim, value_dim)
        values = heads * value_dim
        self.conv = ConvNorm(in_channels, out_channels, kernel=3, stride=2)
        self.q_local = nn.Conv2d(in_channels, in_channels, 3, 2, padding=1, groups=in_channels)
        self.q = ConvNorm(in_channels, heads * key_dim)
        self.k = ConvNorm(in_channels, heads * key_dim)
        self.v = ConvNorm(in_channels, values)
        self.v_local = ConvNorm(values, values, kernel=3, stride=2, groups=values)
        self.bias = RelativeBias(heads, map_size, stride=2)
        self.act = activation(act)
        self.proj = ConvNorm(values, out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, _, height, width = x.shape
        # pooling of one pixel subsamples like x[..., ::2, ::2] but keeps the runtime's layout
        q = self.q(self.q_local(x) + functional.avg_pool2d(x, 1, 2))
        q = q.reshape(n, self.heads, self.key_dim, height * width // 4).transpose(2, 3)
        k = self.k(x).reshape(n, self.heads, self.key_dim, height * width)
        v = self.v(x)
        local = self.v_local(v)
        v = v.reshape(n, self.heads, self.value_dim, height * width).transpose(2, 3)
        weights = ((q @ k) * self.key_dim**-0.5 + self.bias()).softmax(-1)  # (N, heads, HW/4, HW)
        y = (weights @ v).transpose(2, 3).reshape(n, -1, height // 2, width // 2) + local
        return self.conv(x) + self.proj(self.act(y))  # type: ignore[no-any-return]


class ClassifierModule(nn.Module):
    """(N, C, H, W) to logits (N, classes): norm, global mean, the average of one or two heads."""

    def __init__(self, in_channels: int, classes: int, *, distillation: bool) -> None:
        super().__init__()
        self.norm: nn.Module = nn.BatchNorm2d(in_channels)
        self.head = nn.Linear(in_channels, classes)
        self.head_dist = nn.Linear(in_channels, classes) if distillation else None
        for head in (self.head, self.head_dist):
            if head is not None:
                nn.init.trunc_normal_(head.weight, std=0.02)
                nn.init.zeros_(head.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits(self.norm(x).mean((2, 3)))

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of features (N, C): the mean of the heads."""
        logits = self.head(features)
        if self.head_dist is not None:
            logits = (logits + self.head_dist(features)) / 2
        return logits  # type: ignore[no-any-return]

    def fold(self) -> nn.Module:
        self.average_heads()
        assert isinstance(self.norm, nn.BatchNorm2d)
        fold_norm_before(self.norm, self.head)
        self.norm = nn.Identity()
        return self

    def average_heads(self) -> None:
        """Replace the two heads by one that computes their mean."""
        heads = [self.head] if self.head_dist is None else [self.head, self.head_dist]
        weight = torch.stack([head.weight for head in heads]).mean(0)
        self.head = nn.Linear(weight.shape[1], weight.shape[0])
        self.head.weight = nn.Parameter(weight)
        self.head.bias = nn.Parameter(torch.stack([head.bias for head in heads]).mean(0))
        self.head_dist = None
