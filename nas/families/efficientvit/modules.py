"""EfficientViT (Liu et al., CVPR 2023, arXiv 2305.07027).

Convolutions before a norm have no bias, as published. Residual branches start at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from nas.families.parts import ConvNorm, RelativeBias, activation, fold_norm_before


class DeepConvStemModule(nn.Sequential):
    """(N, 3, H, W) to (N, C, H/16, W/16); each convolution halves the sides."""

    def __init__(self, in_channels: int, out_channels: int, act: str) -> None:
        super().__init__()
        widths = (in_channels, *(out_channels // factor for factor in (8, 4, 2, 1)))
        for step, (before, after) in enumerate(pairwise(widths), start=1):
            conv = ConvNorm(before, after, kernel=3, stride=2, bias=False)
            self.add_module(f"conv{step}", conv)
            if after != out_channels:
                self.add_module(f"act{step}", activation(act))


class DepthwiseFFNModule(nn.Module):
    """y = x + depthwise(x), then y + FFN(y), the FFN of 1x1 convolutions."""

    branch_ends = ("fc2",)

    def __init__(self, channels: int, hidden: int, act: str, *, kernel: int = 3) -> None:
        super().__init__()
        self.depthwise = ResidualDepthwise(channels, kernel)
        self.fc1 = ConvNorm(channels, hidden, bias=False)
        self.act = activation(act)
        self.fc2 = ConvNorm(hidden, channels, bias=False)
        nn.init.zeros_(self.fc2.norm.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.depthwise(x)
        return x + self.fc2(self.act(self.fc1(x)))  # type: ignore[no-any-return]


class ResidualDepthwise(ConvNorm):
    """x + depthwise(x)."""

    branch_ends = ("norm",)

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__(channels, channels, kernel=kernel, groups=channels, bias=False)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)

    def fold(self) -> nn.Module:
        """The residual is one more on the middle of the kernel."""
        conv = super().fold()
        assert isinstance(conv, nn.Conv2d)
        with torch.no_grad():
            conv.weight[:, :, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] += 1
        return conv


class CascadedAttentionModule(nn.Module):
    """x + attention(x), in windows; a head sees its share of the channels plus the head before.

    Channel j is of head j modulo heads, not of consecutive parts as in the published networks, so
    that a narrower stage is a leading corner of a wider one.
    """

    branch_ends = ("proj",)

    def __init__(
        self,
        channels: int,
        *,
        key_dim: int,
        head_kernels: Sequence[int],
        map_size: tuple[int, int],
        window: int,
        act: str,
    ) -> None:
        super().__init__()
        self.window = min(window, map_size[0]), min(window, map_size[1])
        self.heads = nn.ModuleList(
            CascadedHead(channels // len(head_kernels), key_dim, kernel) for kernel in head_kernels
        )
        self.bias: nn.Module = RelativeBias(len(head_kernels), self.window)
        self.act = activation(act)
        self.proj = ConvNorm(channels, channels, bias=False)
        nn.init.zeros_(self.proj.norm.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, _, height, width = x.shape
        parts = self.partition(x)
        biases = self.bias()  # (heads, hw, hw)
        outputs = [self.heads[0](parts[0], biases[0])]
        for index in range(1, len(self.heads)):
            outputs.append(self.heads[index](parts[index] + outputs[-1], biases[index]))
        y = self.reverse(torch.cat(outputs, 1), n, height, width)
        return x + self.proj(self.act(y))  # type: ignore[no-any-return]

    def partition(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (heads, N * windows, C/heads, h, w), with zeros below and to the right.

        An axis of its own for heads: cutting a joint one leaves no export an open batch size. The
        zeros take part in the attention, as in the published networks.
        """
        n, _, height, width = x.shape
        heads, (h, w) = len(self.heads), self.window
        if height % h or width % w:
            x = functional.pad(x, (0, -width % w, 0, -height % h))
        rows, columns = -(-height // h), -(-width // w)
        x = x.reshape(n, -1, heads, rows, h, columns, w).permute(2, 0, 3, 5, 1, 4, 6)
        # contiguous: an export of the reshape keeps its -1, and so serves other widths
        return x.contiguous().reshape(heads, n * rows * columns, -1, h, w)

    def reverse(self, x: torch.Tensor, n: int, height: int, width: int) -> torch.Tensor:
        """(N * windows, C, h, w) to (N, C, H, W)."""
        h, w = self.window
        if (height, width) == (h, w):
            return x
        rows, columns = -(-height // h), -(-width // w)
        x = x.reshape(n, rows, columns, -1, h, w).permute(0, 3, 1, 4, 2, 5)
        return x.contiguous().reshape(n, -1, rows * h, columns * w)[:, :, :height, :width]

    def fold(self) -> nn.Module:
        self.bias = BiasOfEachHead(self.bias().detach())
        return self

    def logical_shapes(self) -> dict[str, tuple[int, ...]]:
        """The projection takes the heads one after the other."""
        heads = len(self.heads)
        channels = self.get_parameter("proj.conv.weight").shape[0]
        return {"proj.conv.weight": (channels, heads, channels // heads, 1, 1)}


class BiasOfEachHead(nn.Module):
    """``FixedBias`` as one tensor for each head, which an export keeps as they are."""

    def __init__(self, biases: torch.Tensor) -> None:
        super().__init__()
        self.biases = nn.ParameterList(bias.clone() for bias in biases)

    def forward(self) -> list[torch.Tensor]:
        return list(self.biases)


class CascadedHead(nn.Module):
    """Attention of one head: (N, c, h, w) to (N, c, h, w), with ``bias`` (hw, hw)."""

    def __init__(self, channels: int, key_dim: int, kernel: int) -> None:
        super().__init__()
        self.key_dim = key_dim
        self.q: nn.Module = ConvNorm(channels, key_dim, bias=False)
        self.q_local: nn.Module = ConvNorm(
            key_dim, key_dim, kernel=kernel, groups=key_dim, bias=False
        )
        self.k: nn.Module = ConvNorm(channels, key_dim, bias=False)
        self.v: nn.Module = ConvNorm(channels, channels, bias=False)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        n, _, h, w = x.shape
        q = self.q_local(self.q(x)).reshape(n, -1, h * w)  # (N, key_dim, hw)
        k = self.k(x).reshape(n, -1, h * w)  # (N, key_dim, hw)
        v = self.v(x).reshape(n, -1, h * w)  # (N, c, hw)
        weights = ((q.transpose(1, 2) @ k) * self.key_dim**-0.5 + bias).softmax(-1)  # (N, hw, hw)
        y = v @ weights.transpose(1, 2)
        return y.reshape(n, -1, h, w)  # type: ignore[no-any-return]

    def fold(self) -> nn.Module:
        assert isinstance(self.q, nn.Conv2d)
        assert isinstance(self.q_local, nn.Conv2d)
        assert isinstance(self.k, nn.Conv2d)
        assert isinstance(self.v, nn.Conv2d)
        return FoldedCascadedHead(self.q, self.q_local, self.k, self.v)


class FoldedCascadedHead(nn.Module):
    """``CascadedHead`` for inference, with pixels as keys and as values.

    Queries take the weights of the keys, weighted means those of the values. The softmax drops the
    bias of the keys, which shifts all scores of a query alike.
    """

    def __init__(self, q: nn.Conv2d, q_local: nn.Conv2d, k: nn.Conv2d, v: nn.Conv2d) -> None:
        super().__init__()
        key_dim, channels = k.weight.shape[:2]
        self.q, self.q_local = q, q_local
        self.k = nn.Conv2d(key_dim, channels, 1, bias=False)
        self.k.weight = nn.Parameter(k.weight.detach().transpose(0, 1) * key_dim**-0.5)
        assert v.bias is not None
        self.weight = nn.Parameter(v.weight.detach().flatten(1))
        self.bias = nn.Parameter(v.bias.detach()[:, None])

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        n, _, h, w = x.shape
        q = self.k(self.q_local(self.q(x))).reshape(n, -1, h * w)  # (N, c, hw)
        pixels = x.reshape(n, -1, h * w)  # (N, c, hw)
        weights = (q.transpose(1, 2) @ pixels + bias).softmax(-1)  # (N, hw, hw)
        y = self.weight @ (pixels @ weights.transpose(1, 2)) + self.bias
        return y.reshape(n, -1, h, w)  # type: ignore[no-any-return]


class PatchMergingModule(nn.Module):
    """(N, C, H, W) to (N, C', H/2, W/2), odd sides rounded up."""

    def __init__(self, in_channels: int, hidden: int, out_channels: int, act: str) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, hidden, bias=False)
        self.conv2 = ConvNorm(hidden, hidden, kernel=3, stride=2, groups=hidden, bias=False)
        self.squeeze = nn.Conv2d(hidden, in_channels, 1)
        self.excite = nn.Conv2d(in_channels, hidden, 1)
        self.conv3 = ConvNorm(hidden, out_channels, bias=False)
        self.act1, self.act2 = activation(act), activation(act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act1(self.conv1(x))  # (N, hidden, H, W)
        x = self.act2(self.conv2(x))  # (N, hidden, H/2, W/2)
        gate = self.squeeze(x.mean((2, 3), keepdim=True)).relu()  # (N, C, 1, 1)
        return self.conv3(x * self.excite(gate).sigmoid())  # type: ignore[no-any-return]


class PooledClassifierModule(nn.Module):
    """(N, C, H, W) to logits (N, classes): global mean, norm, linear head."""

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        self.norm: nn.Module = nn.BatchNorm1d(in_channels)
        self.head = nn.Linear(in_channels, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(x.mean((2, 3))))  # type: ignore[no-any-return]

    def fold(self) -> nn.Module:
        assert isinstance(self.norm, nn.BatchNorm1d)
        fold_norm_before(self.norm, self.head)
        self.norm = nn.Identity()
        return self
