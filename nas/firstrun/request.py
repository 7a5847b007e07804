"""What a user asks of ``nas run``, as a value that its folder keeps."""

from __future__ import annotations

import math
from typing import Annotated, Self

from pydantic import Field, model_validator

from nas.documents import Value
from nas.errors import UserError
from nas.latency.device import Device

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Request(Value):
    """The options of ``nas run``; None is what the plan decides.

    ``space`` is a name or a file, instead of those that the plan chooses from; ``weights`` and
    ``architecture`` lead to the space that ``nas new-space`` writes around the network. ``device``,
    ``python``, ``workdir`` and ``cores`` are those of the ``Device`` that latencies are of.
    """

    data: str
    target_ms: Positive | None = None
    space: str | None = None
    weights: str | None = None
    architecture: str | None = None
    device: str = "cpu"
    python: str | None = None
    workdir: str | None = None
    cores: str | None = None
    minutes: Positive | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _require_sense(self) -> Self:
        if self.space and self.architecture:
            raise ValueError("--space and --architecture exclude each other")
        if self.weights and not (self.space or self.architecture):
            raise ValueError("--weights needs --architecture, the network that they are of")
        return self

    @property
    def place(self) -> Device:
        """Where latencies are measured."""
        return Device(name=self.device, **self.place_options)

    @property
    def place_options(self) -> dict[str, str]:
        """The options of the device that are given, by their names."""
        names = (name for name in Device.model_fields if name != "name")
        return {name: value for name in names if (value := getattr(self, name))}

    def require_same(self, other: Request, folder: object) -> None:
        """Raise UserError, naming the first difference, unless a run began with this request."""
        for name in type(self).model_fields:
            before, now = getattr(self, name), getattr(other, name)
            if before != now:
                option = f"--{name.replace('_', '-')}"
                raise UserError(
                    f"{folder}: was started {_given(option, before)}, now {_given(option, now)}; "
                    "name another --out, or start anew with --force"
                )


def require_positive(option: str, value: float | None) -> None:
    """Raise UserError unless an option that is given is a number above zero."""
    if value is not None and not 0 < value < math.inf:
        raise UserError(f"{option}: must be above 0, got {value:g}")


def _given(option: str, value: object) -> str:
    if value is None:
        return f"without {option}"
    return f"with {option} {value:g}" if isinstance(value, float) else f"with {option} {value}"
