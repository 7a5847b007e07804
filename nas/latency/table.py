"""A latency table: one row per distinct layer and input shape, and a sidecar with its evidence.

The rows lie in ``T.csv``; ``T.json`` beside it names the space and the target, holds how sums of
rows are calibrated and how well they predict whole networks, and carries the hash of the CSV.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from nas.architecture import Architecture
from nas.documents import Value, built_in_tables, did_you_mean, read_document, write_atomically
from nas.errors import UserError
from nas.families import Layer, Shape
from nas.families.own import keep_beside
from nas.latency.calibration import Calibration, RowSums, Validation, judge
from nas.latency.device import BY_HAND
from nas.latency.estimator import STATES, State
from nas.latency.target import Target, detect_again
from nas.latency.unit import Reference, Unit
from nas.printing import command
from nas.space import Assignment, SearchSpace

COLUMNS = (
    *("layer", "input_shape", "ms", "ms_low", "ms_high", "cold_ms", "cold_low", "cold_high"),
    *("params", "macs", "status"),
)
LATENCY = "latency_ms"
RowStatus = Literal["ok", "noisy", "modelled"]
Key = tuple[str, Shape]
"""A layer's signature and its input shape."""


class Row(NamedTuple):
    """The cost of one layer on one input shape, warm and cold, with 95 % intervals; in ms."""

    ms: float
    ms_low: float
    ms_high: float
    cold_ms: float
    cold_low: float
    cold_high: float
    params: int
    macs: int
    status: RowStatus

    @property
    def sums(self) -> RowSums:
        """The sums of a network of this row alone."""
        return RowSums(self.ms, self.cold_ms, self.params, self.macs)


class ModelledGroup(Value):
    """Layers of which a quick build modelled some; ``error``: RMS of left-out entries, a share."""

    kind: str
    map: tuple[int, int]
    alignment: tuple[str, ...]
    measured: int
    modelled: int
    error: float


class Anchor(Value):
    """A calibration and a unit that held until the next one, and the date of their measurement."""

    calibration: Calibration
    reference: Reference
    companions: tuple[Reference, ...] = ()
    date: str


class Conditions(Value):
    """What a device told of itself while it measured; ``waited``: seconds in which it cooled."""

    system: str
    python: str
    numpy: str
    governor: str = ""
    megahertz: tuple[float, float] | None = None
    celsius: float | None = None
    load: tuple[float, float, float] | None = None
    waited: float = 0.0


class Provenance(Value):
    """Everything of a table but its rows; ``anchored``: when ``check-lut`` last shifted it.

    ``reference`` and its smaller and larger ``companions`` are the unit of the latencies; tables
    of before have no companions. ``spread``: how much faster and slower than in the
    median the machine was while it was measured, 5 % of the time each.
    """

    space: str
    space_argument: str
    space_sha256: str
    target: Target
    reference: Reference
    companions: tuple[Reference, ...] = ()
    calibration: Calibration
    validation: Validation | None
    spread: tuple[float, float] = (0.0, 0.0)
    channel_step: int | None = None
    date: str
    nas_version: str
    exporter: str = ""
    load_average: tuple[float, float, float] | None
    conditions: Conditions | None = None
    seed: int
    modelled: tuple[ModelledGroup, ...] = ()
    anchored: str | None = None
    earlier_anchors: tuple[Anchor, ...] = ()


