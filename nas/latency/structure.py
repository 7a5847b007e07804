"""What layers have in common whose graphs differ in weights only."""

from __future__ import annotations

from nas.families import CONTEXT_FIELDS, Layer

WIDTHS = CONTEXT_FIELDS | {"expansion", "dim", "features"}
"""Fields that change the sizes of weights but, if all goes well, not the nodes."""


def structure(layer: Layer) -> str:
    """All fields of a layer but its widths, as text."""
    return str(layer.model_dump(exclude=set(WIDTHS)))
