"""Norms of subnets relative to the largest network's, which keep the statistics of its weights.

Statistics that are estimated anew on a user's pictures spoil pretrained features: channels which a
few classes hardly excite get a tiny variance and are blown up. So the largest network keeps those
that it came with. A subnet's are the stored ones, changed as much as its inputs differ from the
largest network's on the same images. With mean M and variance V of the largest network's inputs on
a batch, m and v of the subnet's, S and T the stored mean and variance, and e the norm's epsilon:

    variance + e = (T + e) (v + e) / (V + e)        mean = m + (S - M) sqrt((v + e) / (V + e))

The largest network stays exactly what it was. A norm that it lacks takes m and v themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from nas.architecture import Architecture

Modules = Mapping[str, nn.Module]
"""The modules of a network by slot and kind: ``stage1.block2.ffn:conv_ffn``."""


class Moments(NamedTuple):
    """Mean and variance (C,)."""

    mean: Tensor
    variance: Tensor

    def first(self, channels: int) -> Moments:
        return Moments(self.mean[:channels], self.variance[:channels])


class Anchor(NamedTuple):
    """What a norm of the largest network saw on a batch, and what it has stored."""

    seen: Moments
    stored: Moments

    def first(self, channels: int) -> Anchor:
        return Anchor(self.seen.first(channels), self.stored.first(channels))


Anchors = Mapping[str, Anchor]
"""The norms of the largest network by slot, kind and path."""


def modules_of(architecture: Architecture, network: Callable[[str], nn.Module]) -> Modules:
    """The module of each layer; ``network`` finds it by its slot."""
    return {f"{layer.slot}:{layer.kind}": network(layer.slot) for layer in architecture.layers}


@contextmanager
def anchoring(modules: Modules) -> Iterator[dict[str, Anchor]]:
    """Inside, norms use their stored statistics; the mapping fills with what they saw."""
    found: dict[str, Anchor] = {}

    def forward(key: str, norm: _BatchNorm, x: Tensor) -> Tensor:
        stored = Moments(norm.running_mean, norm.running_var)  # type: ignore[arg-type]
        found[key] = Anchor(moments(x.detach()), Moments(*(it.clone() for it in stored)))
        return batch_norm(x, *stored, norm.weight, norm.bias, training=False, eps=norm.eps)

    with _replaced(modules, forward):
        yield found


@contextmanager
def relative_to(anchors: Anchors, modules: Modules) -> Iterator[None]:
    """Inside, norms normalise each batch by its own statistics, relative to the anchors."""

    def forward(key: str, norm: _BatchNorm, x: Tensor) -> Tensor:
        weight: Tensor = norm.weight
        bias: Tensor = norm.bias
        if anchor := _of(anchors, key, x):
            # the relative mean and variance differ from the batch's own by a factor and a shift
            seen, stored = anchor
            spread = (seen.variance + norm.eps).rsqrt()
            factor = (stored.variance + norm.eps).rsqrt() / spread
            shift = (stored.mean - seen.mean) * spread
            weight = weight * factor
            bias = bias - weight * shift
        return batch_norm(x, None, None, weight, bias, training=True, eps=norm.eps)

    with _replaced(modules, forward):
        yield


class RelativeStatistics:
    """Collects, batch by batch, the statistics of norms, and stores their means in the end."""

    def __init__(self, modules: Modules) -> None:
        self._modules, self._batches = modules, 0
        self._sums: dict[str, Moments] = {}

    @contextmanager
    def batch(self, anchors: Anchors) -> Iterator[None]:
        """Inside, norms see one batch, whose ``anchors`` are the largest network's."""

        def forward(key: str, norm: _BatchNorm, x: Tensor) -> Tensor:
            found = relative(moments(x), _of(anchors, key, x), norm.eps)
            if known := self._sums.get(key):
                self._sums[key] = Moments(*map(torch.add, known, found))
            else:
                self._sums[key] = found
            return batch_norm(x, *found, norm.weight, norm.bias, training=False, eps=norm.eps)

        self._batches += 1
        with _replaced(self._modules, forward):
            yield

    def store(self) -> None:
        """Set the norms' running statistics."""
        for key, norm in _norms(self._modules):
            if key in self._sums:
                mean, variance = self._sums[key]
                norm.running_mean = (mean / self._batches).detach().clone()
                norm.running_var = (variance / self._batches).detach().clone()


def relative(own: Moments, anchor: Anchor | None, epsilon: float) -> Moments:
    """The statistics of a norm whose inputs have the moments ``own``."""
    if anchor is None:
        return own
    seen, stored = anchor
    ratio = (own.variance + epsilon) / (seen.variance + epsilon)
    mean = own.mean + (stored.mean - seen.mean) * ratio.sqrt()
    # rounding alone could leave a channel that is always 0 a variance below 0
    return Moments(mean, ((stored.variance + epsilon) * ratio - epsilon).clamp(min=0))


def moments(x: Tensor) -> Moments:
    """Mean and variance of each channel of ``x``, (N, C, ...), the variance without correction."""
    axes = [axis for axis in range(x.dim()) if axis != 1]
    variance, mean = torch.var_mean(x, axes, correction=0)
    return Moments(mean, variance)


def _of(anchors: Anchors, key: str, x: Tensor) -> Anchor | None:
    """The anchor of a norm, for its channels; None if the largest network has no such norm."""
    anchor, channels = anchors.get(key), x.shape[1]
    if anchor is None or len(anchor.seen.mean) < channels:
        return None
    return anchor.first(channels)


def _norms(modules: Modules) -> Iterator[tuple[str, _BatchNorm]]:
    for name, module in modules.items():
        for path, child in module.named_modules():
            if isinstance(child, _BatchNorm):
                yield f"{name}:{path}", child


@contextmanager
def _replaced(
    modules: Modules, forward: Callable[[str, _BatchNorm, Tensor], Tensor]
) -> Iterator[None]:
    """Inside, all norms over the batch compute by ``forward``."""
    norms = list(_norms(modules))
    for key, norm in norms:
        norm.forward = partial(forward, key, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for _, norm in norms:
            del norm.forward
