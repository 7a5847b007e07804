"""A retraining's folder: one architecture, trained from scratch or from what it inherited.

| file                     | what it holds                                               |
|--------------------------|-------------------------------------------------------------|
| `retraining.json`        | data, split, recipe, supernet, teacher; versions, date      |
| `architecture.json`      | the architecture, with a head for the data's classes        |
| `inherited.safetensors`  | with a supernet: the weights that the training starts from  |
| `checkpoint.safetensors` | weights and optimizer after the last finished epoch         |
| `previous.safetensors`   | the checkpoint before, should that one be damaged           |
| `log.jsonl`              | one line per epoch: losses, rate, speed, accuracy;          |
|                          | and one per setback                                         |
| `tensorboard/`           | the same as curves                                          |
| `weights.safetensors`    | at the end: the trained weights                             |
| `result.json`            | at the end: test accuracy, inherited and retrained          |
| `.lock`                  | there while a process trains                                |
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from nas.architecture import Architecture
from nas.data import Dataset
from nas.deploy.files import load_weights, save_weights
from nas.documents import Value, fingerprint, read_document, write_json
from nas.errors import UserError
from nas.network import build, measure_size
from nas.store.checkpoint import PREVIOUS, State, mend_checkpoint, read_state
from nas.training.epochs import Files, train_epochs
from nas.training.evaluate import accuracy, inherited_network
from nas.training.progress import Report
from nas.training.recipe import RECIPES, Recipe, published_drop_path, suitable_recipe
from nas.training.resolutions import Resolutions, reading_size
from nas.training.run import LOCK_FILE, Run, circumstances, lock_for_training
from nas.training.settings import DataSettings
from nas.training.standalone import Standalone, fresh_network
from nas.training.teacher import load_teacher

RECORD, ARCHITECTURE, INHERITED = "retraining.json", "architecture.json", "inherited.safetensors"
CHECKPOINT, LOG, CURVES = "checkpoint.safetensors", "log.jsonl", "tensorboard"
WEIGHTS, RESULT = "weights.safetensors", "result.json"


class Record(Value):
    """What stands in ``retraining.json``. ``supernet`` is the folder of the run inherited from."""

    data: DataSettings
    classes: tuple[str, ...]
    split_sha256: str
    recipe: Recipe
    supernet: str | None
    teacher: str | None
    made: dict[str, Any]


class Retraining:
    """A retraining's folder that exists. Make one with ``begin`` or ``open``."""

    def __init__(self, path: Path, architecture: Architecture, record: Record) -> None:
        self.path, self.architecture, self.record = path, architecture, record

    @classmethod
    def begin(
        cls,
        path: Path,
        architecture: Architecture,
        *,
        supernet: Run | None = None,
        images: Mapping[str, object] | None = None,
        recipe: Mapping[str, object] | None = None,
        teacher: str | None = None,
        force: bool = False,
        device: torch.device | str = "cpu",
    ) -> tuple[Retraining, Dataset]:
        """Start a folder; with ``force`` in place of the retraining that is there.

        Args:
            path: the folder.
            architecture: what to train; its head gets as many classes as the images have.
            supernet: where the weights come from, and the images if nothing else is said.
            images: fields of ``DataSettings`` that differ from the supernet's, or from digits.
            recipe: the ``name`` of one of ``RECIPES``, and fields that differ from it.
            teacher: see ``load_teacher``.
            force: replace what is there.
            device: where inherited weights get their norms' statistics; it is not recorded.

        Raises:
            UserError: the folder holds something already; or data, supernet, teacher and
                architecture do not fit together.
        """
        cls.require_free(path, force=force)  # before the images are read, which may take long
        known = supernet.data.model_dump() if supernet else {"spec": "digits"}
        data = DataSettings.model_validate({**known, **(images or {})})
        changes = dict(recipe or {})
        dataset = data.load(reading_size(architecture, _resolutions(changes)))
        architecture = architecture.with_classes(len(dataset.classes))
        name = str(changes.get("name", suitable_recipe(len(dataset.train))))
        if name == "published":
            changes.setdefault("drop_path", published_drop_path(architecture))
        record = Record(
            data=data,
            classes=dataset.classes,
            split_sha256=dataset.split_sha256,
            recipe=Recipe.model_validate({**RECIPES[name].model_dump(), **changes}),
            supernet=str(supernet.path) if supernet else None,
            teacher=teacher,
            made=circumstances(),
        )
        if teacher is not None:
            load_teacher(teacher, classes=architecture.classes, image_size=architecture.input_size)
        inherited = _inherit(supernet, architecture, dataset, device) if supernet else None
        retraining = cls(path, architecture, record)
        with lock_for_training(path):
            retraining._clear()
            architecture.save(path / ARCHITECTURE)
            if inherited is not None:
                save_weights(inherited, path / INHERITED)
            write_json(path / RECORD, record.model_dump(mode="json"))
        return retraining, dataset

    @classmethod
    def require_free(cls, path: Path, *, force: bool = False) -> None:
        """Raise UserError unless ``begin`` may write there."""
        if path.exists() and not path.is_dir():
            raise UserError(f"{path}: must be a folder, is a file")
        if not path.is_dir() or all(it.name == LOCK_FILE for it in path.iterdir()):
            return
        if not (path / RECORD).is_file():
            raise UserError(f"{path}: holds other things than a retraining; name a new folder")
        if not force:
            found = cls.open(path)
            raise UserError(
                f"{path}: holds a retraining that has finished {found.finished_epochs} of "
                f"{found.record.recipe.epochs} epochs; --resume continues it, --force starts anew"
            )

    @classmethod
    def open(cls, path: Path) -> Retraining:
        """The retraining in a folder.

        Raises:
            UserError: there is none, or its files are damaged.
        """
        if not (path / RECORD).is_file():
            problem = "holds no retraining" if path.is_dir() else "no such retraining"
            raise UserError(f"{path}: {problem}; nas retrain without --resume starts one")
        document = read_document(path / RECORD)
        try:
            record = Record.model_validate(document.data)
        except ValidationError as error:
            raise document.validation_error(error) from None
        return cls(path, Architecture.load(path / ARCHITECTURE), record)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training this network, or replacing it.

        Raises:
            UserError: another process trains it, or has replaced it.
        """
        with lock_for_training(self.path):
            found = Retraining.open(self.path)
            if (found.record, found.architecture) != (self.record, self.architecture):
                raise UserError(f"{self.path}: another process has begun another retraining there")
            yield

    @property
    def resume_command(self) -> str:
        """The command that continues it."""
        return f"nas retrain --run {self.path} --resume"

    @property
    def sha256(self) -> str:
        """Identifies architecture, images, recipe and origin; a checkpoint carries it."""
        return fingerprint(self.path / ARCHITECTURE, self.path / RECORD)

    def state(self) -> State | None:
        """Where the training stands; None before the first epoch is finished.

        Raises:
            UserError: the checkpoint is damaged, or belongs to another retraining.
        """
        if not (self.path / CHECKPOINT).exists():
            return None
        state = read_state(self.path / CHECKPOINT)
        if state.recipe_sha256 != self.sha256:
            raise UserError(
                f"{self.path / CHECKPOINT}: holds the weights of another retraining than {RECORD} "
                f"and {ARCHITECTURE} beside it describe"
            )
        return state

    @property
    def finished_epochs(self) -> int:
        """The epochs that the checkpoint has behind it."""
        state = self.state()
        return state.epoch if state else 0

    def load_images(self) -> Dataset:
        """The images it was started with.

        Raises:
            UserError: they are others now.
        """
        size = reading_size(self.architecture, self.record.recipe.resolutions)
        dataset = self.record.data.load(size)
        if (dataset.classes, dataset.split_sha256) != (
            self.record.classes,
            self.record.split_sha256,
        ):
            raise UserError(
                f"{self.path}: the images of {self.record.data.spec} are not those that it was "
                f"started with; {_REMEDY}"
            )
        return dataset

    def require_same(
        self,
        *,
        architecture: Architecture | None = None,
        supernet: Path | None = None,
        images: Mapping[str, object],
        recipe: Mapping[str, object],
        teacher: str | None = None,
    ) -> None:
        """Raise UserError unless what is given is what the retraining was started with."""
        record = self.record
        if (
            architecture is not None
            and architecture.with_classes(self.architecture.classes) != self.architecture
        ):
            raise UserError(f"{self.path}: trains another architecture; {_REMEDY}")
        known = {**record.model_dump(), **record.data.model_dump(), **record.recipe.model_dump()}
        known["recipe"] = known.pop("name")
        given = {"supernet": supernet and str(supernet), "teacher": teacher, **images, **recipe}
        given["recipe"] = given.pop("name", None)
        for name, option in given.items():
            if option is not None and known[name] != option:
                raise UserError(
                    f"{self.path}: was started with {name} {known[name]}, got {option}; {_REMEDY}"
                )

    def start(self) -> nn.Module:
        """The network before its first step: inherited, or fresh."""
        recipe = self.record.recipe
        if not (self.path / INHERITED).exists():
            return fresh_network(
                self.architecture, seed=recipe.seed, layer_scale=recipe.layer_scale
            )
        network = build(self.architecture)
        load_weights(network, self.path / INHERITED)
        return network

    def _clear(self) -> None:
        """Delete what an earlier one left, the record first: without it there is none."""
        names = (RECORD, ARCHITECTURE, INHERITED, CHECKPOINT, PREVIOUS, LOG, WEIGHTS, RESULT)
        try:
            for name in names:
                (self.path / name).unlink(missing_ok=True)
            if (self.path / CURVES).exists():
                shutil.rmtree(self.path / CURVES)
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be deleted: {error.strerror}") from None


_REMEDY = "name another --run, or start anew with --force"


def retrain(
    retraining: Retraining,
    dataset: Dataset,
    *,
    report: Report | None = None,
    tell: Callable[[str], None] | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Train from the last finished epoch on, and write weights and result; gives the result.

    On a CPU, the weights do not depend on how often it was stopped. After a setback it goes back to
    the last finished epoch; ``tell`` takes a line about that, and about a damaged checkpoint, in
    whose place the one before it is used.

    Raises:
        UserError: another process trains it; there were too many setbacks; nothing can be written;
            or Ctrl-C, told with the command that continues.
    """
    path = retraining.path
    if (path / RESULT).exists():
        return dict(json.loads((path / RESULT).read_text(encoding="utf-8")))
    try:
        with retraining.locked():
            warning = mend_checkpoint(path / CHECKPOINT)
            if warning is not None and tell is not None:
                tell(warning)
            training = train_epochs(
                partial(_begin, retraining, dataset, report, torch.device(device)),
                Files(path / CHECKPOINT, path / LOG, path / CURVES, retraining.sha256),
                tell=tell,
            )
            return _deliver(retraining, dataset, training.delivered)
    except KeyboardInterrupt:
        done, epochs = retraining.finished_epochs, retraining.record.recipe.epochs
        saved = f"{done} of {epochs} epochs are saved" if done else "no epoch was finished"
        raise UserError(f"stopped, {saved}; to continue: {retraining.resume_command}") from None


