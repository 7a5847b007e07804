"""Searching over integers and callables; nothing here knows of networks or loads torch."""

from __future__ import annotations

from nas.search.baselines import evolve, search_randomly
from nas.search.hypervolume import hypervolume
from nas.search.importance import PathChoice, slim_by_importance
from nas.search.problem import InfeasibleTarget
from nas.search.racing import Race, Rank, run_race
from nas.search.scaling import scale_uniformly
from nas.search.score import mobile_efficiency_score
from nas.search.slimming import Action, SlimmingResult, Step, slim, slim_greedily

__all__ = [
    "Action",
    "InfeasibleTarget",
    "PathChoice",
    "Race",
    "Rank",
    "SlimmingResult",
    "Step",
    "evolve",
    "hypervolume",
    "mobile_efficiency_score",
    "run_race",
    "scale_uniformly",
    "search_randomly",
    "slim",
    "slim_by_importance",
    "slim_greedily",
]