class Sidecar(Provenance):
    """The JSON file beside the CSV."""

    csv_sha256: str


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """Rows by key, and where they come from."""

    rows: Mapping[Key, Row]
    provenance: Provenance
    path: Path

    @property
    def target(self) -> Target:
        return self.provenance.target

    @property
    def space(self) -> str:
        return self.provenance.space

    @property
    def calibration(self) -> Calibration:
        return self.provenance.calibration

    @property
    def validation(self) -> Validation | None:
        return self.provenance.validation

    @cached_property
    def unit(self) -> Unit:
        """What latencies that are measured later are told in."""
        references = (self.provenance.reference, *self.provenance.companions)
        return Unit(references, tuple(map(self._sums_of, references)), self.calibration)

    def _sums_of(self, reference: Reference) -> RowSums:
        """The sums of its rows; its latencies where the table was brought to another space since.

        Such a table has no row for the head of the space before, which has few of the weights.
        """
        rows = [self.rows.get((it.signature, shape)) for it, shape in reference.network.placed()]
        found = sum_rows(row for row in rows if row)
        return (
            found if all(rows) else found._replace(warm=reference.warm_ms, cold=reference.cold_ms)
        )

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read ``T.csv`` and ``T.json``; ``example_cpu`` is the example that comes with ``nas``.

        Raises UserError if one of the files is missing, damaged or edited.
        """
        path = built_in_tables().get(str(path), Path(path))
        provenance, content, is_whole = _read_files(path)
        if is_whole:
            return cls(parse_rows(content, path), provenance, path)
        mend = "--resume" if visits_path(path).exists() else "--force"
        raise UserError(
            f"{path}: its content differs from the hash in {sidecar_path(path).name}: edited or "
            f"half-written; write it again: {build_command(path, provenance, mend)}"
        )

    def save(self) -> None:
        """Write the CSV, then the sidecar that completes it, each atomically."""
        content = format_rows(self.rows).encode()
        sidecar = self.provenance.model_dump(mode="json")
        sidecar["csv_sha256"] = rows_hash(content)
        networks = [it.network for it in (self.provenance.reference, *self.provenance.companions)]
        keep_beside(dict.fromkeys(file for it in networks for file in it.blocks), self.path)
        write_atomically(self.path, content)
        write_atomically(sidecar_path(self.path), json.dumps(sidecar, indent=1) + "\n")

    def row(self, layer: Layer, input_shape: Shape, space_argument: str | None = None) -> Row:
        """The row of a layer; raises UserError, with the command that adds it, if there is none."""
        row = self.rows.get((layer.signature, input_shape))
        if row is not None:
            return row
        named = {"space_argument": space_argument or self.provenance.space_argument}
        provenance = self.provenance.model_copy(update=named)
        building = build_command(self.path, provenance, "--resume")
        raise UserError(
            f"{self.path}: no row for '{layer.signature}' on {_shape_text(input_shape)} "
            f"({layer.slot}); add what the space is missing: {building}"
        )

    def holds(self, architecture: Architecture) -> bool:
        """Whether all layers of a network have rows."""
        return all((layer.signature, shape) in self.rows for layer, shape in architecture.placed())

    def sums(self, architecture: Architecture) -> RowSums:
        """The sums of a network's rows."""
        return sum_rows(self.row(layer, shape) for layer, shape in architecture.placed())

    def cost(self, architecture: Architecture, state: State = "warm") -> dict[str, float]:
        """``latency_ms`` (calibrated), ``params`` and ``macs`` of a network."""
        return self.cost_of(architecture.placed(), state)

    def cost_of(
        self, placed: Iterable[tuple[Layer, Shape]], state: State = "warm"
    ) -> dict[str, float]:
        """``cost`` of the network that consists of these layers, each with its input shape."""
        sums = sum_rows(self.row(layer, shape) for layer, shape in placed)
        ms = self.calibration.latency(sums, state)
        return {LATENCY: ms, "params": sums.params, "macs": sums.macs}

    def predict(self, architecture: Architecture, state: State = "warm") -> float:
        """The latency of a network in milliseconds.

        ``warm``: run again and again, as a benchmark's loop does. ``cold``: the first run after
        other work had the caches, as an application does that runs a network now and then.
        """
        if state not in STATES:
            raise UserError(f"state: must be {' or '.join(STATES)}, got '{state}'")
        return self.cost(architecture, state)[LATENCY]

    def shares(self, architecture: Architecture, state: State = "warm") -> list[float]:
        """The part of each layer in ``predict``, in ms, by ``Calibration.shares``."""
        rows = [self.row(layer, shape).sums for layer, shape in architecture.placed()]
        return self.calibration.shares(rows, state)

    def require_layers(self, space: SearchSpace, space_argument: str | None = None) -> None:
        """Raise the UserError of ``row`` unless all layers of ``space`` have rows."""
        for (_, shape), layer in space.layers().items():
            self.row(layer, shape, space_argument)

    def require_target(self, target: Target) -> None:
        """Raise UserError, naming the differences, unless the table was built on ``target``."""
        if difference := self.target.difference(target):
            wanted = self.provenance.model_copy(update={"target": target})
            raise UserError(
                f"{self.path}: was built for another target (here: the table, there: this "
                f"machine): {'; '.join(difference)}; build one: "
                f"{build_command(Path('NEW.csv'), wanted)}"
            )

    def require_trust(self, state: State) -> None:
        """Raise UserError, naming the figures and their bounds, if the table failed validation."""
        if refusal := self.refusal(state):
            raise UserError(f"{self.path}: {refusal}")

    def refusal(self, *states: State) -> str | None:
        """Why a search for a target in these states refuses the table, and what helps; or None."""
        failures = judge(self.validation, states).failures
        if not failures:
            return None
        return (
            f"{'; '.join(failures)}; measure on: {self.remedy}, or take it as it is with "
            "--accept-table"
        )

    @property
    def remedy(self) -> str:
        """The command that measures on, for a table that was refused."""
        longer = "--minutes", "10"
        if self.target.place.carrier == BY_HAND:
            return f"{command('python3', 'run.py', *longer)} there, {import_command(self.path)}"
        return build_command(self.path, self.provenance, "--resume", *longer)


