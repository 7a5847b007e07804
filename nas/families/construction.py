"""Ordinary modules, one file per family, and the one place that makes them from layer configs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ParamSpec

from torch import nn

from nas import families as layers
from nas.families import Layer, Shape
from nas.families.efficientformer_v1 import modules as efficientformer_v1
from nas.families.efficientformer_v2 import modules as efficientformer_v2
from nas.families.efficientvit import modules as efficientvit
from nas.families.mobilevit import modules_v1 as mobilevit_v1
from nas.families.mobilevit import modules_v2 as mobilevit_v2
from nas.families.mobilevit import modules_v3 as mobilevit_v3
from nas.families.own_module import BringsModule, own_constructor
from nas.families.pvt_v2 import modules as pvt_v2

Arguments = ParamSpec("Arguments")


def make_module(layer: Layer, input_shape: Shape) -> nn.Module:
    """The module of a layer that sees feature maps of ``input_shape``."""
    return constructor(layer, input_shape)()


def constructor(layer: Layer, input_shape: Shape) -> partial[nn.Module]:
    """The class of a layer's module with its arguments, which are plain values."""
    if isinstance(layer, BringsModule):
        return own_constructor(layer, input_shape)
    for family in (_efficientformer, _efficientvit, _pvt_v2, _mobilevit):
        found = family(layer, input_shape[1:])
        if found is not None:
            return found
    raise TypeError(f"no module for layers of kind '{layer.kind}'")


Found = partial[nn.Module] | None
"""None for a layer of another family."""


def _efficientformer(layer: Layer, map_size: tuple[int, int]) -> Found:
    match layer:
        case layers.ConvStem():
            return _call(
                efficientformer_v2.ConvStem, layer.in_channels, layer.out_channels, layer.activation
            )
        case layers.ConvFFN():
            return _call(
                efficientformer_v2.ConvFFN,
                *(layer.channels, layer.hidden, layer.activation),
                kernel=layer.kernel,
            )
        case layers.Attention4D():
            return _call(
                efficientformer_v2.Attention4D,
                layer.channels,
                heads=layer.heads,
                key_dim=layer.key_dim,
                value_dim=layer.value_dim,
                map_size=map_size,
                stride=layer.stride,
                talking_heads=layer.talking_heads,
                act=layer.activation,
            )
        case layers.ConvDownsample():
            return _call(efficientformer_v2.ConvDownsample, layer.in_channels, layer.out_channels)
        case layers.AttentionDownsample():
            return _call(
                efficientformer_v2.AttentionDownsample,
                layer.in_channels,
                layer.out_channels,
                heads=layer.heads,
                key_dim=layer.key_dim,
                value_dim=layer.value_dim,
                map_size=map_size,
                act=layer.activation,
            )
        case layers.Classifier():
            return _call(
                efficientformer_v2.Classifier,
                layer.in_channels,
                layer.classes,
                distillation=layer.distillation,
            )
        case layers.Pooling():
            return _call(efficientformer_v1.PoolingMixer, layer.channels)
        case layers.PointwiseFFN():
            return _call(
                efficientformer_v1.PointwiseFFN, layer.channels, layer.hidden, layer.activation
            )
        case layers.MetaBlock4D():
            return _call(
                efficientformer_v1.MetaBlock4D, layer.channels, layer.hidden, layer.activation
            )
        case layers.MetaBlock3D():
            return _call(
                efficientformer_v1.MetaBlock3D,
                layer.channels,
                layer.hidden,
                heads=layer.heads,
                key_dim=layer.key_dim,
                value_dim=layer.value_dim,
                map_size=map_size,
                act=layer.activation,
            )
        case layers.TokenClassifier():
            return _call(
                efficientformer_v1.TokenClassifier,
                layer.in_channels,
                layer.classes,
                distillation=layer.distillation,
                epsilon=layer.epsilon,
            )
        case _:
            return None


