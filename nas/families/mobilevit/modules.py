"""MobileViT v1 (Mehta and Rastegari, ICLR 2022, arXiv 2110.02178), and the block of v3 like it.

Version 3: Wadekar and Chaurasia 2022, arXiv 2209.15159. Transformers see a map as tokens
(N, 4, T, C): the place in a 2x2 patch, then the patch. Places are a second axis of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nas.families.parts import (
    Bottleneck,
    ConvNorm,
    FoldedLinear,
    MultiHead,
    TokenLinear,
    activation,
)


class ShortStemModule(nn.Sequential):
    """(N, 3, H, W) to (N, C, H/2, W/2)."""

    def __init__(self, in_channels: int, out_channels: int, act: str) -> None:
        super().__init__()
        self.conv = ConvNorm(in_channels, out_channels, kernel=3, stride=2, bias=False)
        self.act = activation(act)


class InvertedResidualModule(Bottleneck):
    """The sum of the input (N, C, H, W) and the convolutions' output."""

    branch_ends = ("fc2",)

    def __init__(self, channels: int, hidden: int, act: str, *, kernel: int = 3) -> None:
        super().__init__(channels, hidden, channels, stride=1, act=act, kernel=kernel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


class MobileViTV1BlockModule(nn.Module):
    """y = transformers(local(x)), then a 3x3 convolution of x and y together."""

    is_version_3: ClassVar[bool] = False

    def __init__(
        self, channels: int, dim: int, hidden: int, *, depth: int, heads: int, act: str
    ) -> None:
        super().__init__()
        groups, fused, kernel = (channels, dim, 1) if self.is_version_3 else (1, channels, 3)
        self.local = ConvNorm(channels, channels, kernel=3, groups=groups, bias=False)
        self.enter = nn.Conv2d(channels, dim, 1, bias=False)
        layers = (
            TransformerLayer(dim, hidden, act, PatchAttention(dim, heads), nn.LayerNorm)
            for _ in range(depth)
        )
        self.transformer = Transformer(layers, nn.LayerNorm(dim))
        self.leave = ConvNorm(dim, channels, bias=False)
        self.fusion = ConvNormOfTwo(fused, channels, channels, kernel=kernel)
        self.act1, self.act2, self.act3 = activation(act), activation(act), activation(act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.enter(self.act1(self.local(x)))  # (N, dim, H, W)
        y = self.act2(self.leave(self.transformer(y)))
        return self.act3(self.fusion(x, y))  # type: ignore[no-any-return]


class MobileViTV3BlockModule(MobileViTV1BlockModule):
    """x + fusion(y, transformers(y)) where y = local(x), with softmax attention."""

    branch_ends = ("act3",)
    is_version_3 = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        local = self.enter(self.act1(self.local(x)))  # (N, dim, H, W)
        y = self.act2(self.leave(self.transformer(local)))  # (N, C, H, W)
        return x + self.act3(self.fusion(local, y))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Transformer layers and a norm, between unfolding (N, C, H, W) to tokens and folding back."""

    def __init__(self, layers: Iterable[nn.Module], norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        even = height + height % 2, width + width % 2
        if even != (height, width):
            x = functional.interpolate(x, even, mode="bilinear")
        x = from_tokens(self.norm(self.layers(to_tokens(x))), even)
        if even != (height, width):
            x = functional.interpolate(x, (height, width), mode="bilinear")
        return x


def to_tokens(x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) to (N, 4, HW/4, C)."""
    n, _, height, width = x.shape
    x = x.reshape(n, -1, height // 2, 2, width // 2, 2)
    # a view keeps the -1 in an export, so that one graph serves all widths; a reshape does not
    return x.permute(0, 3, 5, 2, 4, 1).contiguous().view(n, 4, height * width // 4, -1)


def from_tokens(x: torch.Tensor, map_size: tuple[int, int]) -> torch.Tensor:
    """(N, 4, HW/4, C) to (N, C, H, W)."""
    height, width = map_size
    x = x.reshape(x.shape[0], 2, 2, height // 2, width // 2, -1)
    return x.permute(0, 5, 3, 1, 4, 2).contiguous().view(x.shape[0], -1, height, width)


class TransformerLayer(nn.Module):
    """y = x + attention(norm(x)), then y + MLP(norm(y)), on tokens (N, 4, T, C)."""

    branch_ends = ("attention", "fc2")

    def __init__(
        self,
        dim: int,
        hidden: int,
        act: str,
        attention: nn.Module,
        norm: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.norm1 = norm(dim)
        self.attention = attention
        self.norm2 = norm(dim)
        self.fc1 = TokenLinear(dim, hidden)
        self.act = activation(act)
        self.fc2 = TokenLinear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))  # type: ignore[no-any-return]


class PatchAttention(MultiHead):
    """Multi-head attention of the T tokens that share a place, for tokens (N, 4, T, C)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(heads, dim // heads, dim // heads)
        self.q: nn.Module = TokenLinear(dim, dim)
        self.k = TokenLinear(dim, dim)
        self.v = TokenLinear(dim, dim)
        self.proj = TokenLinear(dim, dim)
        self.scale: nn.Module = RootScale(dim // heads)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, places, tokens, _ = x.shape
        split = (n, places, tokens, self.heads, -1)
        q = self.scale(self.q(x)).reshape(split).transpose(2, 3)  # (N, 4, heads, T, C/heads)
        k = self.k(x).reshape(split).permute(0, 1, 3, 4, 2)  # (N, 4, heads, C/heads, T)
        v = self.v(x).reshape(split).transpose(2, 3)  # (N, 4, heads, T, C/heads)
        y = ((q @ k).softmax(-1) @ v).transpose(2, 3).contiguous()
        return self.proj(y.view(n, places, tokens, -1))  # type: ignore[no-any-return]

    def fold(self) -> nn.Module:
        q, scale = self.q, self.scale
        assert isinstance(q, FoldedLinear)
        assert isinstance(scale, RootScale)
        q.weight, q.bias = nn.Parameter(scale(q.weight)), nn.Parameter(scale(q.bias))
        self.scale = nn.Identity()
        return self


class RootScale(nn.Module):
    """x divided by the square root of a dimension."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.factor = dim**-0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor  # type: ignore[no-any-return]


class ConvNormOfTwo(nn.Module):
    """Convolution of two concatenated maps, whose widths vary independently, and BatchNorm."""

    def __init__(
        self, first_channels: int, second_channels: int, out_channels: int, *, kernel: int = 1
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(
            first_channels, out_channels, kernel, padding=kernel // 2, bias=False
        )
        self.second = nn.Conv2d(
            second_channels, out_channels, kernel, padding=kernel // 2, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return self.norm(self.first(first) + self.second(second))  # type: ignore[no-any-return]

    def fold(self) -> nn.Module:
        return FoldedConvOfTwo(self)


class FoldedConvOfTwo(nn.Module):
    """``ConvNormOfTwo`` for inference: one convolution of the concatenated maps."""

    def __init__(self, whole: ConvNormOfTwo) -> None:
        super().__init__()
        first, second = whole.first, whole.second
        weight = torch.cat([first.weight, second.weight], 1).detach()
        out_channels, in_channels, kernel, _ = weight.shape
        conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        conv.weight = nn.Parameter(weight)
        self.conv = fuse_conv_bn_eval(conv.eval(), whole.norm)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return self.conv(torch.cat([first, second], 1))  # type: ignore[no-any-return]


class ConvClassifierModule(nn.Module):
    """(N, C, H, W) to logits (N, classes): 1x1 convolution, global mean, linear head."""

    def __init__(self, in_channels: int, features: int, classes: int, act: str) -> None:
        super().__init__()
        self.conv = ConvNorm(in_channels, features, bias=False)
        self.act = activation(act)
        self.head = TokenLinear(features, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.conv(x)).mean((2, 3)))  # type: ignore[no-any-return]