@dataclass(frozen=True, eq=False)
class Prices:
    """The costs of assignments by tables with names: ms in ``state``, ``params`` and ``macs``."""

    space: SearchSpace
    tables: Mapping[str, LatencyTable]
    state: State = "warm"

    @cached_property
    def latencies(self) -> Mapping[str, LatencyTable]:
        """The table behind each latency among the costs."""
        names = latency_names(self.tables)
        return {names[name]: table for name, table in self.tables.items()}

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.latencies, "params", "macs")

    def cost(self, assignment: Assignment) -> dict[str, float]:
        """``LatencyTable.cost`` of the architecture, by every table."""
        placed = list(self.space.placed(assignment))
        found = {name: table.cost_of(placed, self.state) for name, table in self.latencies.items()}
        latencies = {name: costs.pop(LATENCY) for name, costs in found.items()}
        return {**latencies, **next(iter(found.values()))}

    def require_name(self, name: str, where: str) -> None:
        """Raise UserError unless ``name`` is one of the costs."""
        if name not in self.names:
            raise UserError(
                f"{where}: no cost is called '{name}'{did_you_mean(name, self.names)}; "
                f"there are {', '.join(self.names)}"
            )

    def measurable(self) -> dict[str, LatencyTable]:
        """The tables of devices at hand, by their latencies."""
        return {name: table for name, table in self.latencies.items() if _is_at_hand(table)}

    def by_hand(self) -> dict[str, LatencyTable]:
        """The tables that were measured by hand, by their latencies."""
        return {
            name: table
            for name, table in self.latencies.items()
            if table.target.place.carrier == BY_HAND
        }


def latency_names(tables: Collection[str]) -> dict[str, str]:
    """The name of each table's latency among the costs; ``latency_ms`` where there is one table."""
    if len(tables) == 1:
        return dict.fromkeys(tables, LATENCY)
    return {name: f"{LATENCY}[{name}]" for name in tables}


def sidecar_path(path: Path) -> Path:
    """The JSON file of a table."""
    return path.with_suffix(".json")


def visits_path(path: Path) -> Path:
    """The journal of a table's build: all visits, from which ``build-lut --resume`` goes on."""
    return path.with_suffix(".visits.jsonl")


def build_command(path: Path, provenance: Provenance, *more: str) -> str:
    """The command that builds this table, with ``more`` words; or those that do it by hand."""
    target = provenance.target
    if target.place.carrier == BY_HAND:
        bundle = command("nas", "bundle", "--space", provenance.space_argument, "--out", "BUNDLE")
        return f"{bundle}, python3 run.py there, then {import_command(path)}"
    words = ["nas", "build-lut", "--space", provenance.space_argument, "--device", target.device]
    defaults = {"python": "", "workdir": "", "cores": "", "runtime": "onnxruntime", "threads": 1}
    defaults |= {"batch": 1, "precision": "float32"}
    for name, default in defaults.items():
        if (value := getattr(target, name)) != default:
            words += [f"--{name}", str(value)]
    if provenance.modelled:
        words.append("--quick")
    return command(*words, "--out", path, *more)


def import_command(path: Path) -> str:
    """The command that makes a table of what was measured by hand anew."""
    return command("nas", "import-lut", "BUNDLE", "--out", path, "--force")


def space_hash(space: SearchSpace) -> str:
    """Distinguishes two versions of a space of one name, wherever the user's own kinds lie."""
    named = tuple(file.model_copy(update={"path": Path(file.path).name}) for file in space.blocks)
    space = space.model_copy(update={"blocks": named}) if named else space
    return hashlib.sha256(space.to_json().encode()).hexdigest()


