"""Folders that measure graphs where they are carried: written here, run there, and read again.

``python3 run.py`` in such a folder needs numpy and a runtime alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import onnx
from pydantic import Field, ValidationError

from nas.deploy.quantize import Precision
from nas.documents import Value, did_you_mean, write_atomically
from nas.errors import UserError, writing
from nas.latency import runner
from nas.latency.connection import SOURCE
from nas.latency.device import BY_HAND, Device
from nas.latency.estimator import Positive, Visit
from nas.latency.table import Conditions
from nas.latency.target import Target, clock_of
from nas.latency.visits import pack
from nas.printing import command
from nas.progress import SILENT, Progress

Line = TypeVar("Line", bound=Value)

RUN = "run.py"
DEVICES = ("cpu", "cuda", "tensorrt", "coreml", "dml", "xnnpack", "qnn", "nnapi")
"""Of a machine that nobody has asked yet: onnxruntime's names, and OpenVINO's cpu."""

LEAST_VISITS = 2
"""To a graph: with fewer nothing is known of its noise."""


class Header(Value):
    """The first line of the samples: where they were measured."""

    format: int
    plan: str
    kept_to: str
    runtime_version: str
    devices: dict[str, str]
    works_in_caller: tuple[str, ...]
    has_fine_clock: bool
    cores: tuple[int, ...]
    cpu_model: str
    cpu_flags: tuple[str, ...]
    accelerator: str
    node: str
    conditions: Conditions


class SampleLine(Value):
    """A visit."""

    graph: str
    ms: Annotated[tuple[Positive, ...], Field(min_length=runner.TIMED)]
    cold_ms: Positive
    seconds: Annotated[float, Field(ge=0)]


class WaitLine(Value):
    """A time in which the device cooled."""

    waits: Annotated[float, Field(ge=0)]
    slower: float
    conditions: Conditions


class EndLine(Value):
    """The end of some visits."""

    visited: int
    conditions: Conditions


class Measured(NamedTuple):
    """What a folder has measured."""

    header: Header
    visits: Sequence[Visit]
    conditions: Conditions

    def require_enough(self, names: Collection[str], folder: Path) -> None:
        """Raise UserError unless each graph was visited often enough to be told."""
        made = Counter(visit.graph for visit in self.visits)
        if few := [name for name in names if made[name] < LEAST_VISITS]:
            raise UserError(
                f"{folder}: {len(few)} of {len(names)} graphs have fewer than {LEAST_VISITS} "
                f"visits; let it go on there: {command('python3', RUN)}"
            )


def target_to_be(
    device: str, runtime: str, *, threads: int, batch: int, precision: Precision = "float32"
) -> Target:
    """What is known of a target before anything was measured there; UserError if nothing can be."""
    if device not in DEVICES:
        hint = did_you_mean(device, DEVICES)
        raise UserError(
            f"device '{device}' is none of a bundle{hint}; there are {', '.join(DEVICES)}"
        )
    kind = "" if device == "cpu" else f"/{device}"
    return Target(
        device=f"{BY_HAND}:{kind}",
        cpu_model="",
        cpu_flags=(),
        runtime=runtime,
        runtime_version="",
        provider="",
        threads=threads,
        precision=precision,
        batch=batch,
        clock="wall",
    )


def target_of(asked: Target, header: Header, name: str | None) -> Target:
    """The target that was measured; its device is called ``hand:NAME``."""
    kind = asked.place.kind
    place = Device(
        name=f"{BY_HAND}:{name or header.node}{'' if kind == 'cpu' else f'/{kind}'}",
        cores=header.kept_to,
    )
    update = {
        "device": place.name,
        "cores": place.cores,
        "accelerator": header.accelerator,
        "cpu_model": header.cpu_model,
        "cpu_flags": header.cpu_flags,
        "runtime_version": header.runtime_version,
        "provider": header.devices[kind],
        "clock": clock_of(
            threads=asked.threads,
            works_in_caller=kind in header.works_in_caller,
            is_fine=header.has_fine_clock,
        ),
    }
    return asked.model_copy(update=update)


def write_folder(
    folder: Path,
    makers: Mapping[str, Callable[[], onnx.ModelProto]],
    regular: Sequence[str],
    target: Target,
    *,
    inner: Collection[str] = (),
    minutes: float,
    most: int,
    seed: int,
    progress: Progress = SILENT,
) -> str:
    """Write what measures graphs, each at most so often; returns the hash of the plan.

    ``regular`` are the references among them, ``inner`` layers that share turns.
    """
    graphs: dict[str, Any] = {}
    with writing(folder):
        (folder / runner.GRAPHS).mkdir(parents=True, exist_ok=True)
    for done, (name, make) in enumerate(makers.items(), start=1):
        packed, content = pack(make(), target)
        write_atomically(folder / runner.GRAPHS / f"{packed.sha256}{runner.SUFFIX}", content)
        graphs[name] = {**packed._asdict(), "most": most}
        progress.update("graphs", done, len(makers))
    plan = {
        "format": runner.FORMAT,
        "runtime": target.runtime,
        "device": target.place.kind,
        "threads": target.threads,
        "graphs": graphs,
        "regular": list(regular),
        "inner": [name for name in makers if name in inner],
        "minutes": minutes,
        "seed": seed,
    }
    content = json.dumps(plan).encode()
    write_atomically(folder / RUN, SOURCE.read_bytes())
    write_atomically(folder / runner.PLAN, content)
    return hashlib.sha256(content).hexdigest()


def read_folder(folder: Path) -> Measured:
    """What was measured; UserError if that is of another plan, or not what the runner writes."""
    plan, samples = folder / runner.PLAN, folder / runner.SAMPLES
    try:
        plan_content, content = plan.read_bytes(), samples.read_bytes()
    except OSError as error:
        problem = f"{error.filename}: {error.strerror}"
        raise UserError(f"{problem}; run there first: {command('python3', RUN)}") from None
    lines = content.split(b"\n")[:-1]  # the last one may have been cut short
    if not lines:
        raise UserError(f"{samples}: is empty; run there first: {command('python3', RUN)}")
    header = _parsed(Header, lines[0], samples, 1)
    if header.format != runner.FORMAT:
        raise UserError(f"{samples}: is of another version of nas; make the folder anew")
    if header.plan != hashlib.sha256(plan_content).hexdigest():
        raise UserError(f"{samples}: its samples are of another plan than {plan.name} beside it")
    if (device := json.loads(plan_content)["device"]) not in header.devices:
        raise UserError(f"{samples}:1: knows no device '{device}', which {plan.name} is for")
    visits, conditions, waited = list[Visit](), header.conditions, 0.0
    for number, line in enumerate(lines[1:], start=2):
        if line.startswith(b'{"graph"'):
            visits.append(_visit(_parsed(SampleLine, line, samples, number)))
        elif line.startswith(b'{"waits"'):
            waited += _parsed(WaitLine, line, samples, number).waits
        else:
            conditions = _parsed(EndLine, line, samples, number).conditions
    return Measured(header, visits, conditions.model_copy(update={"waited": waited}))


def _parsed(kind: type[Line], line: bytes, path: Path, number: int) -> Line:
    try:
        return kind.model_validate_json(line)
    except ValidationError:
        raise UserError(f"{path}:{number}: is no line of the runner's; copy it again") from None


def _visit(line: SampleLine) -> Visit:
    sample = runner.Sample(list(line.ms), line.cold_ms)
    return Visit(line.graph, sample.warm, sample.cold, sample.runs, line.seconds)
