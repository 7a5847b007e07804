"""A retraining's folder: one architecture, trained from scratch or from weights that are there.

retraining.json         data, split, recipe, supernet, teacher; versions, date
architecture.json       the architecture, with a head for the data's classes
inherited.safetensors   with a supernet or pretrained weights: what the training starts from
weights.safetensors     at the end: the trained weights
result.json             at the end: test accuracy, inherited and retrained
delivered/              at the end: all that a user of the network needs, see retrained.py

Checkpoints, log, curves and lock are those of a supernet's run, see ``nas.training.run``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import ValidationError
from torch import nn

from nas.architecture import Architecture
from nas.data import Dataset
from nas.deploy.description import DELIVERED, Description, class_order
from nas.deploy.pretrained import class_axes, read_pretrained, reorder_classes
from nas.deploy.weights import load_weights, save_weights
from nas.documents import location_text, read_document, write_json
from nas.errors import UserError
from nas.network import build, measure_size
from nas.progress import SILENT, Progress
from nas.store.folder import REMEDY
from nas.training import settings
from nas.training.alone import NetworkTraining, fresh_network
from nas.training.batches import reading_size
from nas.training.distillation import Teacher, load_teacher
from nas.training.evaluation import accuracy, inherited_network
from nas.training.loop import train_epochs
from nas.training.run import ImagesFolder, ImagesRecord, Run, RunRecord, describe

INHERITED, WEIGHTS, RESULT = "inherited.safetensors", "weights.safetensors", "result.json"


class RetrainingRecord(ImagesRecord):
    """The contents of ``retraining.json``.

    ``supernet`` is the folder of the run inherited from, ``weights`` a file of pretrained weights.
    """

    later = ImagesRecord.later | {"weights"}

    recipe: settings.Recipe
    supernet: str | None
    teacher: str | None
    weights: str | None = None
    made: dict[str, Any]


class Retraining(ImagesFolder[Architecture, RetrainingRecord]):
    """A retraining's folder that exists."""

    noun, record_file, subject_file = "retraining", "retraining.json", "architecture.json"
    results = (INHERITED, WEIGHTS, RESULT)
    result_folders = (DELIVERED,)
    command = "nas retrain"
    beginning = "nas retrain without --resume starts one"

    def __init__(self, path: Path, architecture: Architecture, record: RetrainingRecord) -> None:
        super().__init__(path, architecture, record, epochs=record.recipe.epochs)
        self.architecture = architecture

    @classmethod
    def begin(
        cls,
        path: Path,
        architecture: Architecture,
        *,
        supernet: Run | None = None,
        weights: str | None = None,
        images: Mapping[str, object] | None = None,
        recipe: Mapping[str, object] | None = None,
        teacher: str | None = None,
        force: bool = False,
        origin: Mapping[str, object] | None = None,
        device: torch.device | str = "cpu",
        progress: Progress = SILENT,
    ) -> tuple[Retraining, Dataset]:
        """Start a folder; with ``force`` in place of the retraining that is there.

        ``images`` are the fields of ``DataSettings`` that differ from those of the ``supernet`` or
        from digits; ``recipe`` is a name of ``RECIPES`` and the fields that differ from it;
        ``weights`` are what ``read_pretrained`` takes. What a supernet of pretrained weights hands
        down is fine-tuned, with its reference network as the teacher. ``origin`` is kept beside
        date and versions. Raises UserError if the folder is not free, or data, supernet, weights,
        teacher and architecture do not fit.
        """
        if supernet is not None and weights is not None:
            raise UserError("a training starts from a supernet or from --weights, not from both")
        architecture.require_colour()
        cls.require_free(path, force=force)  # before the images are read, which may take long
        known = supernet.data.model_dump() if supernet else {"spec": "digits"}
        data = settings.DataSettings.model_validate({**known, **(images or {})})
        changes = dict(recipe or {})
        light = _recipe("light", changes)
        size = reading_size(architecture, light.resolutions)  # as of all recipes
        dataset = data.load(size, architecture.preprocessing, progress)
        if supernet is not None and (remark := remark_on_tests(supernet.record, dataset)):
            progress.say(f"{supernet.path}: {remark}")
        architecture = architecture.with_classes(len(dataset.classes))
        usual = settings.suitable_recipe(len(dataset.train))
        is_pretrained = supernet is not None and bool(supernet.settings.weights)
        name = str(changes.get("name", "finetuning" if weights or is_pretrained else usual))
        if supernet is not None and is_pretrained and name == "finetuning":
            changes.setdefault("head_epochs", 0)  # its classifier has learnt the images
            teacher = teacher or ":".join(map(str, supernet.reference_files))
        if name == "published":
            changes.setdefault("drop_path", settings.published_drop_path(architecture))
        described = describe(data, dataset)
        described["made"] |= dict(origin or {})
        record = RetrainingRecord(
            **described,
            recipe=_recipe(name, changes),
            supernet=str(supernet.path) if supernet else None,
            teacher=teacher,
            weights=weights,
        )
        retraining = cls(path, architecture, record)
        retraining.load_teacher()  # before anything is written
        inherited = _inherit(supernet, architecture, dataset, device) if supernet else None
        if weights is not None:
            inherited, notes = _pretrained(weights, architecture, record.recipe, dataset.classes)
            for note in notes:
                progress.say(f"{weights}: {note}")
        with retraining.begun(force=force):
            architecture.save(path / cls.subject_file)
            if inherited is not None:
                save_weights(inherited, path / INHERITED, retraining.description(dataset))
        return retraining, dataset

    @classmethod
    def read(cls, path: Path) -> Self:
        record = read_document(path / cls.record_file).validated(RetrainingRecord)
        return cls(path, Architecture.load(path / cls.subject_file), record)

    @property
    def is_finished(self) -> bool:
        return (self.path / RESULT).exists()

    def load_images(self, progress: Progress = SILENT) -> Dataset:
        """The images it was started with; raises UserError if they are others now."""
        size = reading_size(self.architecture, self.record.recipe.resolutions)
        return self._load_images(size, self.architecture.preprocessing, progress)

    def require_same(self, architecture: Architecture | None, given: Mapping[str, object]) -> None:
        """Raise UserError unless the options that are given, not None, are the retraining's."""
        mine, record = self.architecture, self.record
        if architecture is not None and architecture.with_classes(mine.classes) != mine:
            raise UserError(f"{self.path}: trains another architecture; {REMEDY}")
        given = {name: it for name, it in given.items() if name != "spec"}  # images are compared
        known = {**record.model_dump(), **record.data.model_dump(), **record.recipe.model_dump()}
        known["recipe"] = known["name"]
        options = {{"name": "recipe"}.get(name, name): option for name, option in given.items()}
        self.require_given(known, {name: it for name, it in options.items() if it is not None})

    def load_teacher(self, device: torch.device | str = "cpu") -> Teacher | None:
        if self.record.teacher is None:
            return None
        return load_teacher(
            self.record.teacher,
            classes=self.record.classes,
            image_size=self.architecture.input_size,
            device=device,
            preprocessing=self.architecture.preprocessing,
        )

    def description(self, dataset: Dataset) -> Description:
        """What files with its weights say of them."""
        return Description.of(
            self.architecture,
            classes=self.record.classes,
            interpolation=dataset.interpolation,
            run=str(self.path),
            data=self.record.data.spec,
        )

    def start(self) -> nn.Module:
        """The network before its first step: inherited, or fresh."""
        if (self.path / INHERITED).exists():
            network = build(self.architecture)
            load_weights(network, self.path / INHERITED)
            return network
        seed, scale = self.record.recipe.seed, self.record.recipe.layer_scale
        return fresh_network(self.architecture, seed=seed, layer_scale=scale)


