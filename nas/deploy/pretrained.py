"""Weights of others for our networks: any file, naming, precision, input size, number of classes.

Files are safetensors, or what ``torch.save`` wrote of a state dict, read without executing
anything. Tensors are found by our names, by timm's, or by their order where order, shapes and the
last words of all names agree.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from nas.architecture import Architecture
from nas.deploy.description import class_order, describe_weights, listed
from nas.deploy.timm import (
    COUNTER,
    Place,
    closest,
    find_misfit,
    take_all,
    timm_places,
    without_indices,
)
from nas.deploy.weights import read_weights, resize_attention_biases
from nas.errors import UserError
from nas.network import build
from nas.progress import SILENT, Progress

HUB = "hf:"
HUB_FILE = "model.safetensors"
NESTED = ("state_dict_ema", "model_ema", "state_dict", "model", "network")
"""Keys under which trainings keep a state dict; averaged weights are the better ones."""
PREFIXES = ("module.", "_orig_mod.")
"""Of names in a network that was trained by several processes, or compiled."""
LARGEST_SIZE, SIZE_STEP = 640, 16
"""Input sizes, in pixels, among which that of weights with attention biases is looked for."""

Tensors = dict[str, torch.Tensor]


class Pretrained(NamedTuple):
    """Weights by our names, and notes on what was changed; ``fresh`` are tensors that they lack."""

    state: Tensors
    fresh: frozenset[str]
    notes: tuple[str, ...]

    def load_into(self, network: torch.nn.Module) -> None:
        """Load the weights; what they lack stays as it is in ``network``."""
        own = network.state_dict()
        network.load_state_dict({**own, **self.state})


def read_pretrained(
    source: str | Path, architecture: Architecture, classes: Sequence[str] = ()
) -> Pretrained:
    """The weights of a file, or of ``hf:OWNER/NAME``, for ``build(architecture)``.

    A classifier of other classes is left out, attention biases are interpolated to the input size.
    Where the file names its classes, and ``classes`` are given, these decide, and their order.
    Raises UserError if they cannot be read, or are another network's.
    """
    path = _located(str(source))
    found = _fitting(str(source), path, architecture)
    own = describe_weights(path).classes
    if found.fresh or not own or not classes:
        return found
    return _by_name(found, own, classes, class_axes(architecture))


def load_finished(
    network: torch.nn.Module,
    architecture: Architecture,
    source: str | Path,
    progress: Progress = SILENT,
) -> None:
    """Load weights of a trained network into ``build(architecture)``; nothing of it stays random.

    What was changed of them is said. Raises UserError as ``read_pretrained`` does, and where they
    have no classifier of as many classes.
    """
    found = read_pretrained(source, architecture)
    if found.fresh:
        raise UserError(f"{source}: has no classifier of {architecture.classes:,} classes")
    for note in found.notes:
        progress.say(f"{source}: {note}")
    found.load_into(network)


def _fitting(source: str, path: Path, architecture: Architecture) -> Pretrained:
    """The weights of a file, with a classifier of as many classes or without one."""
    tensors = without_indices(_tensors_in(source, path))
    given = {key: tensor for key, tensor in tensors.items() if not _is_counter(key)}
    classifiers = class_axes(architecture)
    fits: list[Fit] = []
    for naming in NAMINGS:
        if (places := naming(architecture, given)) is None:
            continue
        classes = _classes(places, classifiers, given)
        for candidate in _candidates(architecture.with_classes(classes or architecture.classes)):
            fits.append(Fit.of(candidate, naming, given, classifiers if classes is None else {}))
            if fits[-1].misfit is None:
                return _taken(fits[-1], architecture, given, classifiers, classes)
    nearest = max(fits, key=lambda fit: sum(it.key in given for it in fit.places.values()))
    named = architecture.name or "the architecture"
    near = closest(given, architecture)
    raise UserError(f"{source}: weights do not fit {named}: {nearest.misfit}{near}")


def _by_name(
    found: Pretrained, own: Sequence[str], classes: Sequence[str], classifiers: Mapping[str, int]
) -> Pretrained:
    """The weights with the classifier in the order of ``classes``, or without it."""
    state, notes = found.state, list(found.notes)
    if set(own) != set(classes):
        notes.append(
            f"their classifier tells other classes apart ({listed(own)}): it starts afresh"
        )
        kept = {name: tensor for name, tensor in state.items() if name not in classifiers}
        return Pretrained(kept, frozenset(classifiers), tuple(notes))
    order = class_order(own, classes, where="weights", data="the images")
    if order is not None:
        notes.append("their classes stand in another order: the classifier's rows follow by name")
        state = reorder_classes(state, classifiers, order)
    return found._replace(state=state, notes=tuple(notes))


def reorder_classes(
    state: Tensors, classifiers: Mapping[str, int], order: Sequence[int]
) -> Tensors:
    """The weights of a network whose classes come in another ``order``."""

    def reordered(tensor: torch.Tensor, axis: int) -> torch.Tensor:
        return tensor.index_select(axis, torch.tensor(order, device=tensor.device))

    return {
        name: reordered(tensor, classifiers[name]) if name in classifiers else tensor
        for name, tensor in state.items()
    }


class Fit(NamedTuple):
    """An architecture's tensors in the weights, and the first reason why they do not fit."""

    architecture: Architecture
    naming: Naming
    places: Places
    misfit: str | None

    @classmethod
    def of(
        cls, architecture: Architecture, naming: Naming, given: Tensors, missing: Mapping[str, int]
    ) -> Fit:
        """Compare shapes, but for tensors that are ``missing``."""
        places = naming(architecture, given) or {}
        places = {name: place for name, place in places.items() if name not in missing}
        return cls(architecture, naming, places, find_misfit(places, given))


