"""Searching over integers and callables; nothing here knows of networks or loads torch."""

from __future__ import annotations

from nas.search.baselines import evolve, evolve_family, search_family_randomly, search_randomly
from nas.search.hypervolume import hypervolume
from nas.search.importance import PathChoice, slim_by_importance
from nas.search.problem import InfeasibleTarget
from nas.search.racing import Race, Rank, run_race
from nas.search.scaling import scale_uniformly
from nas.search.score import mobile_efficiency_score
from nas.search.slimming import (
    Action,
    FamilyResult,
    SlimmingResult,
    Step,
    slim,
    slim_family,
    slim_greedily,
)

__all__ = [
    "Action",
    "FamilyResult",
    "InfeasibleTarget",
    "PathChoice",
    "Race",
    "Rank",
    "SlimmingResult",
    "Step",
    "evolve",
    "evolve_family",
    "hypervolume",
    "mobile_efficiency_score",
    "run_race",
    "scale_uniformly",
    "search_family_randomly",
    "search_randomly",
    "slim",
    "slim_by_importance",
    "slim_family",
    "slim_greedily",
]
