"""Search spaces: their documents, their choices, their architectures."""

from __future__ import annotations

from nas.documents import built_in_architectures, built_in_spaces
from nas.space.choices import Choice, named_choice
from nas.space.document import IDENTITY, Slot
from nas.space.search_space import DEFAULT_SPACE, Assignment, SearchSpace

__all__ = [
    "DEFAULT_SPACE",
    "IDENTITY",
    "Assignment",
    "Choice",
    "SearchSpace",
    "Slot",
    "built_in_architectures",
    "built_in_spaces",
    "named_choice",
]
