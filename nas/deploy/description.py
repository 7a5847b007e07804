"""What a file with a network says of it: how to feed it, and what its outputs mean.

ONNX and safetensors files hold it as metadata, a JSON text for each field. Needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from safetensors import SafetensorError, safe_open

from nas.documents import Value
from nas.errors import UserError
from nas.machine import nas_version
from nas.preprocessing import Interpolation, Preprocessing

if TYPE_CHECKING:
    from nas.architecture import Architecture

ORIGIN = frozenset({"nas_version", "run", "data", "measured"})
"""Fields that only ``nas`` writes; files of others may use these words in their own way."""
DELIVERED = "delivered"
"""The folder of delivered networks, one for each method of a search, or of a retrained one."""
MODEL_FILE = "model.onnx"
MOST_TEXT = 200
"""Characters of a field that a message shows."""
NAMED = 3
"""Classes that a message names."""


class MeasuredLatency(Value):
    """The ms of a model on a device; ``date`` is that of the measurement."""

    device: str
    runtime: str
    threads: int
    precision: str
    date: str
    warm_ms: float
    cold_ms: float


class Description(Value):
    """How a network wants to see pictures, and the classes of its outputs, in order.

    ``mean`` and ``std`` are of red, green and blue between the ends of ``value_range``; ``crop`` is
    the share of a picture's central square. ``run`` made it from ``data``. Empty where not known.
    """

    classes: tuple[str, ...] = ()
    input_size: Annotated[int, Field(gt=0)] | None = None
    crop: float = Preprocessing().crop
    interpolation: Interpolation | None = None
    color_order: Literal["RGB"] = "RGB"
    value_range: tuple[Literal[0], Literal[1]] = (0, 1)
    mean: tuple[float, float, float] = Preprocessing().mean
    std: tuple[float, float, float] = Preprocessing().std
    nas_version: str = ""
    run: str = ""
    data: str = ""
    measured: tuple[MeasuredLatency, ...] = ()

    @classmethod
    def of(
        cls,
        architecture: Architecture,
        *,
        classes: Sequence[str] = (),
        interpolation: Interpolation | None = None,
        **origin: Any,  # noqa: ANN401 - fields that tell where the network comes from
    ) -> Description:
        """The description of a network by its architecture."""
        seen = architecture.preprocessing
        return cls(
            classes=tuple(classes),
            input_size=architecture.input_size,
            crop=seen.crop,
            interpolation=seen.interpolation or interpolation,
            mean=seen.mean,
            std=seen.std,
            nas_version=nas_version(),
            **origin,
        )

    def told_of(self, architecture: Architecture) -> Description:
        """The description of an architecture with the weights that this one is of.

        What was measured is left out: it was another file, or another precision.
        """
        origin = {"run": self.run, "data": self.data}
        return Description.of(
            architecture, classes=self.classes, interpolation=self.interpolation, **origin
        )

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str | bytes]) -> Description:
        """What a file's metadata say; what they do not say is not in ``model_fields_set``.

        Protobuf gives bytes for what is no UTF-8. Raises UserError if others wrote something else
        by these names.
        """
        own = "nas_version" in metadata
        names = [name for name in cls.model_fields if own or name not in ORIGIN]
        found = {name: metadata[name] for name in names if name in metadata}
        try:
            fields = {name: json.loads(text) for name, text in found.items()}
            described = cls.model_validate(fields)
            described.preprocessing  # noqa: B018 - its rules hold too
        except (ValueError, RecursionError):  # others may nest brackets without end
            told = ", ".join(f"{name} {_on_one_line(text)}" for name, text in found.items())
            problem = "its metadata say in no known form how it sees pictures"
            raise UserError(f"{problem}: {told}") from None
        return described

    def metadata(self) -> dict[str, str]:
        """The fields that are known, as JSON, in a fixed order."""
        fields = self.model_dump(mode="json")
        unknown: tuple[object, ...] = ("", None, [])
        return {name: json.dumps(it) for name, it in fields.items() if it not in unknown}

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(
            mean=self.mean, std=self.std, crop=self.crop, interpolation=self.interpolation
        )

    @property
    def tells_preprocessing(self) -> bool:
        """Whether a file says how its network wants to see pictures."""
        return {"mean", "std"} <= self.model_fields_set


def _on_one_line(text: str | bytes) -> str:
    """The beginning of what others wrote."""
    found = text if isinstance(text, str) else text.decode(errors="replace")
    return " ".join(found[:MOST_TEXT].split())


def describe_weights(path: Path) -> Description:
    """What a safetensors file says of its network; an empty description of other files.

    Raises UserError if there is no such file.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    metadata: Mapping[str, str | bytes] = {}
    with suppress(SafetensorError, OSError), safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
    try:
        return Description.from_metadata(metadata)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def model_file(path: Path) -> Path:
    """The ONNX file that a path names; raises UserError if there is none."""
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        problem = f"holds no {MODEL_FILE}" if path.is_dir() else "no such file"
        raise UserError(
            f"{path}: {problem}; a model is an ONNX file, or a folder delivered/METHOD of nas slim"
        )
    return file


def class_order(
    own: Sequence[str], wanted: Sequence[str], *, where: str, data: str, remedy: str = ""
) -> list[int] | None:
    """For each of the ``wanted`` classes its place among a network's ``own``; None if they agree.

    Raises UserError if they are not the same classes: ``where`` the network is, ``data`` wants.
    """
    if tuple(own) == tuple(wanted):
        return None
    if set(own) != set(wanted):
        ending = f"; {remedy}" if remedy else ""
        raise UserError(f"{where}: {_differences(own, wanted, data)}{ending}")
    if len(set(own)) < len(own) or len(own) != len(wanted):
        raise UserError(
            f"{where}: some of its classes have the same name, and stand in another order than "
            f"those of {data}"
        )
    return [list(own).index(name) for name in wanted]


def _differences(own: Sequence[str], wanted: Sequence[str], data: str) -> str:
    lacking = [name for name in wanted if name not in own]
    further = [name for name in own if name not in wanted]
    parts = [f"does not know {listed(lacking)}"] if lacking else []
    parts += [f"knows {listed(further)} beside them"] if further else []
    return f"tells other classes apart than {data}: {', '.join(parts)}"


def listed(names: Sequence[str]) -> str:
    """Some names for a message: ``'cat', 'dog', 'hen' and 3 more``."""
    shown = ", ".join(f"'{name}'" for name in names[:NAMED])
    return f"{shown} and {len(names) - NAMED} more" if len(names) > NAMED else shown
