"""Modules of a user's own layers, each run once on the meta device before it is used."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from nas.errors import UserError
from nas.families import Layer, Shape


@runtime_checkable
class BringsModule(Protocol):
    """A layer that says itself what its module is."""

    def module(self, input_shape: Shape) -> partial[nn.Module]:
        """The module's class with its arguments, which are plain values."""


def own_constructor(layer: Layer, input_shape: Shape) -> partial[nn.Module]:
    """What the layer's ``module`` returns.

    Raises:
        UserError: that is no class with arguments, or the module fails on a feature map of
            ``input_shape``, or makes another shape of it than ``output_shape`` says.
    """
    problem = _problem(layer.model_copy(update={"slot": "any"}), input_shape)
    if problem:
        where = layer.origin.path if layer.origin else type(layer).__name__
        raise UserError(f"{where}: {layer.slot}: {layer.signature} on {input_shape}: {problem}")
    assert isinstance(layer, BringsModule)
    return layer.module(input_shape)


@lru_cache(maxsize=4096)  # a layer's module is made many times
def _problem(layer: Layer, input_shape: Shape) -> str | None:
    assert isinstance(layer, BringsModule)
    try:
        call: object = layer.module(input_shape)
        if not isinstance(call, partial):
            return (
                "module must return functools.partial(MODULE_CLASS, ARGUMENTS...), "
                f"got {type(call).__name__}"
            )
        with torch.device("meta"), torch.no_grad():
            made = tuple(call().eval()(torch.empty(2, *input_shape)).shape[1:])
    except Exception as error:  # noqa: BLE001 - whatever the user's code raises
        return f"its module fails: {type(error).__name__}: {str(error).splitlines()[0]}"
    expected = layer.output_shape(input_shape)
    if (*made, 1, 1)[:3] != expected:  # a head gives logits (N, classes)
        return f"its module makes {made}, output_shape says {expected}"
    return None
