"""The folders in which trainings leave their results: begun, resumed, replaced."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Generic, Self, TypeVar

from nas.documents import Value, read_document, write_json
from nas.errors import StoppedError, UserError
from nas.printing import command
from nas.progress import SILENT, Progress
from nas.store.checkpoint import PREVIOUS, DamagedError, State, mend_checkpoint, read_state
from nas.store.lock import LOCK_FILE, PARTIAL, Lock, hold_folder, require_unheld

CHECKPOINT, LOG, CURVES = "checkpoint.safetensors", "log.jsonl", "tensorboard"
REMEDY = "name another --run, or start anew with --force"


def require_no_links(folder: Path, names: Iterable[str]) -> None:
    """Raise UserError if one of these names in a folder is a link, through which we would write."""
    for name in names:
        if (folder / name).is_symlink():
            raise UserError(
                f"{folder / name}: is a link, through which nothing is written; put in its place "
                "what it points at"
            )


def delete_all(folder: Path, names: Iterable[str]) -> None:
    """Delete files, folders and links (but nothing that they point at) in this order.

    Raises UserError before anything is deleted if one of them cannot be.
    """
    paths = [path for name in names if os.path.lexists(path := folder / name)]
    for path in paths:
        _require_deletable(path)
    for path in paths:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be deleted: {error.strerror}") from None


Subject = TypeVar("Subject")
Record = TypeVar("Record", bound=Value)


class RunFolder(ABC, Generic[Subject, Record]):
    """The folder of a training that has begun.

    It trains the ``subject``, a space or an architecture, on the images and with the settings of
    the ``record``; a JSON file holds each. Subclasses name their files, and for messages their noun
    and their command; ``beginning`` tells how to start one at ``{path}``.
    """

    noun: ClassVar[str]
    subject_file: ClassVar[str]
    record_file: ClassVar[str]
    results: ClassVar[tuple[str, ...]] = ()
    result_folders: ClassVar[tuple[str, ...]] = ()
    """They go with a training, but a folder that holds nothing else of one may be a user's own."""
    command: ClassVar[str]
    beginning: ClassVar[str]

    def __init__(self, path: Path, subject: Subject, record: Record, *, epochs: int) -> None:
        self.path, self.subject, self.record, self.epochs = path, subject, record, epochs
        self.checkpoint_path = path / CHECKPOINT
        self.log_path = path / LOG
        self.tensorboard_path = path / CURVES

    @classmethod
    @abstractmethod
    def read(cls, path: Path) -> Self:
        """Read subject and record; raises UserError if they are damaged."""

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """As ``read``; raises UserError also if no training has begun there."""
        path = Path(path)
        if not (path / cls.record_file).is_file():
            problem = "holds no" if path.is_dir() else "no such"
            beginning = cls.beginning.format(path=shlex.quote(str(path)))
            raise UserError(f"{path}: {problem} {cls.noun}; {beginning}")
        return cls.read(path)

    @classmethod
    def require_free(cls, path: Path, *, force: bool = False) -> None:
        """Raise UserError unless a training may begin there, with ``force`` in place of another."""
        require_unheld(path, activity="training", option="--run")
        cls._require_free(path, force=force)

    @classmethod
    def _require_free(cls, path: Path, *, force: bool) -> None:
        if path.exists() and not path.is_dir():
            raise UserError(f"{path}: must be a folder, is a file")
        found = {it.name for it in path.iterdir()} - {LOCK_FILE} if path.is_dir() else set()
        found = {name for name in found if not name.endswith(PARTIAL)}  # a killed process's
        if not found:
            return
        if found.issubset(cls._files()) and cls.record_file not in found and not force:
            raise UserError(
                f"{path}: holds {', '.join(sorted(found))}, which a {cls.noun} left that was "
                "stopped as it began, or which are yours; --force replaces them"
            )
        if not found & {cls.record_file, *(cls._files() if force else ())}:
            raise UserError(f"{path}: holds other things than a {cls.noun}; name a new folder")
        if force:
            return
        folder = cls.open(path)
        if folder.is_finished:
            raise UserError(f"{path}: holds a finished {cls.noun}; --force starts anew")
        raise UserError(
            f"{path}: holds a {cls.noun} that has finished {folder.finished_epochs} of "
            f"{folder.epochs} epochs; --resume continues it, --force starts anew"
        )

    @contextmanager
    def begun(self, *, force: bool, progress: Progress = SILENT) -> Iterator[None]:
        """Delete an earlier training, let the block write the subject, and then write the record.

        Raises UserError if the folder is not free, or another process trains there.
        """
        with hold_folder(self.path, activity="training", option="--run"):
            self._require_free(self.path, force=force)
            described = self.descriptions()
            delete_all(self.path, (*described, *self.result_folders, *reversed(self._files())))
            if described:
                progress.say(
                    f"{self.path}: what described the weights before is removed: "
                    f"{', '.join(described)}"
                )
            yield
            write_json(self.path / self.record_file, self.record.model_dump(mode="json"))

    @contextmanager
    def locked(self) -> Iterator[Lock]:
        """Keep other processes from training here, or replacing the training.

        Raises UserError if another process does, or files of the training are links.
        """
        self.open(self.path)  # a folder that is gone is not made again for its lock
        with hold_folder(self.path, activity="training", option="--run") as lock:
            found = self.open(self.path)
            if (found.subject, found.record) != (self.subject, self.record):
                raise UserError(f"{self.path}: another process has begun another {self.noun} there")
            require_no_links(self.path, (*self._files(), *self.result_folders))
            yield lock

    def descriptions(self) -> list[str]:
        """The names of files and folders here that describe the weights of the training."""
        return []

    @property
    def resume_command(self) -> str:
        """The command that continues the training."""
        return command(*self.command.split(), "--run", self.path, "--resume")

    @cached_property
    def recipe_sha256(self) -> str:
        """Identifies subject, images and settings; a checkpoint carries it.

        It is the hash of the files, not of the values read from them: a later version, whose values
        have one more field, finds the same. Images count by what they are, not by their place, if
        the record knows that.
        """
        files = (self.path / name for name in (self.subject_file, self.record_file))
        contents = [{**read_document(file).data, "made": None} for file in files]
        for content in contents:
            if "held_out" in content:
                data = content["data"].items()
                content["data"] = {name: it for name, it in data if name != "spec"}
        return _sha256(json.dumps(contents, sort_keys=True))

    @property
    def weights_sha256(self) -> str:
        """Identifies the weights: the training and its last finished epoch."""
        state = self.state()
        return _sha256(self.recipe_sha256 + (state.model_dump_json() if state else ""))

    def state(self) -> State | None:
        """Where the training stands; None before the first epoch is finished.

        Raises UserError if the checkpoint is damaged, or belongs to another training.
        """
        if not self.checkpoint_path.exists():
            return None
        with self.remedy():
            state = read_state(self.checkpoint_path)
        if state.recipe_sha256 != self.recipe_sha256:
            subject = self.subject_file.removesuffix(".json")
            raise UserError(
                f"{self.checkpoint_path}: holds the weights of another {self.noun} than "
                f"{self.record_file} and {self.subject_file} beside it describe (another "
                f"{subject}, other data or other settings)"
            )
        return state

    @property
    def finished_epochs(self) -> int:
        """The number of finished epochs."""
        state = self.state()
        return state.epoch if state else 0

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.finished_epochs >= self.epochs

    def require_given(self, known: Mapping[str, object], given: Mapping[str, object]) -> None:
        """Raise UserError unless each option that is given equals the one that is known."""
        for name, option in given.items():
            if known[name] != option:
                raise UserError(
                    f"{self.path}: was started with {name} {known[name]}, got {option}; {REMEDY}"
                )

    def mend(self, progress: Progress) -> None:
        """Put the previous checkpoint in place of a damaged one, and report that."""
        warning = mend_checkpoint(self.checkpoint_path)
        if warning is not None:
            progress.say(warning)

    def interrupted(self) -> StoppedError:
        """The error after Ctrl-C: which epoch is saved, and how to continue."""
        done = self.finished_epochs
        saved = f"epoch {done} is saved" if done else "no epoch was finished"
        return StoppedError(
            f"stopped in epoch {min(done + 1, self.epochs)} of {self.epochs}, {saved}; "
            f"to continue: {self.resume_command}"
        )

    @contextmanager
    def remedy(self) -> Iterator[None]:
        """Add to the error about a damaged checkpoint how to use the previous one."""
        try:
            yield
        except DamagedError as error:
            if not (self.path / PREVIOUS).exists():
                raise
            raise UserError(f"{error}; {self.resume_command} goes back to {PREVIOUS}") from None

    @classmethod
    def _files(cls) -> tuple[str, ...]:
        """The names of all that a training leaves; the record first, which is deleted last."""
        return (cls.record_file, cls.subject_file, CHECKPOINT, PREVIOUS, LOG, CURVES, *cls.results)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _require_deletable(path: Path) -> None:
    """Raise UserError unless the folders that hold it, and what is in it, may be changed."""
    inner = [path] if path.is_dir() and not path.is_symlink() else []
    for place in (path.parent, *inner, *(it for each in inner for it in each.rglob("*/"))):
        if not place.is_symlink() and not os.access(place, os.W_OK | os.X_OK):
            raise UserError(f"{path}: cannot be deleted: {place} must not be written")
