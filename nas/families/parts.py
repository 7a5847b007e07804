"""Parts that modules of several families are made of."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval


class ConvNorm(nn.Module):
    """Convolution ("same" padding) and BatchNorm: (N, C, H, W) to (N, C', H', W')."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=bias
        )
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))  # type: ignore[no-any-return]

    def fold(self) -> nn.Module:
        """One convolution that computes the same in evaluation."""
        return fuse_conv_bn_eval(self.conv, self.norm)


class Bottleneck(nn.Module):
    """1x1, depthwise and 1x1 convolutions: (N, C, H, W) to (N, C', H / stride, W / stride)."""

    has_biases: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        out_channels: int,
        *,
        stride: int,
        act: str,
        kernel: int,
    ) -> None:
        super().__init__()
        bias = self.has_biases
        self.fc1 = ConvNorm(in_channels, hidden, bias=bias)
        self.mid = ConvNorm(hidden, hidden, kernel=kernel, stride=stride, groups=hidden, bias=bias)
        self.fc2: nn.Module = ConvNorm(hidden, out_channels, bias=bias)
        self.act1, self.act2 = activation(act), activation(act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act1(self.fc1(x))  # (N, hidden, H, W)
        return self.fc2(self.act2(self.mid(y)))  # type: ignore[no-any-return]


class Scale(nn.Module):
    """A learnt factor for each channel ("layer scale", Touvron et al. 2021, arXiv 2103.17239)."""

    def __init__(self, channels: int, initial: float = 1e-5) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), initial))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma[:, None, None]


def fold_scale(conv: nn.Module, scale: nn.Module) -> nn.Conv2d:
    """The convolution, its weights multiplied by the scale that follows it."""
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(scale, Scale)
    assert conv.bias is not None
    conv.weight = nn.Parameter(conv.weight * scale.gamma[:, None, None, None])
    conv.bias = nn.Parameter(conv.bias * scale.gamma)
    return conv


def fold_norm_before(norm: nn.BatchNorm1d | nn.BatchNorm2d, linear: nn.Linear) -> None:
    """Fold a norm in evaluation into the linear layer that follows it, in place."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = linear.weight, linear.bias
    factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    linear.weight = nn.Parameter(weight * factor)
    linear.bias = nn.Parameter(bias + weight @ (norm.bias - norm.running_mean * factor))


def activation(name: str) -> nn.Module:
    """The module of an activation's name."""
    modules: dict[str, type[nn.Module]] = {
        "gelu": nn.GELU,
        "relu": nn.ReLU,
        "hardswish": nn.Hardswish,
        "silu": nn.SiLU,
    }
    return modules[name]()


class TokenLinear(nn.Linear):
    """(..., C) to (..., C'), with the published networks' initial weights."""

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def fold(self) -> nn.Module:
        return FoldedLinear(self.weight.detach(), self.bias.detach())


class FoldedLinear(nn.Module):
    """``TokenLinear`` for inference, with a weight (C, C'), which exports keep as it is."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.t().contiguous())
        self.bias = nn.Parameter(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


class TokenScale(Scale):
    """``Scale`` for tokens (..., C)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


def fold_token_scale(linear: nn.Module, scale: nn.Module) -> FoldedLinear:
    """The linear layer, its weights multiplied by the scale that follows it."""
    assert isinstance(linear, FoldedLinear)
    assert isinstance(scale, Scale)
    linear.weight = nn.Parameter(linear.weight * scale.gamma)
    linear.bias = nn.Parameter(linear.bias * scale.gamma)
    return linear


class RelativeBias(nn.Module):
    """A learnt number for each head and each offset (|dy|, |dx|) between a query and a key.

    Stored as (heads, height, width) of the key map; the output is (heads, queries, keys). The
    queries are every ``stride``-th key.
    """

    def __init__(self, heads: int, key_map: tuple[int, int], stride: int = 1) -> None:
        super().__init__()
        self.biases = nn.Parameter(torch.zeros(heads, *key_map))
        self.stride = stride

    def forward(self) -> torch.Tensor:
        _, height, width = self.biases.shape
        dy = self._distances(height)[:, None, :, None]  # (query y, 1, key y, 1)
        dx = self._distances(width)[None, :, None, :]
        offsets = (dy * width + dx).flatten(2).flatten(0, 1)  # (queries, keys)
        # an embedding: its backward pass, unlike indexing's, is deterministic with threads
        table = self.biases.flatten(1).t()
        return functional.embedding(offsets, table).permute(2, 0, 1)

    def fold(self) -> nn.Module:
        return FixedBias(self().detach())

    def _distances(self, side: int) -> torch.Tensor:
        keys = torch.arange(side, device=self.biases.device)
        return (keys[:: self.stride, None] - keys[None, :]).abs()


class FixedBias(nn.Module):
    """``RelativeBias`` for inference: the numbers, looked up once."""

    def __init__(self, bias: torch.Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias.contiguous())

    def forward(self) -> torch.Tensor:
        return self.bias


class MultiHead(nn.Module):
    """An attention whose weights have heads and their channels on one axis."""

    def __init__(self, heads: int, key_dim: int, value_dim: int) -> None:
        super().__init__()
        self.heads, self.key_dim, self.value_dim = heads, key_dim, value_dim

    def logical_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns shapes in which heads and the channels of a head have an axis each."""
        return head_shapes(self, self.heads, self.key_dim, self.value_dim)


def head_shapes(
    attention: nn.Module, heads: int, key_dim: int, value_dim: int
) -> dict[str, tuple[int, ...]]:
    """``logical_shapes`` of an attention, whose weights have heads and their channels on one axis.

    ``q``, ``k``, ``v``, ``proj`` and, where there is one, ``v_local`` are linear or ``ConvNorm``.
    """
    dims = {"q": key_dim, "k": key_dim, "v": value_dim, "v_local": value_dim}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in attention.named_parameters():
        path, _, rest = name.partition(".")
        sizes = tuple(tensor.shape)
        if rest.removeprefix("conv.") not in ("weight", "bias"):
            continue  # of a norm
        if path in dims:
            shapes[name] = (heads, dims[path], *sizes[1:])
        elif path == "proj" and name.endswith("weight"):
            shapes[name] = (sizes[0], heads, value_dim, *sizes[2:])
    return shapes
