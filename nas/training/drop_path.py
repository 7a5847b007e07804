"""Drop path: a training network goes without some of its residual branches, sample by sample.

Stochastic depth: Huang et al. 2016, arXiv 1603.09382. A branch is left out for a sample with its
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

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from nas.errors import UserError
from nas.families.parts import Scale


@contextmanager
def drop_path(
    parts: Mapping[str, nn.Module], rate: float, rng: np.random.Generator
) -> Iterator[None]:
    """Within the context, training ``parts`` drop branches: the last block's with ``rate``.

    Rates rise linearly over the blocks, from 0 for the first of several; all branches of a block
    share one. ``parts`` are modules by their paths inside the network, in the order of their
    blocks, such as {"": network}. With rate 0 nothing is drawn from ``rng``.

    Raises:
        UserError: there is a rate, but no residual branch.
    """
    if rate == 0:
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
            f"drop_path: needs residual branches; this network has none, got a rate of {rate:g}"
        )
    blocks = list(dict.fromkeys(block for block, _ in branches))
    rises = np.linspace(rate, 0, len(blocks))[::-1]  # backwards: of one block it is the last
    rates = dict(zip(blocks, rises.tolist(), strict=True))
    with ExitStack() as stack:
        for block, branch in branches:
            if rates[block] > 0:
                hook = partial(_drop, rate=rates[block], rng=rng)
                stack.callback(branch.register_forward_hook(hook).remove)
        yield


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
