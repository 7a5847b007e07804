"""Weights named as timm names them, into our networks (timm: Wightman, Apache-2.0)."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import nn

from nas.architecture import Architecture
from nas.errors import UserError

_EFFICIENTFORMER_V2: tuple[tuple[str, str], ...] = (
    (r"^stage(\d+)\.downsample\.conv\.(conv|norm)\.", r"stages.\1.downsample.conv.\2."),
    (r"^stage(\d+)\.downsample\.(conv|norm)\.", r"stages.\1.downsample.conv.\2."),
    (r"^stage(\d+)\.downsample\.bias\.biases", r"stages.\1.downsample.attn.attention_biases"),
    (r"^stage(\d+)\.downsample\.q_local", r"stages.\1.downsample.attn.q.local"),
    (r"^stage(\d+)\.downsample\.q\.", r"stages.\1.downsample.attn.q.proj."),
    (r"^stage(\d+)\.downsample\.(k|v|v_local|proj)\.", r"stages.\1.downsample.attn.\2."),
    (r"^stage(\d+)\.block(\d+)\.ffn\.scale", r"stages.\1.blocks.\2.ls2"),
    (r"^stage(\d+)\.block(\d+)\.ffn\.", r"stages.\1.blocks.\2.mlp."),
    (r"^stage(\d+)\.block(\d+)\.attention\.scale", r"stages.\1.blocks.\2.ls1"),
    (
        r"^stage(\d+)\.block(\d+)\.attention\.bias\.biases",
        r"stages.\1.blocks.\2.token_mixer.attention_biases",
    ),
    (r"^stage(\d+)\.block(\d+)\.attention\.", r"stages.\1.blocks.\2.token_mixer."),
    (r"^head\.(norm|head|head_dist)\.", r"\1."),
)


def load_timm_state_dict(
    network: nn.Module, architecture: Architecture, state_dict: Mapping[str, torch.Tensor]
) -> None:
    """Load weights named as timm names them into ``build(architecture)``, in place.

    timm's integer index buffers may be there or not.

    Raises:
        UserError: a tensor is missing, left over, or of another shape; the message names the first.
    """
    given = {key: tensor for key, tensor in state_dict.items() if not _is_index(key)}
    renamed = {name: _timm_name(name) for name in network.state_dict()}
    own = network.state_dict()
    for name, key in renamed.items():
        if key not in given:
            raise _mismatch(architecture, f"'{key}' is missing (our '{name}')")
        if given[key].numel() != own[name].numel() or not _same_layout(given[key], own[name]):
            raise _mismatch(
                architecture,
                f"'{key}' is {tuple(given[key].shape)}, ours takes {tuple(own[name].shape)}",
            )
    for key in given:
        if key not in renamed.values():
            raise _mismatch(architecture, f"'{key}' has no place in it")
    network.load_state_dict(
        {name: given[key].reshape(own[name].shape) for name, key in renamed.items()}
    )


def _timm_name(name: str) -> str:
    for pattern, replacement in _EFFICIENTFORMER_V2:
        name, count = re.subn(pattern, replacement, name)
        if count:
            break
    # our stages and blocks count from 1, timm's from 0; timm calls a norm behind a convolution bn
    name = re.sub(r"^stages\.(\d+)", lambda found: f"stages.{int(found[1]) - 1}", name)
    name = re.sub(r"\.blocks\.(\d+)", lambda found: f".blocks.{int(found[1]) - 1}", name)
    return re.sub(r"(?<=\.)norm\.(?=[a-z_]+$)", "bn.", name)


def _is_index(key: str) -> bool:
    return key.endswith(("attention_bias_idxs", "attention_biase_idxs"))


def _same_layout(given: torch.Tensor, own: torch.Tensor) -> bool:
    """Equal shapes, or relative biases, of which timm flattens the offsets."""
    return given.shape == own.shape or given.shape == own.flatten(1).shape if own.dim() else True


def _mismatch(architecture: Architecture, detail: str) -> UserError:
    return UserError(f"timm weights do not fit {architecture.name or 'the architecture'}: {detail}")
