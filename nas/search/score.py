"""The Mobile Efficiency Score (EfficientFormer V2, Li et al., ICCV 2023, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

UNITS: Mapping[str, float] = MappingProxyType({"params": 3e6, "latency_ms": 1.0})
"""The published units; they only rescale the score."""

EXPONENTS: Mapping[str, float] = MappingProxyType({"params": 0.5, "latency_ms": 1.0})
"""The published weights of size and speed."""


def mobile_efficiency_score(
    measures: Mapping[str, float],
    *,
    units: Mapping[str, float] = UNITS,
    exponents: Mapping[str, float] = EXPONENTS,
) -> float:
    """100 times the product of (measure / unit) ** -exponent; higher is better.

    The write-up prints no minus sign, but its own comparisons need it. Measures without an
    exponent do not count.

    Raises:
        ValueError: a measure that counts is missing, not positive, or has no unit.
    """
    score = 100.0
    for name, exponent in exponents.items():
        value = measures.get(name)
        if value is None or not value > 0 or not math.isfinite(value):
            raise ValueError(f"mobile efficiency score: {name} must be positive, got {value}")
        if name not in units:
            raise ValueError(f"mobile efficiency score: {name} has no unit")
        score *= (value / units[name]) ** -exponent
    return score
