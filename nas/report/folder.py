"""What ``nas report`` finds in a folder: the searches below it, and the log of a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from nas.documents import read_document
from nas.errors import UserError
from nas.slim.result import SearchReport

REPORT_FILE, LOG_FILE, PAGE_FILE = "report.json", "log.jsonl", "report.html"


class TrainingLog(NamedTuple):
    """The lines of a training's log: one for each epoch, and one for each setback."""

    epochs: tuple[dict[str, Any], ...]
    setbacks: tuple[dict[str, Any], ...]


class FolderContents(NamedTuple):
    """What a page of a folder shows: searches by the name of their folder, and the training."""

    searches: dict[str, SearchReport]
    training: TrainingLog | None


def read_folder(folder: Path) -> FolderContents:
    """The searches in a folder and in those directly below it, and the training's log.

    Raises:
        UserError: there is no such folder, nothing to report in it, or a file of it is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    found = [*folder.glob(REPORT_FILE), *sorted(folder.glob(f"*/{REPORT_FILE}"))]
    searches = {path.parent.resolve().name: read_report(path) for path in found}
    log = folder / LOG_FILE
    training = read_log(log) if log.is_file() else None
    if not searches and not (training and training.epochs):
        raise UserError(
            f"{folder}: nothing to report: neither a search ({REPORT_FILE}, which nas slim "
            f"writes) nor a training ({LOG_FILE} with a finished epoch)"
        )
    return FolderContents(searches, training)


def read_report(path: Path) -> SearchReport:
    """What a search found.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    try:
        return SearchReport.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise read_document(path).validation_error(error) from None


def read_log(path: Path) -> TrainingLog:
    """The epochs and the setbacks of a training; numbers that are not finite are None.

    Raises:
        UserError: a line of the log is damaged.
    """
    epochs: list[dict[str, Any]] = []
    setbacks: list[dict[str, Any]] = []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]  # the last line may be under way
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            entry = json.loads(line, parse_constant=lambda _: None)
            int(entry["epoch"])
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}:{number}: is damaged; delete that line") from None
        (setbacks if "setback" in entry else epochs).append(entry)
    return TrainingLog(tuple(epochs), tuple(setbacks))
