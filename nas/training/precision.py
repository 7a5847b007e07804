"""The numbers that a training computes with: bfloat16 on GPUs that have it, float32 elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, ParamSpec

import torch
from torch import Tensor

TrainingPrecision = Literal["float32", "bfloat16"]
Arguments = ParamSpec("Arguments")


def suitable_precision(device: torch.device) -> TrainingPrecision:
    """What a device is fast in; weights, gradients of weights and losses are float32 anyway."""
    has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if has_bfloat16 else "float32"


def in_precision(
    forward: Callable[Arguments, Tensor], device: torch.device, precision: TrainingPrecision | None
) -> Callable[Arguments, Tensor]:
    """``forward`` with its convolutions and products in ``precision``, or what suits the device.

    Only the pass forward is under autocast: the one back follows it by itself.
    """
    if (precision or suitable_precision(device)) == "float32":
        return forward

    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            outputs = forward(*args, **kwargs)
        return outputs.float()

    return run