def _taken(
    fit: Fit,
    architecture: Architecture,
    given: Tensors,
    classifiers: Mapping[str, int],
    classes: int | None,
) -> Pretrained:
    """The tensors of weights that fit, brought to the architecture's input size and classes."""
    state, notes = take_all(fit.places, given), []
    if fit.naming is by_order:
        notes.append("their names are unknown: tensors were taken in their order, as shapes agree")
    if fit.architecture.input_shape != architecture.input_shape:
        sized = architecture.with_classes(fit.architecture.classes)
        shapes = shapes_of(fit.architecture)
        lacking = {name: torch.zeros(shapes[name]) for name in classifiers if name not in state}
        resized = resize_attention_biases({**state, **lacking}, fit.architecture, sized)
        state = {name: resized[name] for name in state}
        sizes = f"{fit.architecture.input_size} to {architecture.input_size} px"
        notes.append(f"their attention biases are interpolated from {sizes}")
    if classes == architecture.classes:
        return Pretrained(state, frozenset(), tuple(notes))
    if classes is None:
        notes.append("they have no classifier: it starts afresh")
    else:
        change = f"of {classes:,} classes is replaced by one of {architecture.classes:,}"
        notes.append(f"their classifier {change}")
    kept = {name: tensor for name, tensor in state.items() if name not in classifiers}
    return Pretrained(kept, frozenset(classifiers), tuple(notes))


def by_our_names(architecture: Architecture, given: Tensors) -> Places | None:
    """Tensors that have our names."""
    del given
    return {name: _whole(name, shape) for name, shape in shapes_of(architecture).items()}


def by_timm_names(architecture: Architecture, given: Tensors) -> Places | None:
    """Tensors that have timm's names; None where timm has no such layers."""
    del given
    try:
        return timm_places(architecture)
    except UserError:
        return None


def by_order(architecture: Architecture, given: Tensors) -> Places | None:
    """Tensors in our order; None unless there are as many, and their names end alike."""
    names = {it: shape for it, shape in shapes_of(architecture).items() if not _is_counter(it)}
    keys = list(given)
    ends = ([name.rpartition(".")[2] for name in found] for found in (names, keys))
    first, second = ends
    if first != second:
        return None
    pairs = zip(names.items(), keys, strict=True)
    return {name: _whole(name, shape)._replace(key=key) for (name, shape), key in pairs}


