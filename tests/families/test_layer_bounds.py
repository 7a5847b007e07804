"""A layer that says which shape it makes also makes it, whatever its fields are."""

from typing import Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from nas.families import LAYERS
from nas.network import make_module

INTEGERS = (1, 2, 3, 4, 5, 8, 12, 16, 32)
FLOATS = {"epsilon": (1e-5, 1e-3)}
TEXTS = {"kernels": ("3", "7-5", "5-5-5")}
SIDES = (1, 2, 3, 4, 7, 8, 12, 16, 32)


def draw(layer, rng):
    """A layer with random fields and an input shape, or None where they do not fit."""
    fields = {}
    for name, info in layer.model_fields.items():
        kind = info.annotation
        if name in ("slot", "kind"):
            continue
        if kind is bool:
            options = (False, True)
        elif get_origin(kind) is Literal:
            options = get_args(kind)
        elif kind is float:
            options = FLOATS.get(name, (0.1, 0.25, 1.0, 2.5, 4.0))
        elif kind is int:
            options = INTEGERS
        else:
            options = TEXTS[name]
        fields[name] = options[int(rng.integers(len(options)))]
    channels = fields.get("in_channels", fields.get("channels"))
    shape = (channels, *(SIDES[int(index)] for index in rng.integers(len(SIDES), size=2)))
    try:
        made = layer(slot="a", **fields)
        return made, shape, made.output_shape(shape)
    except (ValidationError, ValueError):
        return None


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_makes_the_shape_that_it_tells(kind):
    rng = np.random.default_rng(0)
    drawn = [it for it in (draw(LAYERS[kind], rng) for _ in range(200)) if it][:6]
    assert len(drawn) >= 5
    for layer, shape, expected in drawn:
        with torch.device("meta"), torch.no_grad():
            made = make_module(layer, shape).eval()(torch.empty(2, *shape))
        assert (*made.shape[1:], 1, 1)[:3] == expected, (layer, shape)
