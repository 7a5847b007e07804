"""Teachers: how much of the labels their outputs replace, and how far a student is from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.architecture import Architecture
from nas.data.images import Images, resize
from nas.deploy.description import Description, class_order, describe_weights
from nas.deploy.finished import open_finished
from nas.deploy.pretrained import load_finished
from nas.errors import UserError
from nas.network import build
from nas.preprocessing import IMAGENET, Preprocessing
from nas.training.settings import Divergence

Teacher = Callable[[Tensor], Tensor]
"""From normalised images (N, 3, S, S) to logits (N, classes), without gradients."""

ALPHAS, MOST_RATIO = (-1.0, 1.0), 5.0  # AlphaNet's (Wang et al. 2021, arXiv 2102.07954, section 4)


@dataclass(frozen=True)
class Distillation:
    """How students learn beside the labels, by a share; without a teacher from the largest."""

    share: float
    divergence: Divergence = "kl"
    teacher: Teacher | None = None

    def loss(self, cross_entropy: Tensor, divergence: Tensor) -> Tensor:
        return (1 - self.share) * cross_entropy + self.share * divergence


def above_chance(accuracy: float, classes: int) -> float:
    """0 for guessing, 1 for knowing all."""
    chance = 1 / classes
    return max(0.0, (accuracy - chance) / (1 - chance))


def diverge(logits: Tensor, teacher: Tensor, divergence: Divergence) -> Tensor:
    """The batch's mean ``alpha_divergence`` or KL(teacher || outputs), in nats; of logits."""
    if divergence == "alpha":
        return alpha_divergence(logits, teacher).mean()
    outputs, target = logits.log_softmax(1), teacher.detach().log_softmax(1)
    # "mean" would divide by the classes too
    return functional.kl_div(outputs, target, reduction="batchmean", log_target=True)


def alpha_divergence(
    logits: Tensor,
    teacher: Tensor,
    *,
    alphas: tuple[float, float] = ALPHAS,
    most_ratio: float = MOST_RATIO,
) -> Tensor:
    """The larger of two clipped alpha-divergences of each image (N,), with AlphaNet's gradient.

    With p the teacher's probabilities and q ours, D = (E_q[(p / q)^alpha] - 1) / (alpha (alpha -
    1)); 1 stands for its limit KL(p || q). (p / q)^alpha is cut at ``most_ratio``, except for 1;
    the gradient is -E_q[(p / q)^alpha / alpha grad log q] with that.
    """
    first, second = (_clipped(logits, teacher.detach(), alpha, most_ratio) for alpha in alphas)
    is_first = first[0] > second[0]
    value, slope = (torch.where(is_first, *pair) for pair in zip(first, second, strict=True))
    return value + slope - slope.detach()  # the value of the one, the gradient of the other


def _clipped(
    logits: Tensor, teacher: Tensor, alpha: float, most_ratio: float
) -> tuple[Tensor, Tensor]:
    """The clipped divergence (N,), and a sum (N,) of which only the gradient means something."""
    log_p, log_q = teacher.log_softmax(1), logits.log_softmax(1)
    p, q = log_p.exp(), log_q.detach().exp()
    if alpha == 1:
        return (p * (log_p - log_q.detach())).sum(1), -(p * log_q).sum(1)
    # q times the ratio's power, from logarithms: q of 0 would make it infinite times 0
    ratio = (alpha * (log_p - log_q.detach())).exp().clamp(max=most_ratio)
    value = ((q * ratio).sum(1) - 1) / (alpha * (alpha - 1))
    return value, -(q * ratio / alpha * log_q).sum(1)


