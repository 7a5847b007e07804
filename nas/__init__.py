"""Find the image network that is most accurate on your data within a latency budget.

Importing this package loads no torch; the names below load what they need on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.architecture import Architecture
    from nas.deploy.timm import load_timm_state_dict, to_timm_state_dict
    from nas.deploy.weights import resize_attention_biases
    from nas.errors import UserError
    from nas.latency.table import LatencyTable
    from nas.network import build
    from nas.search import mobile_efficiency_score
    from nas.space import SearchSpace
    from nas.supernet import Supernet

__version__ = "0.2.0.dev0"

_HOMES = {
    "Architecture": "nas.architecture",
    "LatencyTable": "nas.latency.table",
    "SearchSpace": "nas.space",
    "Supernet": "nas.supernet",
    "UserError": "nas.errors",
    "build": "nas.network",
    "load_timm_state_dict": "nas.deploy.timm",
    "mobile_efficiency_score": "nas.search",
    "resize_attention_biases": "nas.deploy.weights",
    "to_timm_state_dict": "nas.deploy.timm",
}

__all__ = [
    "Architecture",
    "LatencyTable",
    "SearchSpace",
    "Supernet",
    "UserError",
    "build",
    "load_timm_state_dict",
    "mobile_efficiency_score",
    "resize_attention_biases",
    "to_timm_state_dict",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in ("pipeline", "search"):
        return importlib.import_module(f"nas.{name}")
    raise AttributeError(f"module 'nas' has no attribute '{name}'")
