"""Kinds that a user's own files add: validation finds their classes in its context."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from pydantic import BaseModel, ValidationInfo, ValidatorFunctionWrapHandler
from pydantic_core import PydanticKnownError

from nas.families.layer import Layer

Kinds = Mapping[str, type[Layer]]
"""The context of a validation: a class for each kind that is not built in."""


def pick(
    data: object,
    handler: ValidatorFunctionWrapHandler,
    info: ValidationInfo,
    class_of: Callable[[type[Layer]], type[BaseModel]],
    built_in: Collection[str],
) -> object:
    """``data`` as a value of the class that ``class_of`` has for its kind; else by ``handler``."""
    own: Kinds = info.context or {}
    kind = str(data.get("kind", "")) if isinstance(data, Mapping) else ""
    if kind in own:
        return class_of(own[kind]).model_validate(data, context=own)
    if own and kind and kind not in built_in:
        expected = ", ".join(f"'{it}'" for it in (*own, *built_in))
        raise PydanticKnownError(
            "union_tag_invalid",
            {"discriminator": "'kind'", "tag": kind, "expected_tags": expected},
        )
    return handler(data)