def load_teacher(
    spec: str,
    *,
    classes: Sequence[str],
    image_size: int,
    device: torch.device | str = "cpu",
    preprocessing: Preprocessing = IMAGENET,
) -> Teacher:
    """The teacher that ``spec`` names: ``ARCHITECTURE:WEIGHTS``, or a model on the CPU.

    A model is an ONNX file, or a folder that was delivered. A teacher gets its student's images,
    resized to ``image_size``, which are normalised by ``preprocessing``, sees them by its own mean
    and deviation, and answers in the order of its student's ``classes``. Raises UserError if there
    is no such teacher, or it takes images of another size, or knows other classes.
    """
    name, colon, weights = spec.partition(":")
    if spec.endswith(".onnx") or Path(spec).is_dir():
        teacher, own = _from_model(spec, image_size, torch.device(device))
    elif colon and weights:
        teacher, own = _from_weights(name, Path(weights), image_size, torch.device(device))
    else:
        raise UserError(f"teacher '{spec}': must be ARCHITECTURE:WEIGHTS or a file *.onnx")
    try:
        shape = tuple(teacher(torch.zeros(2, 3, image_size, image_size, device=device)).shape)
    except Exception as error:  # of onnxruntime, on a graph that does not compute
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"teacher '{spec}': does not run: {reason}") from error
    if shape != (2, len(classes)):
        found = f"{shape[1]} classes" if len(shape) == 2 else f"outputs of the shape {shape}"
        raise UserError(f"teacher '{spec}': must tell {len(classes)} classes apart, has {found}")
    where, order = f"teacher '{spec}'", None
    if own.classes:
        order = class_order(own.classes, classes, where=where, data="its student")

    def teach(images: Tensor) -> Tensor:
        resized = resize(images, image_size)
        logits = teacher(renormalise(resized, preprocessing, own.preprocessing))
        return logits if order is None else logits[:, order]

    return teach


def renormalise(images: Tensor, before: Preprocessing, after: Preprocessing) -> Tensor:
    """Images (N, 3, S, S) that one mean and deviation made, as others make them."""
    if (before.mean, before.std) == (after.mean, after.std):
        return images
    mean, std, own_mean, own_std = (
        images.new_tensor(it).view(3, 1, 1)
        for it in (before.mean, before.std, after.mean, after.std)
    )
    return (images * std + (mean - own_mean)) / own_std


def teacher_accuracy(teacher: Teacher, images: Images, *, batch_size: int = 256) -> float:
    """The share of images whose label is the teacher's most probable class."""
    hits = 0
    for inputs, labels in images.batches(batch_size):
        logits = teacher(inputs).cpu()
        if not bool(logits.isfinite().all()):
            raise UserError("the teacher gives numbers that are not finite (NaN or infinity)")
        hits += int((logits.argmax(1) == labels).sum())
    return hits / len(images)


def _from_weights(
    name: str, weights: Path, image_size: int, device: torch.device
) -> tuple[Teacher, Description]:
    architecture = Architecture.load(name)
    _require_size(f"{name}:{weights}", architecture.input_shape, image_size)
    network: nn.Module = build(architecture)
    load_finished(network, architecture, weights)
    layout = torch.channels_last
    network = network.to(device, memory_format=layout).eval()  # type: ignore[call-overload]
    teach = torch.no_grad()(lambda images: network(images.to(device, memory_format=layout)))
    classes = describe_weights(weights).classes
    return teach, Description.of(architecture, classes=classes)


def _from_model(spec: str, image_size: int, device: torch.device) -> tuple[Teacher, Description]:
    try:
        found = open_finished(Path(spec), threads=torch.get_num_threads())
    except UserError as error:
        raise UserError(f"teacher {error}") from None
    _require_size(spec, (3, *found.sides), image_size)
    return lambda images: found.network(images).to(device), found.description


def _require_size(spec: str, shape: tuple[int | None, ...], image_size: int) -> None:
    wanted = (3, image_size, image_size)
    if any(found not in (None, side) for found, side in zip(shape, wanted, strict=True)):
        listed, expected = ("x".join(str(side or "any") for side in it) for it in (shape, wanted))
        raise UserError(f"teacher '{spec}': must take images of {expected}, takes {listed}")
