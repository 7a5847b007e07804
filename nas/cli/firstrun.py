"""From pictures to a network by one command: ``nas run``, and ``nas demo`` on embedded data."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from nas.architecture import Architecture
from nas.cli import options
from nas.data import require_source
from nas.errors import UserError
from nas.firstrun.request import Request, require_positive
from nas.latency.device import Device
from nas.printing import print_line
from nas.progress import Progress, duration
from nas.report.following import after_network
from nas.space import SearchSpace
from nas.training.settings import DataSettings

if TYPE_CHECKING:
    from nas.firstrun.begin import Planner
    from nas.firstrun.stages import Finished, Stages


@options.options_of(place=Device, without=("name",))
def run(
    *,
    data: Annotated[str, Option(help=DataSettings.model_fields["spec"].description)],
    target_ms: Annotated[
        float | None, Option(help="Largest latency; else half of the largest network's.")
    ] = None,
    weights: Annotated[
        str | None, Option(help="Pretrained weights to start from: a file, or hf:timm/NAME.")
    ] = None,
    architecture: Annotated[
        str | None, Option(help="Network to search around, which the weights are of.")
    ] = None,
    space: Annotated[
        str | None, Option(help="Search space; else the plan chooses a built-in one that fits.")
    ] = None,
    device: options.Device = "cpu",
    place: options.Given,
    minutes: Annotated[
        float | None, Option(help="Most minutes; else what the data need, an hour at most.")
    ] = None,
    out: Annotated[Path | None, Option(help="Folder of all results; else runs/DATA.")] = None,
    seed: options.Seed = 0,
    force: Annotated[bool, Option("--force", help="Start anew in place of a run there.")] = False,
    as_json: options.Json = False,
) -> None:
    """Stop it at any moment: the same command goes on. It says how long it will take first."""
    require_positive("--target-ms", target_ms)
    require_positive("--minutes", minutes)
    if space and architecture:
        raise UserError("--space and --architecture exclude each other")
    if weights and not (space or architecture):
        raise UserError("--weights needs --architecture, the network that they are of")
    require_source(data)
    if architecture:
        Architecture.load(architecture)
    if space:
        SearchSpace.load(space)
    request = Request(
        data=data,
        target_ms=target_ms,
        space=space,
        weights=weights,
        architecture=architecture,
        device=device,
        **place,
        minutes=minutes,
        seed=seed,
    )
    _require_device(request.place)
    name = Path(data.partition(":")[2]).name or data
    _run(request, out or Path("runs") / name.replace(":", "_"), force=force, as_json=as_json)


def demo(
    out: Annotated[Path, Option(help="Folder of all results.")] = Path("runs/demo"),
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """It is nas run with fixed settings; an earlier demo in the folder is replaced."""
    from nas.demo import REQUEST, plan_demo

    request = REQUEST.model_copy(update={"seed": seed})
    _run(request, out, plan_demo, force=True, as_json=as_json)


def _require_device(device: Device) -> None:
    from nas.latency.target import detect_target

    detect_target(device)


def _run(
    request: Request,
    out: Path,
    planner: Planner | None = None,
    *,
    force: bool,
    as_json: bool,
) -> None:
    """Begin or go on, and run all stages, in a folder that no other process works in."""
    from nas.firstrun.begin import begin, find
    from nas.firstrun.layout import require_ours
    from nas.firstrun.outcome import describe
    from nas.report.terminal import ProgressBar
    from nas.store.lock import hold_folder

    require_ours(out, force=force)
    try:
        with hold_folder(out, activity="running", option="--out"):
            stages = None if force else find(request, out)
            if stages is None:
                with ProgressBar("planning", quiet=as_json) as bar:
                    bar.say("measuring how fast this machine is, to plan; usually half a minute")
                    stages = begin(request, out, planner, force=force, progress=bar)
            if not as_json:
                _print_plan(stages)
            times = stages.run(Shown(stages, quiet=as_json))
            found = describe(stages, times)
    finally:
        with suppress(OSError):  # it is empty where the request was refused
            out.rmdir()
    shown = ("delivered", "overview", "page", "table", "run")
    paths = {name: found["paths"][name] for name in shown}
    options.print_result(
        found,
        paths,
        as_json=as_json,
        show=lambda: _print_outcome(stages, times),
        following=after_network(paths["delivered"]),
    )


class Shown:
    """Shows stages on standard error as they begin and end."""

    def __init__(self, stages: Stages, *, quiet: bool) -> None:
        self._stages, self._quiet = stages, quiet

    @contextmanager
    def begin(self, stage: str) -> Iterator[Progress]:
        from nas.firstrun.estimate import STAGES
        from nas.report.terminal import ProgressBar

        place = f"{list(STAGES).index(stage) + 1} of {len(STAGES)}"
        with ProgressBar(f"{place}, {stage}", quiet=self._quiet) as bar:
            bar.say(f"{place}, {stage}: {STAGES[stage]}")
            yield bar

    def end(self, finished: Finished, *, is_whole: bool) -> None:
        from nas.report.terminal import ProgressBar

        estimated = duration(self._stages.schedule.seconds[finished.stage])
        rest = "" if is_whole else " since it went on"
        with ProgressBar(finished.stage, quiet=self._quiet) as bar:
            bar.say(f"  took {duration(finished.seconds)}{rest}; {estimated} were estimated")


def _print_plan(stages: Stages) -> None:
    from nas.firstrun.commands import single_commands
    from nas.firstrun.estimate import STAGES
    from nas.firstrun.outcome import data_line, plan_line

    request, schedule = stages.request, stages.known
    print_line(data_line(request.data, schedule.data))
    for line in plan_line(request, schedule).split("\n"):
        print_line(line)
    done = {it.stage: it for it in stages.finished()}
    if request.target_ms is None:
        rest = "" if "table" in done else ", by a few visits; the table tells both better"
        print_line(f"{schedule.target_line}{rest}")
    if done.keys() == STAGES.keys():
        print_line(f"{stages.at.root}: is finished; this is what it found")
        return
    left = sum(seconds for stage, seconds in schedule.seconds.items() if stage not in done)
    end = time.strftime("%H:%M", time.localtime(time.time() + left))
    if done:
        print_line(f"{stages.at.root}: going on after {', '.join(done)}")
    planning = f" (planning took {duration(schedule.planning_seconds)})" if not done else ""
    print_line(f"about {duration(left)} more, until {end}{planning}; the same by single commands:")
    print_line()
    commands = single_commands(request, schedule, stages.at)
    for stage, why in STAGES.items():
        print_line(f"{stage:<11} {duration(schedule.seconds[stage]):<11} {why}")
        print_line(f"  {shlex.join(commands[stage])}")
    print_line(file=sys.stdout)


def _print_outcome(stages: Stages, times: list[Finished]) -> None:
    from nas.firstrun.outcome import outcome_lines
    from nas.report.terminal import print_search

    result = stages.result
    print_search(result, title=f"{result.data}, target {result.targets[0]['latency_ms']:g} ms")
    for line in outcome_lines(stages, times):
        print_line(line)
