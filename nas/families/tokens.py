"""Layers over the last axis of tokens (..., C): linear, and the residual's scale."""

from __future__ import annotations

import torch
from torch import nn

from nas.families.parts import Scale


class TokenLinear(nn.Linear):
    """(..., C) to (..., C'), with the published networks' initial weights."""

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def fold(self) -> nn.Module:
        return FoldedLinear(self.weight.detach(), self.bias.detach())


class FoldedLinear(nn.Module):
    """``TokenLinear`` for inference, its weight laid out (C, C') as ONNX's MatMul takes it.

    An export transposes the weight of an ``nn.Linear``, under another name; this one stays.
    """

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
    """The linear layer with the scale behind it in its weights."""
    assert isinstance(linear, FoldedLinear)
    assert isinstance(scale, Scale)
    linear.weight = nn.Parameter(linear.weight * scale.gamma)
    linear.bias = nn.Parameter(linear.bias * scale.gamma)
    return linear