def retrain(
    retraining: Retraining,
    dataset: Dataset,
    *,
    progress: Progress = SILENT,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Train from the last finished epoch on, write weights and result, and return the result.

    On a CPU, the weights do not depend on how often the training was stopped. Raises UserError if
    another process trains it, there were too many setbacks, nothing can be written; after Ctrl-C.
    """
    path = retraining.path
    if retraining.is_finished:
        return dict(read_document(path / RESULT).data)

    def begin() -> NetworkTraining:
        return NetworkTraining(
            retraining.architecture,
            retraining.start(),
            dataset,
            retraining.record.recipe,
            teacher=retraining.load_teacher(device),
            progress=progress,
            device=torch.device(device),
        )

    try:
        with retraining.locked() as lock:
            retraining.mend(progress)
            network = train_epochs(begin, retraining).delivered
            result = _result(retraining, dataset, network, device)
            lock.require()  # writing would make a folder again that is gone
            save_weights(network, path / WEIGHTS, retraining.description(dataset))
            write_json(path / RESULT, result)
            return result
    except KeyboardInterrupt:
        raise retraining.interrupted() from None


def _result(
    retraining: Retraining, dataset: Dataset, network: nn.Module, device: torch.device | str
) -> dict[str, Any]:
    images = dataset.test.at(retraining.architecture.input_size)
    inherited = None
    if retraining.record.supernet:  # pretrained weights may have a classifier that knows nothing
        inherited = accuracy(retraining.start().to(device), images)
    return {
        "architecture": retraining.architecture.name,
        "data": retraining.data.spec,
        "recipe": retraining.record.recipe.name,
        "epochs": retraining.record.recipe.epochs,
        **measure_size(retraining.architecture)._asdict(),
        "inherited_test_accuracy": inherited,
        "test_accuracy": accuracy(network, images),
        "test_images": len(images),
        "paths": {
            "architecture": str(retraining.path / retraining.subject_file),
            "weights": str(retraining.path / WEIGHTS),
            "log": str(retraining.log_path),
            "result": str(retraining.path / RESULT),
        },
    }


def _recipe(name: str, changes: Mapping[str, object]) -> settings.Recipe:
    """The recipe of that name with changes; of few epochs all but the last are the head's at most.

    Raises UserError if the changes contradict each other.
    """
    usual = settings.RECIPES[name]
    given = {**usual.model_dump(), **changes}
    if "head_epochs" not in changes and isinstance(given["epochs"], int):
        given["head_epochs"] = max(0, min(usual.head_epochs, given["epochs"] - 1))
    try:
        return settings.Recipe.model_validate(given)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        words = "recipe", location_text(found["loc"]), found["msg"].removeprefix("Value error, ")
        raise UserError(": ".join(filter(None, words))) from None


def _pretrained(
    weights: str, architecture: Architecture, recipe: settings.Recipe, classes: Sequence[str]
) -> tuple[nn.Module, tuple[str, ...]]:
    """The network with pretrained weights, and what was changed of them."""
    found = read_pretrained(weights, architecture, classes)
    network = fresh_network(architecture, seed=recipe.seed, layer_scale=recipe.layer_scale)
    found.load_into(network)
    return network, found.notes


def remark_on_tests(record: ImagesRecord, dataset: Dataset) -> str | None:
    """What is to be said of a test set, if it is not what a training held out.

    Raises UserError if it is split off the same data set, which has changed, so that pictures which
    were trained on are in it now.
    """
    if record.held_out is None:
        return "is of an earlier version, which did not record which pictures it held out"
    if dataset.held_out.test_sha256 == record.held_out.test_sha256:
        return None
    remark = (
        f"the test set of {dataset.name} is not the one that was held out in the training on "
        f"{record.data.spec}: pictures in it may have been trained on"
    )
    if dataset.held_out.is_split and _place(dataset.name) == _place(record.data.spec):
        raise UserError(f"{remark}; put back what was renamed, added or removed")
    return remark


def _place(spec: str) -> str:
    """The data set that a spec names, however its path is written."""
    kind, _, path = spec.partition(":")
    is_path = kind in ("folder", "parquet")
    return f"{kind}:{Path(path).expanduser().resolve()}" if is_path else spec


def record_beside(weights: Path) -> ImagesRecord | None:
    """The record of the training whose folder a file of weights lies in, at most two levels down.

    None if there is none, or it cannot be read.
    """
    kinds: dict[str, type[ImagesRecord]] = {
        Retraining.record_file: RetrainingRecord,
        Run.record_file: RunRecord,
    }
    for folder in weights.absolute().parents[:3]:
        for name, kind in kinds.items():
            if (folder / name).is_file():
                with suppress(UserError):
                    return read_document(folder / name).validated(kind)
    return None


def _inherit(
    supernet: Run, architecture: Architecture, dataset: Dataset, device: torch.device | str
) -> nn.Module:
    own, where = supernet.classes, str(supernet.path)
    order = class_order(
        own, dataset.classes, where=where, data=dataset.name, remedy="leave --from out"
    )
    try:
        network = inherited_network(
            supernet.load_supernet().to(device), architecture, dataset.train
        )
    except ValueError as error:
        problem = f"its space '{supernet.space.name}' does not hold the architecture: {error}"
        raise UserError(f"{supernet.path}: {problem}") from None
    if order is not None:
        axes = class_axes(architecture)
        network.load_state_dict(reorder_classes(network.state_dict(), axes, order))
    return network
