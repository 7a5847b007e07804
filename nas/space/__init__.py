"""Search spaces: their documents, their choices, their architectures."""

from __future__ import annotations

from nas.space.search_space import (
    DEFAULT_SPACE,
    WIDTH_STEP,
    Assignment,
    SearchSpace,
    built_in_architectures,
    built_in_spaces,
)

__all__ = [
    "DEFAULT_SPACE",
    "WIDTH_STEP",
    "Assignment",
    "SearchSpace",
    "built_in_architectures",
    "built_in_spaces",
]
