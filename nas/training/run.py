"""A run folder: data and settings of a supernet's training, its weights and its log.

run.json                data, hashes of the held-out pictures, settings; versions, date
space.json              the search space
checkpoint.safetensors  weights and optimizer after the last finished epoch
previous.safetensors    the checkpoint before, should that one be damaged
log.jsonl               a line per epoch: losses, rate, accuracies, paths; a line per setback
tensorboard/            the same as curves
check.json, .csv, .png  the result of `nas check-supernet`; check.jsonl is its journal
reference/              with --weights: the largest network's own training, see retraining.py
slim_*/, search_*/      the results of searches
.lock                   exists while a process trains
"""

from __future__ import annotations

import copy
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from nas.data.identity import HeldOut
from nas.documents import GrownValue, read_document
from nas.errors import UserError
from nas.preprocessing import Preprocessing
from nas.progress import SILENT, Progress
from nas.space import SearchSpace
from nas.store.folder import REMEDY, RunFolder
from nas.training.batches import reading_size
from nas.training.settings import DataSettings, SupernetSettings

if TYPE_CHECKING:  # torch takes seconds to load, and a run can be opened without it
    import torch

    from nas.data import Dataset
    from nas.supernet import Supernet
    from nas.training.distillation import Teacher

REFERENCE = "reference"
"""The folder of the largest network that began with pretrained weights, trained on the images."""
CHECKS = ("check.json", "check.csv", "check.png")
SLIMMING, SEARCH, SEARCH_RESULT = "slim_", "search_", "result.json"
"""How the names of search folders in a run begin, and the file in each finished one."""


class ImagesRecord(GrownValue):
    """The part of a training's record that describes its images.

    Records of version 0.1 lack ``held_out``, and know the positions of the search slice alone.
    """

    later: ClassVar[frozenset[str]] = frozenset({"held_out"})

    data: DataSettings
    classes: tuple[str, ...]
    split_sha256: str
    held_out: HeldOut | None = None

    @property
    def images_sha256(self) -> str:
        """Identifies the search slice, by its pictures where they are known."""
        return self.held_out.search_sha256 if self.held_out else self.split_sha256

    def differences(self, dataset: Dataset) -> list[str]:
        """What of a data set differs: nothing if the same pictures are held out."""
        found = [] if dataset.classes == self.classes else ["classes"]
        if self.held_out is None:
            return found + ["search slice"] * (dataset.split_sha256 != self.split_sha256)
        now, was = dataset.held_out, self.held_out
        found += ["search slice"] * (now.search_sha256 != was.search_sha256)
        return found + ["test set"] * (now.test_sha256 != was.test_sha256)


Subject = TypeVar("Subject")
Record = TypeVar("Record", bound=ImagesRecord)


class ImagesFolder(RunFolder[Subject, Record]):
    """The folder of a training on images, which it knows whatever their place: ``data``."""

    def __init__(self, path: Path, subject: Subject, record: Record, *, epochs: int) -> None:
        super().__init__(path, subject, record, epochs=epochs)
        self.data = record.data

    def relocated(self, spec: str | None) -> Self:
        """The same with its images at another place, if one is given.

        Raises UserError if it is of a version that could not tell whether they are the same.
        """
        if spec is None or spec == self.data.spec:
            return self
        if self.record.held_out is None:
            raise UserError(
                f"{self.path}: knows its pictures by their positions only, as it was started by an "
                f"earlier version; put them back at {self.data.spec}"
            )
        moved = copy.copy(self)
        moved.data = self.data.model_copy(update={"spec": spec})
        return moved

    def require_images(self, dataset: Dataset) -> None:
        """Raise UserError unless the data set has these classes and these held-out pictures."""
        if differences := self.record.differences(dataset):
            reason = f"the {' and the '.join(differences)} would be others"
            raise UserError(
                f"{self.path}: the images of {dataset.name} are not those that the {self.noun} was "
                f"started with: {reason}, and may have been trained on; put back what was renamed, "
                f"added or removed, {REMEDY}"
            )

    def _load_images(self, size: int, preprocessing: Preprocessing, progress: Progress) -> Dataset:
        kind, _, place = self.data.spec.partition(":")
        if kind in ("folder", "parquet") and not Path(place).expanduser().exists():
            raise UserError(
                f"{self.path}: its pictures are no longer at {self.data.spec}; --data names the "
                "place where they are now"
            )
        if self.record.held_out is None:
            progress.say(
                f"{self.path}: was started by an earlier version, which did not record what its "
                f"pictures are: only their number and order in {self.data.spec} are checked"
            )
        dataset = self.data.load(size, preprocessing)
        self.require_images(dataset)
        return dataset


class RunRecord(ImagesRecord):
    """The contents of ``run.json``."""

    settings: SupernetSettings
    made: dict[str, Any]


