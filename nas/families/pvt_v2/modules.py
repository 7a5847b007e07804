"""PVT v2 (Wang et al., CVMJ 2022, arXiv 2106.13797).

Modules take and return feature maps, and see them as (N, H, W, C) where each pixel is a token.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from nas.families.parts import MultiHead, TokenLinear, activation

EPSILON = 1e-6
"""Of the norms before residual branches and after stages; the others have torch's 1e-5."""

POOLED_SIDE = 7
"""Of the map from which linear attention takes keys and values."""


class PatchStemModule(nn.Module):
    """(N, 3, H, W) to (N, C, H/4, W/4)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 7, 4, padding=3)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return normed(self.conv(x), self.norm)


class PatchDownsampleModule(nn.Module):
    """(N, C, H, W) to (N, C', H/2, W/2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm_before = nn.LayerNorm(in_channels, eps=EPSILON)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, 2, padding=1)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return normed(self.conv(normed(x, self.norm_before)), self.norm)


def normed(x: torch.Tensor, norm: nn.Module) -> torch.Tensor:
    """A norm of each pixel of a map (N, C, H, W)."""
    y: torch.Tensor = norm(x.permute(0, 2, 3, 1))
    return y.permute(0, 3, 1, 2)


class ReducedAttentionModule(MultiHead):
    """x + attention(norm(x)), keys and values of a smaller map."""

    branch_ends = ("proj",)

    def __init__(
        self, channels: int, *, heads: int, head_dim: int, reduction: int, pooled: bool
    ) -> None:
        super().__init__(heads, head_dim, head_dim)
        self.pooled = pooled
        self.norm = nn.LayerNorm(channels, eps=EPSILON)
        self.q = TokenLinear(channels, heads * head_dim)
        self.k = TokenLinear(channels, heads * head_dim)
        self.v = TokenLinear(channels, heads * head_dim)
        self.proj = TokenLinear(heads * head_dim, channels)
        has_map = pooled or reduction > 1
        self.reduce = nn.Conv2d(channels, channels, reduction, reduction) if has_map else None
        self.norm_reduced = nn.LayerNorm(channels) if has_map else None
        self.act = nn.GELU() if pooled else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, _, height, width = x.shape
        tokens = self.norm(x.permute(0, 2, 3, 1))  # (N, H, W, C)
        split = (n, height * width, self.heads, self.key_dim)
        q = self.q(tokens).reshape(split).transpose(1, 2)  # (N, heads, HW, head_dim)
        few = self.reduced(tokens)  # (N, h, w, C)
        split = (n, few.shape[1] * few.shape[2], self.heads, self.key_dim)
        k = self.k(few).reshape(split).permute(0, 2, 3, 1)  # (N, heads, head_dim, hw)
        v = self.v(few).reshape(split).transpose(1, 2)  # (N, heads, hw, head_dim)
        weights = ((q @ k) * self.key_dim**-0.5).softmax(-1)  # (N, heads, HW, hw)
        y = self.proj((weights @ v).transpose(1, 2).reshape(n, height, width, -1))
        return x + y.permute(0, 3, 1, 2)  # type: ignore[no-any-return]

    def reduced(self, tokens: torch.Tensor) -> torch.Tensor:
        """(N, H, W, C) to the smaller map (N, h, w, C)."""
        if self.reduce is None or self.norm_reduced is None:
            return tokens
        x = tokens.permute(0, 3, 1, 2)
        if self.pooled:
            x = pool(x)
        return self.act(self.norm_reduced(self.reduce(x).permute(0, 2, 3, 1)))  # type: ignore[no-any-return]


def pool(x: torch.Tensor) -> torch.Tensor:
    """``adaptive_avg_pool2d`` to 7x7; products with matrices where ONNX cannot pool."""
    height, width = x.shape[2:]
    if height % POOLED_SIDE == 0 and width % POOLED_SIDE == 0:
        return functional.avg_pool2d(x, (height // POOLED_SIDE, width // POOLED_SIDE))
    return _means(height, x) @ x @ _means(width, x).t()


def _means(side: int, x: torch.Tensor) -> torch.Tensor:
    """(7, side): row i averages the pixels of bin i."""
    index = torch.arange(side, device=x.device)
    bins = torch.arange(POOLED_SIDE, device=x.device)[:, None]
    first = bins * side // POOLED_SIDE
    last = -(-(bins + 1) * side // POOLED_SIDE)
    inside = ((index >= first) & (index < last)).to(x.dtype)
    return inside / inside.sum(1, keepdim=True)


class TokenFFNModule(nn.Module):
    """x + FFN(norm(x)), the FFN with a depthwise convolution before its activation."""

    branch_ends = ("fc2",)

    def __init__(
        self, channels: int, hidden: int, act: str, *, rectified: bool, kernel: int = 3
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=EPSILON)
        self.fc1 = TokenLinear(channels, hidden)
        self.rectify = nn.ReLU() if rectified else nn.Identity()
        self.mid = nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden)
        self.act = activation(act)
        self.fc2 = TokenLinear(hidden, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc1(self.norm(x.permute(0, 2, 3, 1)))  # (N, H, W, hidden)
        y = self.act(self.mid(self.rectify(y).permute(0, 3, 1, 2)))  # (N, hidden, H, W)
        return x + self.fc2(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]
