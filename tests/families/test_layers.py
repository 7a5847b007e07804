"""Layers of all families: each makes what it says, and is registered once."""

import pytest
import torch

from nas.families import FAMILIES, LAYERS
from nas.network import make_module

FIELDS = {
    "channels": 16,
    "in_channels": 16,
    "out_channels": 32,
    "classes": 10,
    "expansion": 2,
    "heads": 4,
    "head_dim": 4,
    "dim": 16,
    "depth": 1,
    "features": 24,
}


def layer_of(kind):
    fields = LAYERS[kind].model_fields
    needed = [name for name, field in fields.items() if field.is_required() and name != "slot"]
    return LAYERS[kind](slot="stage1.block1.ffn", **{name: FIELDS[name] for name in needed})


@pytest.mark.parametrize("kind", LAYERS)
def test_a_module_makes_the_shape_that_its_layer_says(kind):
    layer = layer_of(kind)
    channels = layer.in_channels if "in_channels" in type(layer).model_fields else layer.channels
    shape = (channels, 16, 32)
    with torch.device("meta"), torch.inference_mode():
        made = make_module(layer, shape).eval()(torch.randn(2, *shape))
    assert (*made.shape[1:], 1, 1)[:3] == layer.output_shape(shape)
    with pytest.raises(ValueError, match=rf"stage1\.block1\.ffn: takes {channels} channels, got 5"):
        layer.output_shape((5, 16, 32))


@pytest.mark.filterwarnings("ignore:Pydantic serializer")  # of values that a field does not allow
@pytest.mark.parametrize("kind", LAYERS)
def test_layers_of_other_widths_share_a_structure_and_no_other_field(kind):
    layer = layer_of(kind)
    sizes = {"channels", "in_channels", "out_channels", "classes", "expansion", "dim", "features"}
    for name in type(layer).model_fields:
        value = getattr(layer, name)
        if name in ("slot", "kind") or isinstance(value, str):
            continue
        other = layer.model_copy(update={name: value + 4})
        assert (other.structure == layer.structure) == (name in sizes), name
        assert (other.widths != layer.widths) == (name in sizes - {"classes"}), name


def test_every_kind_is_of_one_family():
    kinds = [layer.model_fields["kind"].default for family in FAMILIES for layer in family.layers]
    assert len(set(kinds)) == len(kinds) == len(LAYERS)
