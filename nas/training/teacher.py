"""A trained network whose outputs others learn from: one of ours with weights, or an ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from nas.architecture import Architecture
from nas.data import Images
from nas.data.images import resize
from nas.deploy.weights import load_weights, read_onnx
from nas.errors import UserError
from nas.network import build

Teacher = Callable[[Tensor], Tensor]
"""From normalised images (N, 3, S, S) to logits (N, classes), without gradients."""


def load_teacher(
    spec: str, *, classes: int, image_size: int, device: torch.device | str = "cpu"
) -> Teacher:
    """The teacher that ``spec`` names: ``ARCHITECTURE:WEIGHTS``, or an ONNX file.

    It sees the very images that its pupil sees, resized to ``image_size`` and normalised as ours
    are (ImageNet's mean and standard deviation); ONNX runs on the CPU.

    Raises:
        UserError: there is no such teacher, or it takes images of another size, or tells other
            classes apart.
    """
    name, colon, weights = spec.partition(":")
    if spec.endswith(".onnx"):
        teacher = _from_onnx(spec, image_size, torch.device(device))
    elif colon and weights:
        teacher = _from_weights(name, Path(weights), image_size, torch.device(device))
    else:
        raise UserError(f"teacher '{spec}': must be ARCHITECTURE:WEIGHTS or a file *.onnx")
    shape = tuple(teacher(torch.zeros(2, 3, image_size, image_size, device=device)).shape)
    if shape != (2, classes):
        told = f"{shape[1]} classes" if len(shape) == 2 else f"outputs of the shape {shape}"
        raise UserError(f"teacher '{spec}': must tell {classes} classes apart, has {told}")
    return lambda images: teacher(resize(images, image_size))


def teacher_accuracy(teacher: Teacher, images: Images, *, batch_size: int = 256) -> float:
    """The share of images whose most probable class, says the teacher, is their label."""
    hits = sum(
        int((teacher(inputs).argmax(1).cpu() == labels).sum())
        for inputs, labels in images.batches(batch_size)
    )
    return hits / len(images)


def _from_weights(name: str, weights: Path, image_size: int, device: torch.device) -> Teacher:
    architecture = Architecture.load(name)
    _require_size(f"{name}:{weights}", architecture.input_shape, image_size)
    network: nn.Module = build(architecture)
    load_weights(network, weights)
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    @torch.no_grad()
    def teach(images: Tensor) -> Tensor:
        images = images.to(device, memory_format=torch.channels_last)
        return network(images)  # type: ignore[no-any-return]

    return teach


def _from_onnx(path: str, image_size: int, device: torch.device) -> Teacher:
    import onnxruntime  # only these teachers need it

    model = read_onnx(Path(path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"teacher '{path}': onnxruntime refuses it: {reason}") from error
    (entry, *others) = session.get_inputs()
    if others or len(entry.shape) != 4 or entry.type != "tensor(float)":
        raise UserError(f"teacher '{path}': must take one float32 tensor of images (N, 3, S, S)")
    batch, *shape = entry.shape  # an open dimension is a name
    _require_size(path, tuple(it if isinstance(it, int) else None for it in shape), image_size)

    def teach(images: Tensor) -> Tensor:
        pixels = images.cpu().contiguous().numpy()
        size = batch if isinstance(batch, int) else len(pixels)
        # a model of a fixed batch size takes its own, the last one filled up
        padding = np.zeros((-len(pixels) % size, *pixels.shape[1:]), np.float32)
        padded = np.concatenate([pixels, padding])
        logits = [
            session.run(None, {entry.name: padded[start : start + size]})[0]
            for start in range(0, len(padded), size)
        ]
        return torch.from_numpy(np.concatenate(logits)[: len(pixels)]).to(device)

    return teach


def _require_size(spec: str, shape: tuple[int | None, ...], image_size: int) -> None:
    wanted = (3, image_size, image_size)
    if any(found not in (None, side) for found, side in zip(shape, wanted, strict=True)):
        listed, expected = ("x".join(str(it or "any") for it in one) for one in (shape, wanted))
        raise UserError(f"teacher '{spec}': must take images of {expected}, takes {listed}")
