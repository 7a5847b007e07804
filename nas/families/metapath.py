"""MetaPath: all candidates of a slot at once (Li et al. 2022, arXiv 2206.01191)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class MetaPath(nn.Module):
    """The sum of weight times candidate(x); leaving the slot out is a candidate, ``nn.Identity``.

    A residual candidate's output holds its residual, so half a block and half an identity are
    x + 0.5 * f(x).
    """

    def __init__(self, candidates: Sequence[nn.Module]) -> None:
        super().__init__()
        self.candidates = nn.ModuleList(candidates)

    def forward(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        terms = [
            weight * candidate(x)  # (N, C, H, W)
            for weight, candidate in zip(weights.unbind(), self.candidates, strict=True)
        ]
        return torch.stack(terms).sum(0)
