"""The folder of ``nas run``: what each stage leaves, and where.

plan.json               what was asked for, and the plan; the mark of such a folder
stages.jsonl            a line for each finished stage, with the seconds that it took
SPACE.json, SPACE.yaml  the search space
SPACE_DEVICE.csv, .json, .png, .visits.jsonl    the latency table
run/                    the supernet's training, see ``nas.training.run``
slim/                   the search and its networks
retrained/              the training of the network that was found, see ``nas.training.retraining``
delivered/METHOD/       the network to use: architecture.json, weights.safetensors, model.onnx
report.html             one page of all
.lock                   exists while a process works here
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from nas.errors import UserError
from nas.firstrun.request import Request
from nas.firstrun.schedule import Schedule
from nas.latency.device import in_file_names
from nas.slim.result import NETWORK_FILES
from nas.store.lock import LOCK_FILE, PARTIAL

PLAN, JOURNAL = "plan.json", "stages.jsonl"
TABLE = re.compile(r"demo_64px_cpu\.(csv|json|png|visits\.jsonl)")
METHOD = "slimmed"
"""Whose network is trained on and delivered."""


@dataclass(frozen=True)
class Layout:
    """The paths in the folder ``root`` of a run over a space on a device."""

    root: Path
    space: Path
    table: Path

    @classmethod
    def of(cls, root: Path, request: Request, schedule: Schedule) -> Layout:
        """Space and table bear the space's name; a space around a network is YAML with comments."""
        name, suffix = schedule.place.name, "yaml" if request.architecture else "json"
        table = root / f"{name}_{in_file_names(request.device)}.csv"
        return cls(root, root / f"{name}.{suffix}", table)

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def slim(self) -> Path:
        return self.root / "slim"

    @property
    def retrained(self) -> Path:
        return self.root / "retrained"

    @property
    def delivered(self) -> dict[str, Path]:
        """The files of the delivered network by their contents."""
        folder = self.root / "delivered" / METHOD
        return {name: folder / file for name, file in NETWORK_FILES.items()}

    @property
    def page(self) -> Path:
        return self.root / "report.html"

    def remove_all(self) -> None:
        """Delete what a run left; the plan last, as it marks the folder."""
        table = self.table
        files = [self.space, self.page, self.root / JOURNAL, table]
        files += [table.with_suffix(it) for it in (".json", ".png", ".visits.jsonl", ".lock")]
        for folder in (self.run, self.slim, self.retrained, self.root / "delivered"):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (*files, self.root / PLAN):
            file.unlink(missing_ok=True)


def require_ours(root: Path, *, force: bool = False) -> bool:
    """Whether a run has begun in a folder; UserError if other things are there.

    With ``force`` what a demo of version 0.1 left, which kept no plan, is nothing else.
    """
    if root.exists() and not root.is_dir():
        raise UserError(f"{root}: must be a folder, is a file; name another --out")
    if (root / PLAN).is_file():
        return True
    found = {it.name for it in root.iterdir()} - {LOCK_FILE} if root.is_dir() else set()
    found = {name for name in found if not name.endswith(PARTIAL)}  # a killed process's
    if force and any(map(TABLE.fullmatch, found)):
        found = {it for it in found if it not in ("run", "slim") and not TABLE.fullmatch(it)}
    if found:
        raise UserError(f"{root}: holds other things than a run of nas run; name another --out")
    return False
