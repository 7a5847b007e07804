"""The order of EfficientViT's channels in timm's weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch

from nas.families.efficientvit.layers import CascadedAttention
from nas.families.layer import Layer

STAGE_CHANNELS = (
    (r"^stem\.conv4\.", 0),
    (r"\.depthwise\.", 0),
    (r"\.fc1\.conv\.", 1),
    (r"\.(fc2|proj)\.", 0),
    (r"\.downsample\.conv1\.conv\.", 1),
    (r"\.downsample\.conv3\.", 0),
    (r"^head\.norm\.", 0),
    (r"^head\.head\.weight$", 1),
)
"""The tensors of which an axis is the channels of a stage, and that axis."""


def channel_orders(layers: Iterable[Layer]) -> Mapping[int, torch.Tensor]:
    """For each stage with cascaded attention the channels of timm in our order.

    There a head has consecutive channels, here every ``heads``-th.
    """
    return {
        int(layer.slot[len("stage") :].partition(".")[0]): torch.arange(layer.channels)
        .reshape(layer.heads, -1)
        .t()
        .flatten()
        for layer in layers
        if isinstance(layer, CascadedAttention)
    }


def reordered(name: str, tensor: torch.Tensor, orders: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """The tensor with the channels of its stage in our order."""
    axis = next((axis for pattern, axis in STAGE_CHANNELS if re.search(pattern, name)), None)
    if axis is None or not tensor.dim() or not orders:
        return tensor
    stages = {"stem": 1, "head": max(orders)}
    slot = name.partition(".")[0]
    stage = stages[slot] if slot in stages else int(slot.removeprefix("stage"))
    if ".downsample.conv1." in name:
        stage -= 1
    return tensor.index_select(axis, orders[stage]) if stage in orders else tensor
