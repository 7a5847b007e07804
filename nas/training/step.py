"""Parts of a step that all trainings share: precision, drop path, the optimizer and its rate.

Drop path, or stochastic depth (Huang et al. 2016, arXiv 1603.09382): a residual branch is left out
for a sample with its block's rate, and divided by one minus that rate otherwise. In a supernet the
largest subnet alone drops paths, as in BigNAS (Yu et al. 2020, arXiv 2003.11142).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import AdamW

from nas.errors import UserError
from nas.families.parts import Scale
from nas.supernet import PATH_LOGITS
from nas.training.settings import TrainingPrecision

Arguments = ParamSpec("Arguments")
Network = TypeVar("Network", bound=nn.Module)
RATIO = "ratio"  # the entry of a parameter group that gets another rate: how many times the others'


def with_fresh_weights(make: Callable[[], Network], seed: int, layer_scale: float) -> Network:
    """The network that ``make`` returns, with random weights that depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make()
    for name, parameter in network.named_parameters():
        if _leaf(name) == "gamma":
            nn.init.constant_(parameter, layer_scale)
    return network


def make_optimizer(
    network: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    path_learning_rate: float | None = None,
) -> AdamW:
    """Fused AdamW that decays kernels and matrices only, not norms, biases and layer scales."""
    ratio = (path_learning_rate or learning_rate) / learning_rate
    decayed: dict[str, Any] = {"params": [], "weight_decay": weight_decay}
    others: dict[str, Any] = {"params": [], "weight_decay": 0.0}
    path_logits: dict[str, Any] = {"params": [], "weight_decay": 0.0, RATIO: ratio}
    for name, parameter in network.named_parameters():
        decays = _leaf(name) == "weight" and parameter.dim() > 1
        group = path_logits if name.endswith(PATH_LOGITS) else decayed if decays else others
        group["params"].append(parameter)
    groups = [decayed, others, path_logits] if path_logits["params"] else [decayed, others]
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
    """bfloat16 on GPUs that have it, float32 elsewhere."""
    has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if has_bfloat16 else "float32"


def in_precision(
    forward: Callable[Arguments, Tensor], device: torch.device, precision: TrainingPrecision | None
) -> Callable[Arguments, Tensor]:
    """``forward`` with its convolutions and products in ``precision``, or what suits the device."""
    if (precision or suitable_precision(device)) == "float32":
        return forward

    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            outputs = forward(*args, **kwargs)
        return outputs.float()

    return run


@contextmanager
def keeping_statistics(network: nn.Module) -> Iterator[None]:
    """Inside, norms over the batch use their stored statistics, also while the network trains."""
    norms = [it for it in network.modules() if isinstance(it, _BatchNorm) and it.training]
    for norm in norms:
        norm.eval()
    yield
    for norm in norms:
        norm.train()


class DropPath(NamedTuple):
    """The rate at which the last block's branches are left out, and the source of draws."""

    rate: float
    rng: np.random.Generator

    @contextmanager
    def applied_to(self, parts: Mapping[str, nn.Module]) -> Iterator[None]:
        """Within the context, training ``parts`` drop branches: the last block's with the rate.

        Rates rise linearly over the blocks, from 0 for the first of several. ``parts`` are modules
        by their paths inside the network, in order. Raises UserError if there are no branches.
        """
        if self.rate == 0:
            yield
            return
        branches = [
            (".".join(path.split(".")[:2]), end)  # a block, such as stage3.block2
            for prefix, part in parts.items()
            for path, module in part.named_modules(prefix=prefix)
            for end in _ends(module)
        ]
        if not branches:
            needs = "drop_path: needs residual branches; this network has none"
            raise UserError(f"{needs}, got a rate of {self.rate:g}")
        blocks = list(dict.fromkeys(block for block, _ in branches))
        rises = np.linspace(self.rate, 0, len(blocks))[::-1]  # of one block it is the last
        rates = dict(zip(blocks, rises.tolist(), strict=True))
        with ExitStack() as stack:
            for block, branch in branches:
                if rates[block] > 0:
                    hook = branch.register_forward_hook(partial(self._drop, rates[block]))
                    stack.callback(hook.remove)
            yield

    def _drop(self, rate: float, module: nn.Module, _: object, branch: Tensor) -> Tensor:
        if not module.training:
            return branch
        factors = torch.from_numpy(self.rng.random(len(branch)) >= rate).to(branch) / (1 - rate)
        return branch * factors.view(-1, *[1] * (branch.dim() - 1))  # (N, 1, 1, 1)


def _leaf(name: str) -> str:
    return name.replace("/", ".").rpartition(".")[2]  # a supernet writes paths with slashes


def _ends(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, Scale):
        return [module]
    return [module.get_submodule(name) for name in getattr(module, "branch_ends", ())]