Places = Mapping[str, Place]
Naming = Callable[[Architecture, Tensors], Places | None]
NAMINGS: tuple[Naming, ...] = (by_our_names, by_timm_names, by_order)


def class_axes(architecture: Architecture) -> dict[str, int]:
    """The tensors whose shapes depend on the number of classes, and the axis that does."""
    more = shapes_of(architecture.with_classes(architecture.classes + 1))
    return {
        name: next(axis for axis, side in enumerate(shape) if side != more[name][axis])
        for name, shape in shapes_of(architecture).items()
        if shape != more[name]
    }


def shapes_of(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors of ``build(architecture)``, by name."""
    with torch.device("meta"):
        network = build(architecture)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _classes(places: Places, classifiers: Mapping[str, int], given: Tensors) -> int | None:
    """The number of classes in the weights; None if they have no classifier."""
    found = [
        given[key].shape[axis]
        for name, axis in classifiers.items()
        if (key := places[name].key) in given and given[key].dim() > axis
    ]
    return max(found, default=None)


def _candidates(architecture: Architecture) -> Iterator[Architecture]:
    """The architecture, and that of other input sizes if its weights depend on them."""
    yield architecture
    others = list[Architecture]()
    for size in range(SIZE_STEP, LARGEST_SIZE + 1, SIZE_STEP):
        with suppress(UserError):  # sides that the strides do not divide
            others.append(architecture.with_input_size(size))
    if others and shapes_of(others[-1]) != shapes_of(architecture):
        yield from others


def _whole(name: str, shape: tuple[int, ...]) -> Place:
    """A tensor that lies in the weights as it is."""
    return Place(name, shape, own=shape, axis=0, groups=1, start=0, order=None)


def _is_counter(name: str) -> bool:
    return name.endswith(COUNTER)


def read_tensors_of(source: str) -> Tensors:
    """The tensors of a file or of the hub, by their names there, floating ones in float32.

    Raises UserError if there are none, one of them holds no finite number, or the file would
    execute code.
    """
    return _tensors_in(source, _located(source))


def _located(source: str) -> Path:
    """The file of a source; UserError if there is none."""
    path = _download(source) if source.startswith(HUB) else Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"{source}: no such file")
    return path


def _tensors_in(source: str, path: Path) -> Tensors:
    found = read_weights(path) if _is_safetensors(path) else _unpickled(path)
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    tensors = {}
    for name, tensor in found.items():
        tensors[name] = tensor.float() if tensor.is_floating_point() else tensor
        if not tensors[name].isfinite().all():
            raise UserError(f"{source}: '{name}' holds numbers that are not finite")
    return tensors


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins with the length of a JSON header, as safetensors do."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{"


def _unpickled(path: Path) -> Tensors:
    """The state dict that ``torch.save`` wrote, found under the usual keys."""
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" not in str(error):
            raise UserError(f"{path}: holds no weights: it is no file of torch.save") from None
        raise UserError(
            f"{path}: holds Python objects beside tensors, which only running its code would "
            "read; save its state dict alone"
        ) from None
    except Exception as error:  # noqa: BLE001 - whatever a damaged archive raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: holds no weights: {reason}") from None
    for _ in range(2):  # {"state_dict": {"model": ...}} has been seen
        if isinstance(found, Mapping):
            nested = (found[key] for key in NESTED if isinstance(found.get(key), Mapping))
            found = next(nested, found)
    tensors = {}
    if isinstance(found, Mapping):
        tensors = {str(name): it for name, it in found.items() if isinstance(it, torch.Tensor)}
    if not tensors:
        raise UserError(f"{path}: holds no state dict, a mapping of names to tensors")
    return tensors


def _download(source: str) -> Path:
    """The file with the weights of a model on the Hugging Face hub, or in its cache."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise UserError(
            f"weights '{source}': need huggingface_hub, which is not installed; to install it: "
            'pip install "slimnas[hf]"'
        ) from None
    try:
        return Path(hf_hub_download(source.removeprefix(HUB), HUB_FILE))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()
        raise UserError(
            f"{source}: {HUB_FILE} cannot be loaded: {reason[0] if reason else 'no answer'}"
        ) from None