def _begin(
    retraining: Retraining, dataset: Dataset, report: Report | None, device: torch.device
) -> Standalone:
    """The training as it was last saved, or at its start."""
    architecture, record = retraining.architecture, retraining.record
    teacher = None
    if record.teacher is not None:
        teacher = load_teacher(
            record.teacher,
            classes=architecture.classes,
            image_size=architecture.input_size,
            device=device,
        )
    training = Standalone(
        architecture,
        retraining.start(),
        dataset,
        record.recipe,
        teacher=teacher,
        report=report,
        device=device,
    )
    if (state := retraining.state()) is not None:
        training.load(retraining.path / CHECKPOINT, state)
    return training


def _deliver(retraining: Retraining, dataset: Dataset, network: nn.Module) -> dict[str, Any]:
    """Write weights and result; gives the result."""
    save_weights(network, retraining.path / WEIGHTS)
    result = _result(retraining, dataset, network)
    write_json(retraining.path / RESULT, result)
    return result


def _result(retraining: Retraining, dataset: Dataset, network: nn.Module) -> dict[str, Any]:
    size = measure_size(retraining.architecture)
    images = dataset.test.at(retraining.architecture.input_size)
    inherited = None
    if (retraining.path / INHERITED).exists():
        inherited = accuracy(retraining.start().to(_device(network)), images)
    return {
        "architecture": retraining.architecture.name,
        "data": retraining.record.data.spec,
        "recipe": retraining.record.recipe.name,
        "epochs": retraining.record.recipe.epochs,
        "params": size.params,
        "macs": size.macs,
        "inherited_test_accuracy": inherited,
        "test_accuracy": accuracy(network, images),
        "test_images": len(images),
        "paths": {
            "architecture": str(retraining.path / ARCHITECTURE),
            "weights": str(retraining.path / WEIGHTS),
            "log": str(retraining.path / LOG),
            "result": str(retraining.path / RESULT),
        },
    }


def _inherit(
    supernet: Run, architecture: Architecture, dataset: Dataset, device: torch.device | str
) -> nn.Module:
    if dataset.classes != supernet.classes:
        raise UserError(
            f"{supernet.path}: knows other classes than {dataset.name}; leave --from out"
        )
    try:
        return inherited_network(supernet.load_supernet().to(device), architecture, dataset.train)
    except ValueError as error:
        raise UserError(
            f"{supernet.path}: its space '{supernet.space.name}' does not hold the architecture: "
            f"{error}"
        ) from None


def _resolutions(changes: Mapping[str, object]) -> Resolutions:
    """What the changes say; which recipe they change is known only when the images are."""
    return Recipe.model_validate({**RECIPES["light"].model_dump(), **changes}).resolutions


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
