"""Attention's learnt bias for each offset between a query and a key."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class RelativeBias(nn.Module):
    """A learnt number for each head and each offset (|dy|, |dx|) between a query and a key.

    Stored as (heads, height, width) of the key map, so that a smaller map is a leading corner.
    The queries are every ``stride``-th key. Gives (heads, queries, keys).
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
