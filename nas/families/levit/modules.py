"""LeViT (Graham et al., ICCV 2021, arXiv 2104.01136).

Modules take and return feature maps, and the paper's linear layers are 1x1 convolutions with norms
and no biases: timm's LeViT-128S of such runs a seventh faster in onnxruntime than that of linear
layers. Residual branches start at zero.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from nas.families.efficientformer_v2.modules import ClassifierModule
from nas.families.parts import ConvNorm, MultiHead, RelativeBias, activation, fold_norm_before


class NormedAttention(MultiHead):
    """(N, C, H, W) to (N, C', H / stride, W / stride), odd sides rounded up.

    The queries are every ``stride``-th pixel of each row and column.
    """

    stride: ClassVar[int] = 1

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
        self.q = ConvNorm(in_channels, heads * key_dim, bias=False)
        self.k = ConvNorm(in_channels, heads * key_dim, bias=False)
        self.v = ConvNorm(in_channels, heads * value_dim, bias=False)
        self.bias = RelativeBias(heads, map_size, self.stride)
        self.act = activation(act)
        self.proj = ConvNorm(heads * value_dim, out_channels, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, _, height, width = x.shape
        # pooling of one pixel subsamples like x[..., ::2, ::2] but keeps the runtime's layout
        seen = functional.avg_pool2d(x, 1, self.stride) if self.stride > 1 else x
        _, _, rows, columns = seen.shape
        q = self.q(seen).reshape(n, self.heads, self.key_dim, rows * columns)
        k = self.k(x).reshape(n, self.heads, self.key_dim, height * width)
        v = self.v(x).reshape(n, self.heads, self.value_dim, height * width)
        q = q.transpose(2, 3) * self.key_dim**-0.5  # (N, heads, queries, key_dim)
        weights = (q @ k + self.bias()).softmax(-1)  # (N, heads, queries, HW)
        y = v @ weights.transpose(2, 3)  # (N, heads, value_dim, queries)
        return self.proj(self.act(y.reshape(n, -1, rows, columns)))  # type: ignore[no-any-return]


class LevitAttentionModule(NormedAttention):
    """x + attention(x)."""

    branch_ends = ("proj",)

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        key_dim: int,
        value_dim: int,
        map_size: tuple[int, int],
        act: str,
    ) -> None:
        super().__init__(
            channels,
            channels,
            heads=heads,
            key_dim=key_dim,
            value_dim=value_dim,
            map_size=map_size,
            act=act,
        )
        nn.init.zeros_(self.proj.norm.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


class LevitDownsampleModule(NormedAttention):
    """(N, C, H, W) to (N, C', H/2, W/2), odd sides rounded up."""

    stride = 2


class LevitFFNModule(nn.Module):
    """x + MLP(x), the MLP of 1x1 convolutions."""

    branch_ends = ("fc2",)

    def __init__(self, channels: int, hidden: int, act: str) -> None:
        super().__init__()
        self.fc1 = ConvNorm(channels, hidden, bias=False)
        self.act = activation(act)
        self.fc2 = ConvNorm(hidden, channels, bias=False)
        nn.init.zeros_(self.fc2.norm.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fc2(self.act(self.fc1(x)))  # type: ignore[no-any-return]


class NormedLinear(nn.Linear):
    """(N, C) to (N, C'), behind a norm over the batch."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        self.norm: nn.Module = nn.BatchNorm1d(in_channels)
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.norm(x))

    def fold(self) -> nn.Module:
        assert isinstance(self.norm, nn.BatchNorm1d)
        fold_norm_before(self.norm, self)
        self.norm = nn.Identity()
        return self


class LevitClassifierModule(ClassifierModule):
    """(N, C, H, W) to logits (N, classes): global mean, the average of one or two heads."""

    def __init__(self, in_channels: int, classes: int, *, distillation: bool) -> None:
        super().__init__(in_channels, classes, distillation=distillation)
        self.norm = nn.Identity()
        self.head = NormedLinear(in_channels, classes)
        self.head_dist = NormedLinear(in_channels, classes) if distillation else None

    def fold(self) -> nn.Module:
        self.average_heads()  # their norms have folded into them
        return self
