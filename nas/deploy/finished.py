"""A finished network as a file holds it: anybody's ONNX file, or a folder that was delivered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from onnxruntime import NodeArg
from torch import nn

from nas.deploy.description import Description, class_order, model_file
from nas.deploy.export import OnnxNetwork
from nas.deploy.quantize import cpu_session
from nas.deploy.weights import read_onnx
from nas.errors import UserError

INPUT = "must take one float32 tensor of images (N, 3, S, S)"


@dataclass(frozen=True, eq=False)
class FinishedNetwork:
    """``network`` takes normalised images (N, 3, S, S) and gives logits (N, classes).

    ``sides`` are the height and the width that it takes, None where any will do.
    """

    path: Path
    network: OnnxNetwork
    description: Description
    sides: tuple[int | None, int | None]

    @property
    def input_size(self) -> int:
        """The side of the square images that it takes; UserError if nothing tells it."""
        height, width = self.sides
        side = height or self.description.input_size
        if side is None or (width or side) != side:
            found = "x".join(str(it or "any") for it in self.sides)
            raise UserError(f"{self.path}: must take square images of a known size, takes {found}")
        return side

    def require_description(self) -> None:
        """Raise UserError unless the file says how its network wants to see pictures."""
        if not self.description.tells_preprocessing:
            raise UserError(
                f"{self.path}: its metadata lack 'mean' and 'std' (JSON lists), by which it wants "
                "to see pictures; nas export writes them"
            )


def open_finished(path: Path, *, threads: int = 1) -> FinishedNetwork:
    """The network of an ONNX file, or of a folder's ``model.onnx``; UserError if it is none."""
    file = model_file(path)
    model = read_onnx(file)
    try:
        session = cpu_session(model, threads=threads)
    except Exception as error:  # noqa: BLE001 - onnxruntime raises many types
        raise UserError(f"{file}: onnxruntime refuses it: {str(error).splitlines()[0]}") from None
    if not _takes_images(session.get_inputs()):
        raise UserError(f"{file}: {INPUT}")
    if session.get_outputs()[0].type != "tensor(float)":
        raise UserError(f"{file}: its first output must be a float32 tensor of logits")
    network = OnnxNetwork(model, threads=threads, name=str(file))
    (entry,) = session.get_inputs()
    height, width = (None if _is_open(side) else side for side in entry.shape[2:])
    try:
        known = Description.from_metadata({it.key: it.value for it in model.metadata_props})
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    return FinishedNetwork(file, network, known, (height, width))


def _takes_images(inputs: Sequence[NodeArg]) -> bool:
    """Whether the only input of a model is a float32 tensor of images."""
    if [(it.type, len(it.shape)) for it in inputs] != [("tensor(float)", 4)]:
        return False
    channels = inputs[0].shape[1]
    return channels == 3 or _is_open(channels)


def _is_open(size: object) -> bool:
    return not isinstance(size, int)  # a name, or nothing


class InOrder(nn.Module):
    """A network whose logits come in another ``order`` of its classes."""

    def __init__(self, network: nn.Module, order: Sequence[int]) -> None:
        super().__init__()
        self.network, self.order = network, list(order)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images)
        return logits[:, self.order]


def by_name(
    network: nn.Module, own: Sequence[str], wanted: Sequence[str], *, where: str, data: str
) -> nn.Module:
    """The network with its logits in the order of the ``wanted`` classes, as ``class_order``."""
    order = class_order(own, wanted, where=where, data=data)
    return network if order is None else InOrder(network, order)