def _efficientvit(layer: Layer, map_size: tuple[int, int]) -> Found:
    match layer:
        case layers.DeepConvStem():
            return _call(
                efficientvit.DeepConvStem, layer.in_channels, layer.out_channels, layer.activation
            )
        case layers.DepthwiseFFN():
            return _call(
                efficientvit.DepthwiseFFN,
                *(layer.channels, layer.hidden, layer.activation),
                kernel=layer.kernel,
            )
        case layers.CascadedAttention():
            return _call(
                efficientvit.CascadedAttention,
                layer.channels,
                key_dim=layer.key_dim,
                kernels=layer.head_kernels,
                map_size=map_size,
                window=layer.window,
                act=layer.activation,
            )
        case layers.PatchMerging():
            return _call(
                efficientvit.PatchMerging,
                *(layer.in_channels, layer.hidden, layer.out_channels, layer.activation),
            )
        case layers.PooledClassifier():
            return _call(efficientvit.PooledClassifier, layer.in_channels, layer.classes)
        case _:
            return None


def _pvt_v2(layer: Layer, map_size: tuple[int, int]) -> Found:  # noqa: ARG001
    match layer:
        case layers.PatchStem():
            return _call(pvt_v2.PatchStem, layer.in_channels, layer.out_channels)
        case layers.PatchDownsample():
            return _call(pvt_v2.PatchDownsample, layer.in_channels, layer.out_channels)
        case layers.ReducedAttention():
            return _call(
                pvt_v2.ReducedAttention,
                layer.channels,
                heads=layer.heads,
                head_dim=layer.head_dim,
                reduction=layer.reduction,
                pooled=layer.pooled,
            )
        case layers.TokenFFN():
            return _call(
                pvt_v2.TokenFFN,
                *(layer.channels, layer.hidden, layer.activation),
                rectified=layer.rectified,
                kernel=layer.kernel,
            )
        case _:
            return None


def _mobilevit(layer: Layer, map_size: tuple[int, int]) -> Found:  # noqa: ARG001
    match layer:
        case layers.ShortStem():
            return _call(
                mobilevit_v1.ShortStem, layer.in_channels, layer.out_channels, layer.activation
            )
        case layers.InvertedResidual():
            return _call(
                mobilevit_v1.InvertedResidual,
                *(layer.channels, layer.hidden, layer.activation),
                kernel=layer.kernel,
            )
        case layers.InvertedDownsample():
            return _call(
                mobilevit_v1.InvertedDownsample,
                layer.in_channels,
                layer.hidden,
                layer.out_channels,
                stride=layer.stride,
                act=layer.activation,
                kernel=layer.kernel,
            )
        case layers.SeparableAttention():
            return _call(mobilevit_v2.SeparableMixer, layer.channels)
        case layers.MobileViTV1Block():
            return _call(
                mobilevit_v1.MobileViTV1Block,
                layer.channels,
                layer.dim,
                layer.hidden,
                depth=layer.depth,
                heads=layer.heads,
                act=layer.activation,
            )
        case layers.ConvClassifier():
            return _call(
                mobilevit_v1.ConvClassifier,
                layer.in_channels,
                layer.features,
                layer.classes,
                layer.activation,
            )
        case layers.MobileViTV2Block():
            return _call(
                mobilevit_v2.MobileViTV2Block,
                layer.channels,
                layer.dim,
                layer.hidden,
                depth=layer.depth,
                act=layer.activation,
            )
        case layers.MobileViTV3Block():
            return _call(
                mobilevit_v3.MobileViTV3Block,
                layer.channels,
                layer.dim,
                layer.hidden,
                depth=layer.depth,
                heads=layer.heads,
                act=layer.activation,
            )
        case layers.MobileViTV3SeparableBlock():
            return _call(
                mobilevit_v3.MobileViTV3SeparableBlock,
                layer.channels,
                layer.dim,
                layer.hidden,
                depth=layer.depth,
                act=layer.activation,
            )
        case layers.MeanClassifier():
            return _call(mobilevit_v2.MeanClassifier, layer.in_channels, layer.classes)
        case _:
            return None


def _call(
    make: Callable[Arguments, nn.Module], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> partial[nn.Module]:
    return partial(make, *args, **kwargs)
