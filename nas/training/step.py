"""Parts of a step that all trainings share: precision, drop path, the optimizer and its rate.

Drop path, or stochastic depth (Huang et al. 2016, arXiv 1603.09382): a training network goes
without some of its residual branches, sample by sample. A branch is left out for a sample with its
block's rate, and divided by one minus that rate otherwise, so that its mean over many draws is the
whole branch. It ends in its layer scale, or in a child that its module names in ``branch_ends``.
Modules do nothing about it: hooks on these ends do, which are gone when the context is left, so
evaluation, extraction and export cannot see it.

In a supernet it is the largest subnet alone that drops paths, as in BigNAS (Yu et al. 2020, arXiv
2003.11142): it is the one that can learn the training images by heart. Elastic depth is another
matter: a subnet whose slot is the identity goes without it for the whole batch and unscaled, as it
will be delivered, and the random subnets of each step are that stochastic depth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple, ParamSpec

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from nas.errors import UserError
from nas.families.parts import Scale
from nas.supernet import PATH_LOGITS
from nas.training.settings import TrainingPrecision

Arguments = ParamSpec("Arguments")

RATIO = "ratio"
"""The entry of a parameter group that gets another rate: how many times the others'."""


def make_optimizer(
    network: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    path_learning_rate: float | None = None,
) -> AdamW:
    """AdamW that decays kernels and matrices only, not norms, biases and layer scales.

    The path logits of a supernet learn at ``path_learning_rate`` wherever all others learn at
    ``learning_rate``, and in proportion to that elsewhere; by default at the same. It is the fused
    one, which steps fastest through a supernet's thousands of small tensors.
    """
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    path_logits: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if name.endswith(PATH_LOGITS):
            path_logits.append(parameter)
        else:
            (decayed if _decays(name, parameter) else others).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if path_logits:
        ratio = (path_learning_rate or learning_rate) / learning_rate
        groups.append({"params": path_logits, "weight_decay": 0.0, RATIO: ratio})
    optimizer = AdamW(groups, lr=learning_rate, fused=True)
    set_learning_rate(optimizer, learning_rate)
    return optimizer


def set_learning_rate(optimizer: AdamW, learning_rate: float) -> None:
    """Use ``learning_rate`` from the next step on; path logits keep their ratio to it."""
    for group in optimizer.param_groups:
        group["lr"] = group.get(RATIO, 1.0) * learning_rate


def scheduled_rate(step: int, *, steps: int, peak: float, warmup: float) -> float:
    """The rate of a step, from 0: a linear rise over the share ``warmup``, then a cosine to 0."""
    rise = round(warmup * steps)
    if step < rise:
        return peak * (step + 1) / rise
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def suitable_precision(device: torch.device) -> TrainingPrecision:
    """bfloat16 on GPUs that have it, float32 elsewhere.

    Weights, gradients of weights and losses are float32 anyway.
    """
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


class DropPath(NamedTuple):
    """The rate at which the last block's branches are left out, and what draws them."""

    rate: float
    rng: np.random.Generator

    @contextmanager
    def applied_to(self, parts: Mapping[str, nn.Module]) -> Iterator[None]:
        """Within the context, training ``parts`` drop branches: the last block's with the rate.

        Rates rise linearly over the blocks, from 0 for the first of several; all branches of a
        block share one. ``parts`` are modules by their paths inside the network, in the order of
        their blocks, such as {"": network}. With rate 0 nothing is drawn.

        Raises:
            UserError: there is a rate, but no residual branch.
        """
        if self.rate == 0:
            yield
            return
        branches = [
            (_block(path), end)
            for prefix, part in parts.items()
            for path, module in part.named_modules(prefix=prefix)
            for end in _ends(module)
        ]
        if not branches:
            raise UserError(
                "drop_path: needs residual branches; this network has none, got a rate of "
                f"{self.rate:g}"
            )
        blocks = list(dict.fromkeys(block for block, _ in branches))
        rises = np.linspace(self.rate, 0, len(blocks))[::-1]  # of one block it is the last
        rates = dict(zip(blocks, rises.tolist(), strict=True))
        with ExitStack() as stack:
            for block, branch in branches:
                if rates[block] > 0:
                    hook = partial(_drop, rate=rates[block], rng=self.rng)
                    stack.callback(branch.register_forward_hook(hook).remove)
            yield


def _decays(name: str, parameter: nn.Parameter) -> bool:
    leaf = name.replace("/", ".").rpartition(".")[2]  # the supernet writes paths with slashes
    return leaf == "weight" and parameter.dim() > 1


def _ends(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, Scale):
        return [module]
    return [module.get_submodule(name) for name in getattr(module, "branch_ends", ())]


def _block(path: str) -> str:
    """The block of a path: ``stage3.block2`` for all of ``stage3.block2.ffn.scale``."""
    return ".".join(path.split(".")[:2])


def _drop(
    module: nn.Module,
    inputs: tuple[Tensor, ...],  # noqa: ARG001
    branch: Tensor,
    *,
    rate: float,
    rng: np.random.Generator,
) -> Tensor:
    if not module.training:
        return branch
    is_kept = torch.from_numpy(rng.random(len(branch)) >= rate)
    factors = is_kept.to(branch) / (1 - rate)
    return branch * factors.view(-1, *[1] * (branch.dim() - 1))  # (N, 1, 1, 1)