class Run(ImagesFolder[SearchSpace, RunRecord]):
    """A run folder that exists; the head of its ``space`` has the classes of the images."""

    noun, record_file, subject_file = "run", "run.json", "space.json"
    result_folders = (REFERENCE,)
    command = "nas train-supernet"
    beginning = "nas train-supernet --run {path} makes one"

    def __init__(self, path: Path, space: SearchSpace, record: RunRecord) -> None:
        super().__init__(path, space, record, epochs=record.settings.epochs)
        self.space, self.space_path = space, path / self.subject_file
        self.settings, self.classes = record.settings, record.classes

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        space: SearchSpace,
        data: DataSettings,
        settings: SupernetSettings,
        dataset: Dataset,
        force: bool = False,
        progress: Progress = SILENT,
    ) -> Run:
        """Start a run folder; with ``force`` in place of the run, its check and its searches.

        ``progress`` receives a line that names what is deleted. Raises UserError if the folder is
        not free or cannot be written, or space, data and settings do not fit together.
        """
        path = Path(path)
        _require_classes(space, dataset)
        run = cls(path, space, RunRecord(**describe(data, dataset), settings=settings))
        reading_size(space, settings.resolutions)
        run.load_teacher()  # before anything is written
        if settings.latency or settings.path_sampling:
            run.require_path_choice("a latency term and path sampling need path choice")
        cls.require_free(path, force=force)
        with run.begun(force=force, progress=progress):
            space.save(run.space_path)
        return run

    @classmethod
    def read(cls, path: Path) -> Self:
        record = read_document(path / cls.record_file).validated(RunRecord)
        return cls(path, SearchSpace.load(path / cls.subject_file), record)

    @property
    def image_size(self) -> int:
        """The side at which its images are read, in pixels; networks see them resized."""
        return reading_size(self.space, self.settings.resolutions)

    def descriptions(self) -> list[str]:
        """The check and the finished searches; its journal is of networks alone, and stays."""
        checks = [name for name in CHECKS if (self.path / name).exists()]
        searches = sorted(
            it.parent.name
            for beginning in (SLIMMING, SEARCH)
            for it in self.path.glob(f"{beginning}*/{SEARCH_RESULT}")
        )
        return [*checks, *searches]

    def load_images(self, progress: Progress = SILENT) -> Dataset:
        """The images it was started with; raises UserError if they are others now."""
        return self._load_images(self.image_size, self.space.preprocessing, progress)

    def load_supernet(self) -> Supernet:
        """The supernet with the weights of the last finished epoch, in evaluation mode."""
        from nas.store.checkpoint import load_model
        from nas.supernet import Supernet

        if self.finished_epochs == 0:
            raise UserError(f"{self.path}: no epoch is finished yet; {self.resume_command} goes on")
        anchored = bool(self.settings.weights)
        supernet = Supernet(self.space, self.settings.resolutions, anchored=anchored)
        with self.remedy():
            load_model(self.checkpoint_path, supernet)
        return supernet.eval()

    def load_teacher(self, device: torch.device | str = "cpu") -> Teacher | None:
        spec = self.settings.teacher
        if spec is None and self.settings.weights and self.has_reference:
            spec = ":".join(str(path) for path in self.reference_files)
        if spec is None:
            return None
        from nas.training.distillation import load_teacher

        size, seen = self.space.largest_size, self.space.preprocessing
        return load_teacher(
            spec, classes=self.classes, image_size=size, device=device, preprocessing=seen
        )

    @property
    def reference_files(self) -> tuple[Path, Path]:
        """The architecture and the weights of the reference network."""
        folder = self.path / REFERENCE
        return folder / "architecture.json", folder / "weights.safetensors"

    @property
    def has_reference(self) -> bool:
        """Whether the reference network is trained."""
        return all(path.exists() for path in self.reference_files)

    def require_path_choice(self, need: str = "holds no path probabilities") -> None:
        """Raise UserError unless the training leaves path probabilities behind."""
        if not self.space.paths:
            reason = f"no slot of the space '{self.space.name}' may vary in kind or be left out"
        elif not self.settings.path_choice:
            reason = "the run was started without it"
        else:
            return
        raise UserError(f"{self.path}: {need}: {reason}")

    def require_same(
        self, *, space: SearchSpace, data: DataSettings, settings: SupernetSettings
    ) -> None:
        """Raise UserError unless space and set fields are those that the run was started with."""
        if space != self.space:
            names = f"'{self.space.name}', not '{space.name}'"
            if space.name == self.space.name:
                names = f"another version of '{space.name}'"
            raise UserError(f"{self.path}: holds weights of the space {names}; {REMEDY}")
        for mine, theirs in ((self.data, data), (self.settings, settings)):
            given = {name: it for name, it in theirs if name in theirs.model_fields_set}
            given.pop("spec", None)  # the pictures themselves are compared
            self.require_given(dict(mine), given)

    def require_images(self, dataset: Dataset) -> None:
        _require_classes(self.space, dataset)
        super().require_images(dataset)


def _require_classes(space: SearchSpace, dataset: Dataset) -> None:
    if len(dataset.classes) != space.classes:
        need = f"but the head of the space '{space.name}' has {space.classes}"
        raise UserError(f"{dataset.name}: has {len(dataset.classes)} classes, {need}")


def describe(data: DataSettings, dataset: Dataset) -> dict[str, Any]:
    """The fields of all records: the images, and date, versions and machine."""
    import torch

    made = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    return {
        "data": data,
        "classes": dataset.classes,
        "split_sha256": dataset.split_sha256,
        "held_out": dataset.held_out,
        "made": made,
    }
