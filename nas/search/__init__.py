"""Searching over integers and callables; nothing here knows of networks or loads torch."""

from __future__ import annotations

from nas.search.importance import PathChoice, slim_by_importance
from nas.search.scaling import scale_uniformly
from nas.search.score import mobile_efficiency_score
from nas.search.slimming import Action, InfeasibleTarget, SlimmingResult, Step, slim

__all__ = [
    "Action",
    "InfeasibleTarget",
    "PathChoice",
    "SlimmingResult",
    "Step",
    "mobile_efficiency_score",
    "scale_uniformly",
    "slim",
    "slim_by_importance",
]
