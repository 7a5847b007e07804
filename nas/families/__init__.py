"""Families of networks. A family is a folder: its layers as values, their modules, names in timm.

``FAMILIES`` registers them, one line each; ``LAYERS`` maps each kind of layer to its class. None of
this loads torch.
"""

from __future__ import annotations

from nas.families import (
    efficientformer_v1,
    efficientformer_v2,
    efficientvit,
    levit,
    mobilenet,
    mobilevit,
    pvt_v2,
)
from nas.families.layer import (
    CONTEXT_FIELDS,
    NAME,
    Activation,
    BlockFile,
    Family,
    Layer,
    MapMisfitError,
    ResidualLayer,
    Shape,
)

FAMILIES = (
    efficientformer_v2.FAMILY,
    efficientformer_v1.FAMILY,
    efficientvit.FAMILY,
    pvt_v2.FAMILY,
    mobilevit.FAMILY,
    levit.FAMILY,
    mobilenet.FAMILY,
)

LAYERS: dict[str, type[Layer]] = {
    layer.model_fields["kind"].default: layer for family in FAMILIES for layer in family.layers
}

globals().update({layer.__name__: layer for layer in LAYERS.values()})  # for files of version 0.1

__all__ = [
    "CONTEXT_FIELDS",
    "FAMILIES",
    "LAYERS",
    "NAME",
    "Activation",
    "BlockFile",
    "Family",
    "Layer",
    "MapMisfitError",
    "ResidualLayer",
    "Shape",
]
