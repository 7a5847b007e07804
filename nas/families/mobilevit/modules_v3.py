"""MobileViT v3 (Wadekar and Chaurasia, 2022, arXiv 2209.15159), of v1's and of v2's transformers.

Both fuse local and global features by a 1x1 convolution and add the input.
"""

from __future__ import annotations

import torch
from torch import nn

from nas.families.mobilevit.modules_v1 import ConvNormOfTwo, FoldedConvOfTwo, Transformer
from nas.families.mobilevit.modules_v2 import SeparableTransformer, to_even
from nas.families.parts import ConvNorm, activation


class MobileViTV3Block(nn.Module):
    """x + fusion(y, transformers(y)) where y = local(x), with softmax attention."""

    branch_ends = ("act3",)

    def __init__(
        self, channels: int, dim: int, hidden: int, *, depth: int, heads: int, act: str
    ) -> None:
        super().__init__()
        self.local = ConvNorm(channels, channels, kernel=3, groups=channels, bias=False)
        self.enter = nn.Conv2d(channels, dim, 1, bias=False)
        self.transformer = Transformer(dim, hidden, depth=depth, heads=heads, act=act)
        self.leave = ConvNorm(dim, channels, bias=False)
        self.fusion = ConvNormOfTwo(dim, channels, channels)
        self.act1, self.act2, self.act3 = activation(act), activation(act), activation(act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        local = self.enter(self.act1(self.local(x)))  # (N, dim, H, W)
        y = self.act2(self.leave(self.transformer(local)))  # (N, C, H, W)
        return x + self.act3(self.fusion(local, y))  # type: ignore[no-any-return]


class MobileViTV3SeparableBlock(nn.Module):
    """x + fusion(transformers(y), y) where y = local(x), with separable attention."""

    branch_ends = ("leave",)

    def __init__(self, channels: int, dim: int, hidden: int, *, depth: int, act: str) -> None:
        super().__init__()
        self.local = ConvNorm(channels, channels, kernel=3, groups=channels, bias=False)
        self.act = activation(act)
        self.enter = nn.Conv2d(channels, dim, 1, bias=False)
        self.transformer = SeparableTransformer(dim, hidden, depth=depth, act=act)
        self.leave = ConvNormOfTwo(dim, dim, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = to_even(x)
        local = self.enter(self.act(self.local(x)))  # (N, dim, H, W)
        return x + self.leave(self.transformer(local), local)  # type: ignore[no-any-return]

    def fold(self) -> nn.Module:
        assert isinstance(self.leave, FoldedConvOfTwo)
        self.transformer.fold_norm_into(self.leave.conv)
        return self
