"""A run folder: what a supernet is trained on and how, its weights and its log.

| file                     | what it holds                                          |
|--------------------------|--------------------------------------------------------|
| `run.json`               | data, split, settings; versions, date                  |
| `space.json`             | the search space                                       |
| `checkpoint.safetensors` | weights and optimizer after the last finished epoch    |
| `previous.safetensors`   | the checkpoint before, should that one be damaged      |
| `log.jsonl`              | one line per epoch: losses, rate, accuracies, paths;   |
|                          | and one per setback                                    |
| `tensorboard/`           | the same as curves                                     |
| `check.json`, .csv, .png | what `nas check-supernet` found                        |
| `slim_*/`                | what searches found                                    |
| `.lock`                  | there while a process trains                           |
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from nas.data import Dataset
from nas.documents import Value, fingerprint, read_document, write_atomically, write_json
from nas.errors import UserError
from nas.space import SearchSpace
from nas.store.checkpoint import PREVIOUS, DamagedError, State, load_model, read_state
from nas.store.lock import Lock
from nas.supernet import Supernet
from nas.training.resolutions import reading_size
from nas.training.settings import DataSettings, Settings
from nas.training.teacher import Teacher, load_teacher

RUN_FILE, SPACE_FILE, LOCK_FILE = "run.json", "space.json", ".lock"
CHECKS = ("check.json", "check.csv", "check.png")
"""What ``nas check-supernet`` writes beside its journal."""
SLIMMING, SEARCH, SEARCH_RESULT = "slim_", "search_", "result.json"
"""How the folders of searches in a run begin, and what each holds when it is done."""


class Record(Value):
    """What stands in ``run.json``."""

    data: DataSettings
    classes: tuple[str, ...]
    split_sha256: str
    settings: Settings
    made: dict[str, Any]


class Run:
    """A run folder that exists. Make one with ``create`` or ``open``."""

    def __init__(self, path: Path, space: SearchSpace, record: Record) -> None:
        self.path = path
        self.space = space
        self._record = record

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        space: SearchSpace,
        data: DataSettings,
        settings: Settings,
        dataset: Dataset,
        force: bool = False,
        tell: Callable[[str], None] | None = None,
    ) -> Run:
        """Start a run folder; with ``force`` in place of the run that is there.

        Its check and the results of searches in it go with that run, as they describe its weights;
        ``tell`` takes a line that names them.

        Raises:
            UserError: the folder holds something already, or cannot be written; or the settings
                need path choice, and there is none, or name resolutions that do not fit.
        """
        path = Path(path)
        _require_classes(space, dataset)
        reading_size(space, settings.resolutions)
        _load_teacher(settings, space)  # before anything is written
        problem = _without_paths(space, settings)
        if problem and (settings.latency or settings.path_sampling):
            raise UserError(f"{path}: a latency term and path sampling need path choice: {problem}")
        cls.require_free(path, force=force)
        record = Record(
            data=data,
            classes=dataset.classes,
            split_sha256=dataset.split_sha256,
            settings=settings,
            made=circumstances(),
        )
        run = cls(path, space, record)
        with lock_for_training(path):
            removed = run._clear()
            if removed and tell is not None:
                tell(f"{path}: what described the weights before is removed: {', '.join(removed)}")
            write_atomically(path / SPACE_FILE, space.to_json())
            write_json(path / RUN_FILE, record.model_dump(mode="json"))
        return run

    @classmethod
    def require_free(cls, path: Path, *, force: bool = False) -> None:
        """Raise UserError unless ``create`` may write there."""
        if path.exists() and not path.is_dir():
            raise UserError(f"{path}: must be a folder, is a file")
        if force or not path.is_dir() or all(it.name == LOCK_FILE for it in path.iterdir()):
            return
        if not (path / RUN_FILE).is_file():
            raise UserError(f"{path}: holds other things than a run; name a new folder")
        run = cls.open(path)
        if run.is_finished:
            raise UserError(f"{path}: holds a finished run; --force starts anew")
        raise UserError(
            f"{path}: holds a run that has finished {run.finished_epochs} of "
            f"{run.settings.epochs} epochs; --resume continues it, --force starts anew"
        )

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """The run in a folder.

        Raises:
            UserError: there is none, or its files are damaged.
        """
        path = Path(path)
        if not (path / RUN_FILE).is_file():
            problem = "holds no run" if path.is_dir() else "no such run"
            raise UserError(f"{path}: {problem}; nas train-supernet --run {path} makes one")
        document = read_document(path / RUN_FILE)
        try:
            record = Record.model_validate(document.data)
        except ValidationError as error:
            raise document.validation_error(error) from None
        return cls(path, SearchSpace.load(path / SPACE_FILE), record)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training this run, or replacing it.

        Raises:
            UserError: another process trains it, or has replaced it.
        """
        with lock_for_training(self.path):
            if Run.open(self.path)._record != self._record:
                raise UserError(f"{self.path}: another process has begun another run there")
            yield

    @property
    def data(self) -> DataSettings:
        """Which images the supernet learns from."""
        return self._record.data

    @property
    def settings(self) -> Settings:
        """The recipe."""
        return self._record.settings

    @property
    def image_size(self) -> int:
        """The side at which its images are read, in pixels; networks see them resized."""
        return reading_size(self.space, self.settings.resolutions)

    @property
    def classes(self) -> tuple[str, ...]:
        """What the images show."""
        return self._record.classes

    @property
    def split_sha256(self) -> str:
        """The hash of the search slice."""
        return self._record.split_sha256

    @property
    def space_path(self) -> Path:
        """The space, with the number of classes of the run's images."""
        return self.path / SPACE_FILE

    @property
    def checkpoint_path(self) -> Path:
        """Weights and optimizer after the last finished epoch."""
        return self.path / "checkpoint.safetensors"

    @property
    def log_path(self) -> Path:
        """One JSON line per finished epoch."""
        return self.path / "log.jsonl"

    @property
    def tensorboard_path(self) -> Path:
        """The folder of the curves."""
        return self.path / "tensorboard"

    @cached_property
    def recipe_sha256(self) -> str:
        """Identifies space, images and settings; a checkpoint carries it."""
        return fingerprint(self.path / SPACE_FILE, self.path / RUN_FILE)

    def state(self) -> State | None:
        """Where the training stands; None before the first epoch is finished.

        Raises:
            UserError: the checkpoint is damaged, or belongs to another run.
        """
        if not self.checkpoint_path.exists():
            return None
        with self._remedy():
            state = read_state(self.checkpoint_path)
        if state.recipe_sha256 != self.recipe_sha256:
            raise UserError(
                f"{self.checkpoint_path}: holds the weights of another run than {RUN_FILE} and "
                f"{SPACE_FILE} beside it describe (another space, other data or other settings)"
            )
        return state

    @property
    def finished_epochs(self) -> int:
        """The epochs that the checkpoint has behind it."""
        state = self.state()
        return state.epoch if state else 0

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done."""
        return self.finished_epochs >= self.settings.epochs

    def load_supernet(self) -> Supernet:
        """The supernet with the weights of the last finished epoch, in evaluation mode.

        Raises:
            UserError: there are none yet, or they belong to another space.
        """
        if self.finished_epochs == 0:
            raise UserError(f"{self.path}: no epoch is finished yet; {self.resume_command} goes on")
        supernet = Supernet(self.space, self.settings.resolutions)
        with self._remedy():
            load_model(self.checkpoint_path, supernet)
        return supernet.eval()

    def load_teacher(self, device: torch.device | str = "cpu") -> Teacher | None:
        """The external teacher, if the settings name one."""
        return _load_teacher(self.settings, self.space, device)

    @property
    def resume_command(self) -> str:
        """The command that continues this run."""
        return f"nas train-supernet --run {self.path} --resume"

    def require_path_choice(self) -> None:
        """Raise UserError unless the training leaves path probabilities behind."""
        problem = _without_paths(self.space, self.settings)
        if problem:
            raise UserError(f"{self.path}: holds no path probabilities: {problem}")

    def require_same(
        self,
        *,
        space: SearchSpace | None = None,
        data: DataSettings | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Raise UserError unless what is given is what the run was started with."""
        if space is not None and space != self.space:
            names = f"'{self.space.name}', not '{space.name}'"
            if space.name == self.space.name:
                names = f"another version of '{space.name}'"
            raise UserError(f"{self.path}: holds weights of the space {names}; {_REMEDY}")
        for mine, theirs in ((self.data, data), (self.settings, settings)):
            for name in type(mine).model_fields if theirs is not None else ():
                was, given = getattr(mine, name), getattr(theirs, name)
                if was != given:
                    raise UserError(
                        f"{self.path}: was started with {name} {was}, got {given}; {_REMEDY}"
                    )

    def require_images(self, dataset: Dataset) -> None:
        """Raise UserError unless the data set has the run's classes and search slice."""
        _require_classes(self.space, dataset)
        if dataset.classes != self._record.classes or dataset.split_sha256 != self.split_sha256:
            raise UserError(
                f"{self.path}: the images of {self.data.spec} are not those that the run was "
                f"started with; {_REMEDY}"
            )

    @contextmanager
    def _remedy(self) -> Iterator[None]:
        try:
            yield
        except DamagedError as error:
            if not (self.path / PREVIOUS).exists():
                raise
            raise UserError(f"{error}; {self.resume_command} goes back to {PREVIOUS}") from None

    def _clear(self) -> list[str]:
        """Delete what an earlier run left, ``run.json`` first: without it there is no run.

        Gives the names of the results among it. The journal of checks stays: its trainings are of
        networks alone, and say what they were trained on.
        """
        if not self.path.is_dir():
            return []
        checkpoints = (self.checkpoint_path.name, PREVIOUS)
        checks = [name for name in CHECKS if (self.path / name).exists()]
        searches = sorted(
            it.parent.name
            for beginning in (SLIMMING, SEARCH)
            for it in self.path.glob(f"{beginning}*/{SEARCH_RESULT}")
        )
        try:
            for name in (RUN_FILE, SPACE_FILE, *checkpoints, self.log_path.name, *checks):
                (self.path / name).unlink(missing_ok=True)
            for folder in (self.tensorboard_path, *(self.path / name for name in searches)):
                if folder.exists():
                    shutil.rmtree(folder)
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be deleted: {error.strerror}") from None
        return [*checks, *searches]


def _load_teacher(
    settings: Settings, space: SearchSpace, device: torch.device | str = "cpu"
) -> Teacher | None:
    if settings.teacher is None:
        return None
    return load_teacher(
        settings.teacher, classes=space.classes, image_size=space.largest_size, device=device
    )


_REMEDY = "name another --run, or start anew with --force"


def lock_for_training(path: Path) -> Lock:
    """What a process holds that trains in a folder, or replaces what is there."""
    held = f"{path}: another process is training there; wait for it or name another --run"
    return Lock(path / LOCK_FILE, held=held)


def _require_classes(space: SearchSpace, dataset: Dataset) -> None:
    if len(dataset.classes) != space.classes:
        raise UserError(
            f"{dataset.name}: has {len(dataset.classes)} classes, but the head of the space "
            f"'{space.name}' has {space.classes}"
        )


def _without_paths(space: SearchSpace, settings: Settings) -> str | None:
    """Why there is no path choice; None where there is."""
    if not space.paths:
        return f"no slot of the space '{space.name}' may vary in kind or be left out"
    return None if settings.path_choice else "the run was started without it"


def circumstances() -> dict[str, Any]:
    """Date, versions and machine."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