def sum_rows(rows: Iterable[Row]) -> RowSums:
    """The sums of a network's rows, in the order in which the layers stand."""
    warm, cold, params, macs = 0.0, 0.0, 0, 0
    for row in rows:  # sum() of floats rounds otherwise
        warm += row.ms
        cold += row.cold_ms
        params += row.params
        macs += row.macs
    return RowSums(warm, cold, params, macs)


def format_rows(rows: Mapping[Key, Row]) -> str:
    """The rows as CSV, milliseconds to the nanosecond."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for (signature, shape), row in rows.items():
        ms = [f"{value:.6f}" for value in row[:6]]
        writer.writerow([signature, _shape_text(shape), *ms, *row[6:]])
    return text.getvalue()


def parse_rows(content: bytes, path: Path) -> dict[Key, Row]:
    """Read CSV that ``format_rows`` wrote; raises UserError, naming file and line, if it cannot."""
    lines = csv.reader(io.StringIO(content.decode("utf-8", errors="replace")))
    if next(lines, None) != list(COLUMNS):
        raise UserError(f"{path}:1: the columns must be {','.join(COLUMNS)}")
    rows: dict[Key, Row] = {}
    for number, cells in enumerate(lines, start=2):
        try:
            key, row = _parse_cells(cells)
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}:{number}: {error}") from None
        if key in rows:
            raise UserError(f"{path}:{number}: '{key[0]}' on {_shape_text(key[1])} occurs twice")
        rows[key] = row
    return rows


def _parse_cells(cells: list[str]) -> tuple[Key, Row]:
    if len(cells) != len(COLUMNS):
        raise ValueError(f"{len(COLUMNS)} cells expected, got {len(cells)}")
    signature, shape_cell, *numbers, params, macs, status = cells
    channels, height, width = map(int, shape_cell.split("x"))
    ms, low, high, cold, cold_low, cold_high = map(float, numbers)
    for name, value, least, most in (
        ("ms", ms, low, high),
        ("cold_ms", cold, cold_low, cold_high),
    ):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a number above zero, got {value:g}")
        if not 0 <= least <= value <= most:  # of two visits the highest may be infinite
            raise ValueError(
                f"{name} must lie in its interval, got {value:g}, {least:g} to {most:g}"
            )
    known: tuple[RowStatus, ...] = get_args(RowStatus)
    if status not in known:
        raise ValueError(f"status must be {', '.join(known[:-1])} or {known[-1]}, got '{status}'")
    sizes = int(params), int(macs), known[known.index(status)]
    if min(channels, height, width) < 1 or min(sizes[:2]) < 0:
        raise ValueError("input_shape must be positive; params and macs must not be negative")
    row = Row(ms, low, high, cold, cold_low, cold_high, *sizes)
    return (signature, (channels, height, width)), row


def _read_files(path: Path) -> tuple[Provenance, bytes, bool]:
    """A table's provenance, the content of its CSV, and whether that is as it was written."""
    if path.suffix != ".csv":
        raise UserError(f"{path}: a latency table is a .csv file with a .json file beside it")
    build = ["nas", "build-lut", "--space", "SPACE", "--device", "cpu", "--out", str(path)]
    if not path.exists() and not sidecar_path(path).exists():
        raise UserError(f"{path}: no such latency table; build it: {command(*build)}")
    try:
        document = read_document(sidecar_path(path))
        is_old = isinstance(document.data, dict) and "reference" not in document.data
        sidecar = None if is_old else document.validated(Sidecar)
    except UserError as error:
        problem = f"{error}; without it {path.name} is of no use"
        raise UserError(f"{problem}, rebuild: {command(*build, '--force')}") from None
    if sidecar is None:
        space = document.data.get("space_argument", "SPACE")
        build[3] = str(space)
        raise UserError(
            f"{path}: is a table of an earlier version, which timed no layer cold and no "
            f"reference network; rebuild: {command(*build, '--force')}"
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    provenance = Provenance(**{name: getattr(sidecar, name) for name in Provenance.model_fields})
    return provenance, content, rows_hash(content) == sidecar.csv_sha256


def rows_hash(content: bytes) -> str:
    """Identifies rows, whichever line ends the CSV has: git on Windows writes others than we."""
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()


def _shape_text(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _is_at_hand(table: LatencyTable) -> bool:
    try:
        return not table.target.difference(detect_again(table.target))
    except UserError:  # there is no such device or runtime, or it does not answer
        return False
