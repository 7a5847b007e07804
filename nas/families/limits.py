"""The largest networks that documents may describe: far beyond all published, within reach here.

Without bounds a slip of the pen, such as a width with three zeros too many, ends hours later, when
memory runs out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.families.layer import Layer, Shape

MOST_PIXELS = 4096
"""Side of the images; published networks see up to 600."""
MOST_CHANNELS = 16_384
"""Of a feature map, and of any part of a layer that is counted; published networks have 3,072."""
MOST_EXPANSION = 64
MOST_CLASSES = 100_000
"""ImageNet-21k has 21,841."""
MOST_LAYERS = 1_000
"""The largest published network here has 109."""
MOST_PARAMS = 2e9
"""8 GB of weights."""
MOST_MACS = 1e12
"""About a minute for one image on one core."""


def least_size(layer: Layer, input_shape: Shape) -> tuple[int, int]:
    """Parameters and multiply-accumulates that the layer has at least, told without torch.

    They are those of its 1x1 convolutions or linear layers, as far as its fields tell of them.
    """
    if layer.origin is not None:  # a user's own fields may mean anything
        return 0, 0
    fields = {name: getattr(layer, name) for name in _WIDTHS if hasattr(layer, name)}
    first = fields.get("in_channels", fields.get("channels", 0))
    last = fields.get("classes", fields.get("out_channels", 0))
    inside = next((fields[name] for name in _INSIDE if name in fields), last)
    params = first * inside
    _, height, width = layer.output_shape(input_shape)
    return params, 0 if hasattr(layer, "key_dim") else params * height * width


_INSIDE = ("dim", "hidden", "features", "key_dim")
_WIDTHS = ("channels", "in_channels", "out_channels", "classes", *_INSIDE)


def too_large(params: int, macs: int) -> str | None:
    """The rule that a network of at least this size breaks, if it breaks one."""
    for found, most, what in (
        (params, MOST_PARAMS, "parameters"),
        (macs, MOST_MACS, "multiply-accumulates"),
    ):
        if found > most:
            return f"a network may have {most:.0e} {what}, this one has more than {found:.1e}"
    return None
