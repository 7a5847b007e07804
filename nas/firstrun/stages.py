"""The stages of ``nas run``: each calls the pipeline, and goes on where it was stopped.

A stage that is finished is not run again; one that was stopped goes on from its own journal or
checkpoint. Whatever was killed, the result is the one that a run at a stretch would have.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import TypeAdapter

from nas import pipeline
from nas.architecture import Architecture
from nas.deploy.delivered import FILES as DELIVERED
from nas.documents import Value, write_atomically
from nas.errors import StoppedError, UserError
from nas.firstrun.commands import run_command, single_commands
from nas.firstrun.estimate import STAGES
from nas.firstrun.layout import JOURNAL, Layout
from nas.firstrun.request import Request
from nas.firstrun.schedule import Schedule
from nas.latency.build import BuildSettings
from nas.latency.calibration import judge
from nas.latency.table import LatencyTable, Prices, sidecar_path, visits_path
from nas.latency.target import detect_target
from nas.progress import Progress
from nas.report.page import read_folder, write_folder_page
from nas.slim.plan import Plan
from nas.slim.result import FILES, SearchResult
from nas.space import SearchSpace
from nas.store.journal import Journal
from nas.training.processes import find_device
from nas.training.retrained import finish, origin_of
from nas.training.retraining import RESULT, Retraining
from nas.training.run import Run
from nas.training.settings import DataSettings, SupernetSettings


class Finished(Value):
    """A line of the journal: a stage that is finished, and the seconds that it took."""

    stage: str
    seconds: float


class Listener(Protocol):
    """Hears of stages as they begin and end."""

    def begin(self, stage: str) -> AbstractContextManager[Progress]:
        """A stage begins; gives the progress that hears of its work."""

    def end(self, finished: Finished, *, is_whole: bool) -> None:
        """A stage has ended; it is not ``is_whole`` where a part was done before."""


@dataclass(frozen=True)
class Stages:
    """The stages of a request by its schedule, in its folder."""

    request: Request
    schedule: Schedule
    at: Layout

    def run(self, listener: Listener) -> list[Finished]:
        """Run all stages that are not finished; returns the time of each.

        Raises UserError where a stage does, and after Ctrl-C, with the command that goes on.
        """
        with self._journal() as journal:
            known = {line.stage for line in journal.lines}
            for stage in STAGES:
                if stage in known:
                    continue
                has_begun, started = self._has_begun(stage), time.monotonic()
                with listener.begin(stage) as progress:
                    self._work(stage, progress)
                finished = Finished(stage=stage, seconds=time.monotonic() - started)
                journal.append(finished)
                listener.end(finished, is_whole=not has_begun)
            return list(journal.lines)

    def finished(self) -> list[Finished]:
        """The stages that are finished, in their order."""
        with self._journal() as journal:
            return list(journal.lines)

    def _journal(self) -> Journal[Finished]:
        kind: TypeAdapter[Finished] = TypeAdapter(Finished)
        return Journal(self.at.root / JOURNAL, kind, noun="a run", remedy="--force starts anew")

    def _work(self, stage: str, progress: Progress) -> None:
        work: Callable[[Progress], None] = getattr(self, f"_{stage}")
        try:
            work(progress)
        except KeyboardInterrupt:
            raise self._stopped(stage) from None
        except UserError as error:
            if isinstance(error.__context__, KeyboardInterrupt):
                raise self._stopped(stage) from None
            raise

    def _stopped(self, stage: str) -> StoppedError:
        command = shlex.join(run_command(self.request, self.at.root))
        return StoppedError(f"stopped in the {stage}; what is done is kept, to continue: {command}")

    def _has_begun(self, stage: str) -> bool:
        marks = {
            "table": visits_path(self.at.table),
            "training": self.at.run,
            "slimming": self.at.slim,
            "retraining": self.at.retrained,
        }
        return stage in marks and marks[stage].exists()

    def _space(self, progress: Progress) -> None:
        place, own = self.schedule.place, self.request.architecture
        space = pipeline.new_space(
            Architecture.load(own) if own else SearchSpace.load(place.word),
            self.at.space,
            classes=self.schedule.data.classes,
            input_size=None if self.request.space else place.input_size,
            force=True,
        )
        progress.say(f"  {len(space.choices)} choices, in {self.at.space}")

    def _table(self, progress: Progress) -> None:
        space = SearchSpace.load(self.at.space)
        table = pipeline.build_table(
            space,
            self.at.table,
            target=detect_target(self.request.place),
            settings=BuildSettings(space_argument=str(self.at.space), seed=self.request.seed),
            resume=True,
            progress=progress,
        )
        progress.say(f"  {len(table.rows)} layers, in {self.at.table}")
        if failures := judge(table.validation).failures:
            progress.say(f"  the table is used although {'; '.join(failures)}")
            progress.say("  networks are measured themselves before one is delivered")
        if self.schedule.target_share:
            progress.say(f"  {self.known.target_line}")
        self.plan.require_possible(Prices(space, {"table": table}))

    def _training(self, progress: Progress) -> None:
        effort, request = self.schedule.effort, self.request
        settings: dict[str, Any] = {"epochs": effort.epochs, "seed": request.seed}
        if effort.batch_size:
            settings["batch_size"] = effort.batch_size
        if request.weights:
            settings |= {"weights": request.weights, "reference_epochs": effort.reference_epochs}
        has_begun = (self.at.run / Run.record_file).exists()
        pipeline.train(
            SearchSpace.load(self.at.space),
            self.at.run,
            data=DataSettings(
                spec=request.data,
                seed=request.seed,
                search_share=self.schedule.data.search_share,
            ),
            settings=SupernetSettings.model_validate(settings),
            device=self.schedule.training_device,
            resume=has_begun,
            force=not has_begun,
            progress=progress,
        )

    def _slimming(self, progress: Progress) -> None:
        pipeline.slim(
            Run.open(self.at.run),
            LatencyTable.load(self.at.table),
            self.plan,
            self.at.slim,
            accept_tables=True,  # a busy machine must not end a run; a line has said so
            resume=True,
            command=self._command("slimming"),
            progress=progress,
        )

    def _retraining(self, progress: Progress) -> None:
        recipe = {"epochs": self.schedule.effort.retraining_epochs, "seed": self.request.seed}
        device = self.schedule.training_device
        if (self.at.retrained / Retraining.record_file).exists():
            begun = Retraining.open(self.at.retrained)
            finish(begun, begun.load_images(), progress=progress, device=find_device(device))
            return
        architecture = self.result.paths(self.at.slim)["architecture"]
        pipeline.retrain(
            Architecture.load(architecture),
            self.at.retrained,
            supernet=Run.open(self.at.run),
            recipe=recipe,
            device=device,
            force=True,
            origin=origin_of(str(architecture), self._command("retraining")),
            progress=progress,
        )

    def _command(self, stage: str) -> str:
        """The single command that a stage stands for."""
        return shlex.join(single_commands(self.request, self.known, self.at)[stage])

    def _export(self, progress: Progress) -> None:
        folder = self.at.delivered["onnx"].parent
        for file in DELIVERED:
            write_atomically(folder / file, (self.at.retrained / "delivered" / file).read_bytes())
        progress.say(f"  in {folder}")

    def _report(self, progress: Progress) -> None:
        title = f"{self.request.data} within {self.known.target_ms:g} ms"
        write_folder_page(self.at.page, read_folder(self.at.root), title=title, force=True)
        progress.say(f"  in {self.at.page}")

    @property
    def known(self) -> Schedule:
        """The schedule, with latencies and what follows from them by the table once there is one.

        Raises UserError if the table cannot be read.
        """
        if not sidecar_path(self.at.table).exists():  # it is what completes a table
            return self.schedule
        space, table = SearchSpace.load(self.at.space), LatencyTable.load(self.at.table)
        largest_ms, smallest_ms = map(table.predict, (space.largest(), space.smallest()))
        return self.schedule.with_latencies(largest_ms=largest_ms, smallest_ms=smallest_ms)

    @property
    def plan(self) -> Plan:
        """The plan of the search."""
        return Plan(
            targets=({"latency_ms": self.known.target_ms},),
            evaluations=self.schedule.effort.evaluations,
            seed=self.request.seed,
        )

    @property
    def result(self) -> SearchResult:
        """What the search found."""
        return SearchResult.load(self.at.slim / FILES["report"])

    @property
    def retrained(self) -> Mapping[str, Any]:
        """What the last training ended with."""
        return dict(json.loads((self.at.retrained / RESULT).read_text(encoding="utf-8")))
