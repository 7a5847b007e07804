"""Begins a run or finds the one that was stopped: its folder keeps the request and the plan."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from nas.deploy.pretrained import read_pretrained
from nas.documents import Value, read_document, write_json
from nas.firstrun.facts import DataFacts, SpaceFacts
from nas.firstrun.layout import PLAN, Layout, require_ours
from nas.firstrun.measuring import candidates, measure_place, read_facts
from nas.firstrun.request import Request
from nas.firstrun.schedule import (
    DEFAULT_MINUTES,
    ENOUGH,
    Aim,
    Schedule,
    fitting_share,
    make_schedule,
)
from nas.firstrun.stages import Stages
from nas.latency.target import detect_target
from nas.progress import SILENT, Progress

Planner = Callable[[Request, Progress], Schedule]


class Record(Value):
    """The contents of ``plan.json``."""

    request: Request
    schedule: Schedule

    def stages(self, out: Path) -> Stages:
        """The stages in the folder ``out``."""
        return Stages(self.request, self.schedule, Layout.of(out, self.request, self.schedule))


def find(request: Request, out: Path) -> Stages | None:
    """The stages of the run that has begun in a folder; None if there is none.

    Raises UserError if the folder holds the run of another request, or other things.
    """
    if not require_ours(out):
        return None
    record = read_document(out / PLAN).validated(Record)
    record.request.require_same(request, out)
    return record.stages(out)


def begin(
    request: Request,
    out: Path,
    planner: Planner | None = None,
    *,
    force: bool = False,
    progress: Progress = SILENT,
) -> Stages:
    """Plan a run by ``planner`` or ``plan``, and start its folder; ``force`` replaces a run there.

    Raises UserError if nothing fits the request, or the folder holds other things.
    """
    has_begun = require_ours(out, force=force)
    schedule = (planner or plan)(request, progress)
    record = Record(request=request, schedule=schedule)
    if has_begun and force:
        read_document(out / PLAN).validated(Record).stages(out).at.remove_all()
    elif force:
        record.stages(out).at.remove_all()
    write_json(out / PLAN, record.model_dump(mode="json"))
    return record.stages(out)


def plan(request: Request, progress: Progress) -> Schedule:
    """The plan that facts measured now lead to; it takes some seconds for each space.

    What it takes is a part of the minutes of the request.
    """
    started = time.monotonic()
    target, device = detect_target(request.place), training_device()
    data, aim = read_facts(request), Aim(request.target_ms, request.weights is not None)
    measured = list[SpaceFacts]()
    for place in candidates(request, data):
        progress.update(f"{place.space.name}, {place.space.largest_size} px", len(measured))
        if request.weights and not measured:
            read_pretrained(request.weights, place.space.largest())  # do they fit?
        facts = measure_place(place, target, weights=request.weights, training_device=device)
        measured.append(facts)
        left = 60 * (request.minutes or DEFAULT_MINUTES) - (time.monotonic() - started)
        share = fitting_share(data, facts, aim, left)
        # dearer places are out of the question too
        if (share or 0.0) < ENOUGH or facts.smallest_ms > (aim.target_ms or math.inf):
            break
    return make_schedule(
        data,
        measured,
        aim,
        minutes=request.minutes,
        spent=time.monotonic() - started,
        training_device=device,
    )


def measure_alone(request: Request, search_share: float) -> tuple[DataFacts, SpaceFacts, str]:
    """The facts of the one space of a request, and the device that trains."""
    data, device = read_facts(request, search_share), training_device()
    (place,) = candidates(request, data)
    target = detect_target(request.place)
    return data, measure_place(place, target, weights=None, training_device=device), device


def training_device() -> str:
    """Where this machine trains: on its GPU if torch knows one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
