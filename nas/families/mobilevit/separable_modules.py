"""MobileViT v2 (Mehta and Rastegari, 2022, arXiv 2206.02680), and the block of v3 like it.

Transformers see a map as tokens (N, 4, T, C), as in v1; here each norm is over a whole image.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from nas.families.mobilevit.modules import (
    ConvNormOfTwo,
    FoldedConvOfTwo,
    Transformer,
    TransformerLayer,
)
from nas.families.parts import ConvNorm, FoldedLinear, TokenLinear, activation


class MobileViTV2BlockModule(nn.Module):
    """transformers(local(x)), the local part of a depthwise and a 1x1 convolution."""

    is_version_3: ClassVar[bool] = False

    def __init__(self, channels: int, dim: int, hidden: int, *, depth: int, act: str) -> None:
        super().__init__()
        self.local = ConvNorm(channels, channels, kernel=3, groups=channels, bias=False)
        self.act = activation(act)
        self.enter = nn.Conv2d(channels, dim, 1, bias=False)
        layers = (SeparableTransformerLayer(dim, hidden, act) for _ in range(depth))
        self.transformer = Transformer(layers, TokenGroupNorm(dim))
        self.leave: nn.Module = (
            ConvNormOfTwo(dim, dim, channels)
            if self.is_version_3
            else ConvNorm(dim, channels, bias=False)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.enter(self.act(self.local(to_even(x))))  # (N, dim, H, W)
        return self.leave(self.transformer(y))  # type: ignore[no-any-return]

    def fold(self) -> nn.Module:
        """The last norm's weights go into the 1x1 convolution whose first channels these are."""
        conv = self.leave.conv if isinstance(self.leave, FoldedConvOfTwo) else self.leave
        norm = self.transformer.norm
        assert isinstance(norm, TokenGroupNorm)
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        weight, dim = conv.weight.detach().clone(), len(norm.weight)
        conv.bias = nn.Parameter(conv.bias + weight[:, :dim, 0, 0] @ norm.bias)
        weight[:, :dim] *= norm.weight.detach()[:, None, None]
        conv.weight = nn.Parameter(weight)
        self.transformer.norm = FoldedTokenGroupNorm(norm.eps)
        return self


class MobileViTV3SeparableBlockModule(MobileViTV2BlockModule):
    """x + fusion(transformers(y), y) where y = local(x), with separable attention."""

    branch_ends = ("leave",)
    is_version_3 = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = to_even(x)
        local = self.enter(self.act(self.local(x)))  # (N, dim, H, W)
        return x + self.leave(self.transformer(local), local)  # type: ignore[no-any-return]


def to_even(x: torch.Tensor) -> torch.Tensor:
    """The map (N, C, H, W), interpolated to the next even height and width."""
    height, width = x.shape[2:]
    even = height + height % 2, width + width % 2
    if even == (height, width):
        return x
    return functional.interpolate(x, even, mode="bilinear", align_corners=True)


class SeparableTransformerLayer(TransformerLayer):
    """``TransformerLayer`` with separable attention, and norms over a whole image."""

    def __init__(self, dim: int, hidden: int, act: str) -> None:
        super().__init__(dim, hidden, act, SeparableTokenAttention(dim), TokenGroupNorm)

    def fold(self) -> nn.Module:
        self.norm1 = fold_norm_before_attention(self.norm1, self.attention)
        self.norm2 = fold_norm(self.norm2, self.fc1)
        return self


class SeparableAttentionModule(nn.Module):
    """x + attention(norm(x)), with one context for all pixels of the map (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm: nn.Module = TokenGroupNorm(channels)
        self.attention: nn.Module = SeparableTokenAttention(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, _, height, width = x.shape
        # views, as in to_tokens
        tokens = x.permute(0, 2, 3, 1).contiguous().view(n, 1, height * width, -1)
        y = self.attention(self.norm(tokens)).view(n, height, width, -1)
        return x + y.permute(0, 3, 1, 2)  # type: ignore[no-any-return]

    def fold(self) -> nn.Module:
        self.norm = fold_norm_before_attention(self.norm, self.attention)
        return self


class SeparableTokenAttention(nn.Module):
    """Each token's value times a mean of the keys at its place, for tokens (N, places, T, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = TokenLinear(dim, 1)
        self.key = TokenLinear(dim, dim)
        self.value = TokenLinear(dim, dim)
        self.out = TokenLinear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.query(x).softmax(2)  # (N, 4, T, 1)
        context = (scores * self.key(x)).sum(2, keepdim=True)  # (N, 4, 1, C)
        return self.out(functional.relu(self.value(x)) * context)  # type: ignore[no-any-return]

    def fold(self) -> nn.Module:
        return FoldedSeparableTokenAttention(self)


class FoldedSeparableTokenAttention(nn.Module):
    """``SeparableTokenAttention`` for inference: the mean key is the key of the mean token."""

    def __init__(self, attention: SeparableTokenAttention) -> None:
        super().__init__()
        self.query, self.key = attention.query, attention.key
        self.value, self.out = attention.value, attention.out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.query(x).transpose(2, 3).softmax(3)  # (N, 4, 1, T)
        context = self.key(scores @ x)  # (N, 4, 1, C)
        return self.out(functional.relu(self.value(x)) * context)  # type: ignore[no-any-return]


class TokenGroupNorm(nn.GroupNorm):
    """GroupNorm of one group for tokens (N, 4, T, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__(1, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, places, tokens, _ = x.shape
        y = functional.group_norm(x.view(n, 1, -1), 1, eps=self.eps).view(n, places, tokens, -1)
        return y * self.weight + self.bias


class FoldedTokenGroupNorm(nn.Module):
    """``TokenGroupNorm`` without its weights, which the layers behind it take.

    Spelled out, since an exported GroupNorm serves no other width of the map.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x - x.mean((1, 2, 3), keepdim=True)
        variance = (x * x).mean((1, 2, 3), keepdim=True)  # (N, 1, 1, 1)
        return x * torch.rsqrt(variance + self.eps)


def fold_norm(norm: nn.Module, *linears: nn.Module) -> FoldedTokenGroupNorm:
    """The norm without its weights, which go into the linear layers behind it."""
    assert isinstance(norm, TokenGroupNorm)
    for linear in linears:
        assert isinstance(linear, FoldedLinear)
        linear.bias = nn.Parameter(linear.bias + norm.bias @ linear.weight)
        linear.weight = nn.Parameter(norm.weight[:, None] * linear.weight)
    return FoldedTokenGroupNorm(norm.eps)


def fold_norm_before_attention(norm: nn.Module, attention: nn.Module) -> FoldedTokenGroupNorm:
    """``fold_norm`` into all layers of a folded attention that take the normed tokens."""
    assert isinstance(attention, FoldedSeparableTokenAttention)
    return fold_norm(norm, attention.query, attention.key, attention.value)


class MeanClassifierModule(nn.Module):
    """(N, C, H, W) to logits (N, classes): global mean and a linear head."""

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        self.head = TokenLinear(in_channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]
