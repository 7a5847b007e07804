"""EfficientFormer V1 (Li et al., NeurIPS 2022, arXiv 2206.01191).

Modules take and return feature maps; those that work on tokens see them as (N, H, W, C), a view.
"""

from __future__ import annotations

import torch
from torch import nn

from nas.families.efficientformer_v2.modules import ClassifierModule
from nas.families.parts import (
    ConvNorm,
    MultiHead,
    RelativeBias,
    Scale,
    TokenLinear,
    TokenScale,
    activation,
    fold_scale,
    fold_token_scale,
)


class PointwiseFFNModule(nn.Module):
    """x + scale * MLP(x), the MLP of 1x1 convolutions."""

    def __init__(self, channels: int, hidden: int, act: str) -> None:
        super().__init__()
        self.fc1 = ConvNorm(channels, hidden)
        self.act = activation(act)
        self.fc2: nn.Module = ConvNorm(hidden, channels)
        self.scale: nn.Module = Scale(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.fc1(x))  # (N, hidden, H, W)
        return x + self.scale(self.fc2(y))  # type: ignore[no-any-return]

    def fold(self) -> nn.Module:
        self.fc2, self.scale = fold_scale(self.fc2, self.scale), nn.Identity()
        return self


class MetaBlock4DModule(PointwiseFFNModule):
    """Pooling as token mixer, then the MLP."""

    def __init__(self, channels: int, hidden: int, act: str) -> None:
        super().__init__(channels, hidden, act)
        self.mixer = PoolingModule(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.mixer(x))


class PoolingModule(nn.Module):
    """x + scale * (mean of the 3x3 pixels around x - x); pixels beyond the border do not count."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.scale = Scale(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale(self.pool(x) - x)  # type: ignore[no-any-return]

    def fold(self) -> nn.Module:
        return FoldedPooling(self.pool, self.scale.gamma.detach())


class FoldedPooling(nn.Module):
    """``PoolingModule`` for inference: (1 - scale) * x + scale * pool(x), as convolutions.

    They keep the map in onnxruntime's blocked layout (see benchmarks/README.md).
    """

    def __init__(self, pool: nn.AvgPool2d, scale: torch.Tensor) -> None:
        super().__init__()
        self.pool = pool
        self.keep = _factors(1 - scale)
        self.mix = _factors(scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.keep(x) + self.mix(self.pool(x))  # type: ignore[no-any-return]


def _factors(factors: torch.Tensor) -> nn.Conv2d:
    """A convolution that multiplies each channel by its factor."""
    channels = len(factors)
    conv = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
    conv.weight = nn.Parameter(factors.reshape(channels, 1, 1, 1).clone())
    return conv


class MetaBlock3DModule(nn.Module):
    """y = x + scale * attention(norm(x)), then y + scale * MLP(norm(y)), each pixel a token."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        *,
        heads: int,
        key_dim: int,
        value_dim: int,
        map_size: tuple[int, int],
        act: str,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = TokenAttention(
            channels, heads=heads, key_dim=key_dim, value_dim=value_dim, map_size=map_size
        )
        self.scale1: nn.Module = TokenScale(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.fc1 = TokenLinear(channels, hidden)
        self.act = activation(act)
        self.fc2: nn.Module = TokenLinear(hidden, channels)
        self.scale2: nn.Module = TokenScale(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1)  # (N, H, W, C)
        x = x + self.scale1(self.attention(self.norm1(x)))
        y = self.act(self.fc1(self.norm2(x)))  # (N, H, W, hidden)
        x = x + self.scale2(self.fc2(y))
        return x.permute(0, 3, 1, 2)

    def fold(self) -> nn.Module:
        attention = self.attention
        attention.proj = fold_token_scale(attention.proj, self.scale1)
        self.fc2 = fold_token_scale(self.fc2, self.scale2)
        self.scale1, self.scale2 = nn.Identity(), nn.Identity()
        return self


class TokenAttention(MultiHead):
    """Multi-head attention of pixels (N, H, W, C), with a bias for each offset between two."""

    def __init__(
        self, channels: int, *, heads: int, key_dim: int, value_dim: int, map_size: tuple[int, int]
    ) -> None:
        super().__init__(heads, key_dim, value_dim)
        self.q = TokenLinear(channels, heads * key_dim)
        self.k = TokenLinear(channels, heads * key_dim)
        self.v = TokenLinear(channels, heads * value_dim)
        self.bias = RelativeBias(heads, map_size)
        self.proj: nn.Module = TokenLinear(heads * value_dim, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, height, width, _ = x.shape
        split = (n, height * width, self.heads, -1)
        q = self.q(x).reshape(split).transpose(1, 2)  # (N, heads, HW, key_dim)
        k = self.k(x).reshape(split).permute(0, 2, 3, 1)  # (N, heads, key_dim, HW)
        v = self.v(x).reshape(split).transpose(1, 2)  # (N, heads, HW, value_dim)
        weights = ((q @ k) * self.key_dim**-0.5 + self.bias()).softmax(-1)  # (N, heads, HW, HW)
        y = (weights @ v).transpose(1, 2).reshape(n, height, width, -1)
        return self.proj(y)  # type: ignore[no-any-return]


class TokenClassifierModule(ClassifierModule):
    """(N, C, H, W) to logits (N, classes), with a LayerNorm of each pixel before the mean."""

    def __init__(
        self, in_channels: int, classes: int, *, distillation: bool, epsilon: float = 1e-5
    ) -> None:
        super().__init__(in_channels, classes, distillation=distillation)
        self.norm = nn.LayerNorm(in_channels, eps=epsilon)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1)  # (N, H, W, C)
        return self.logits(self.norm(x).mean((1, 2)))

    def fold(self) -> nn.Module:
        self.average_heads()
        return self
