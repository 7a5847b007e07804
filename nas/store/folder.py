"""Locks, and the folders in which trainings leave their results.

Locks are filelock's: on Linux and macOS an flock, which ends with the process; children of a fork
do not hold it. On a network file system without flock, filelock warns and uses a marker file: a
killed process leaves it behind, and processes of two machines may both hold it. A process that asks
in the moment in which another one releases the lock may be refused.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Generic, Self, TypeVar

from filelock import FileLock, Timeout

from nas.documents import Value, read_document, write_json
from nas.errors import StoppedError, UserError, writing
from nas.printing import command
from nas.progress import SILENT, Progress
from nas.store.checkpoint import PREVIOUS, DamagedError, State, mend_checkpoint, read_state

LOCK_FILE = ".lock"
CHECKPOINT, LOG, CURVES = "checkpoint.safetensors", "log.jsonl", "tensorboard"
REMEDY = "name another --run, or start anew with --force"


class HeldError(UserError):
    """Another process holds a lock."""


@contextmanager
def hold_lock(path: Path, *, held: str) -> Iterator[None]:
    """Hold the lock of a file, which exists meanwhile; a killed process leaves it, unlocked.

    Raises HeldError with the message ``held`` if another process holds the lock, UserError if the
    folder cannot be written.
    """
    lock = FileLock(path, timeout=0)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise HeldError(held) from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows, where filelock deletes it itself; or the folder is gone
            path.unlink()
        lock.release()


def hold_folder(path: Path, *, activity: str, option: str) -> AbstractContextManager[None]:
    """Keep other processes from an activity in a folder; ``option`` names another folder."""
    held = f"{path}: another process is {activity} there; wait for it or name another {option}"
    return hold_lock(path / LOCK_FILE, held=held)


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
        if path.exists() and not path.is_dir():
            raise UserError(f"{path}: must be a folder, is a file")
        found = {it.name for it in path.iterdir()} - {LOCK_FILE} if path.is_dir() else set()
        if not found:
            return
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
            self.require_free(self.path, force=force)
            described = self.descriptions()
            for name in (*self._files(), *self.result_folders, *described):
                _delete(self.path / name)
            if described:
                progress.say(
                    f"{self.path}: what described the weights before is removed: "
                    f"{', '.join(described)}"
                )
            yield
            write_json(self.path / self.record_file, self.record.model_dump(mode="json"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training here, or replacing the training."""
        with hold_folder(self.path, activity="training", option="--run"):
            found = self.open(self.path)
            if (found.subject, found.record) != (self.subject, self.record):
                raise UserError(f"{self.path}: another process has begun another {self.noun} there")
            yield

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
        have one more field, finds the same.
        """
        files = (self.path / name for name in (self.subject_file, self.record_file))
        contents = [read_document(file).data for file in files]
        return _sha256(json.dumps([{**it, "made": None} for it in contents], sort_keys=True))

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
        """The names of all that a training leaves; the record first, as it marks the training."""
        return (cls.record_file, cls.subject_file, CHECKPOINT, PREVIOUS, LOG, CURVES, *cls.results)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _delete(path: Path) -> None:
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be deleted: {error.strerror}") from None
