"""A latency table: one row per distinct layer and input shape, and a sidecar that vouches for them.

The rows lie in ``T.csv``; ``T.json`` beside it names the space, the target, how sums of rows are
calibrated and how well they predict whole networks, and carries the hash of the CSV.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from nas.architecture import Architecture
from nas.documents import Value, read_document, write_atomically
from nas.errors import UserError
from nas.families import Layer, Shape
from nas.latency.calibration import Calibration
from nas.latency.modelled import Modelled
from nas.latency.rows import Key, Row, checksums, format_rows, parse_rows, shape_text, sound_rows
from nas.latency.runtime import Target
from nas.latency.validation import Validation, judge
from nas.space import SearchSpace


class Anchor(Value):
    """A calibration that held until the next one, and the date it was measured on."""

    calibration: Calibration
    date: str


class Provenance(Value):
    """Everything of a table but its rows.

    ``modelled``: what a quick build did not measure, and how far its models are to be trusted.
    ``anchored``: when ``check-lut`` last shifted the calibration; the ones before it are kept.
    """

    space: str
    space_argument: str
    space_sha256: str
    target: Target
    calibration: Calibration
    validation: Validation | None
    channel_step: int | None = None
    date: str
    nas_version: str
    exporter: str = ""
    load_average: tuple[float, float, float] | None
    seed: int
    modelled: tuple[Modelled, ...] = ()
    anchored: str | None = None
    earlier_anchors: tuple[Anchor, ...] = ()


class Sidecar(Provenance):
    """The JSON file beside the CSV; ``row_crc32`` tells which rows of a damaged one are sound."""

    csv_sha256: str
    row_crc32: str = ""


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """Rows by key, and where they come from."""

    rows: Mapping[Key, Row]
    provenance: Provenance
    path: Path
    _cache: dict[tuple[int, Shape], tuple[Layer, Row]] = field(
        default_factory=dict, repr=False, init=False
    )

    @property
    def target(self) -> Target:
        return self.provenance.target

    @property
    def space(self) -> str:
        """The name of the space whose layers it holds."""
        return self.provenance.space

    @property
    def calibration(self) -> Calibration:
        return self.provenance.calibration

    @property
    def validation(self) -> Validation | None:
        return self.provenance.validation

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read ``T.csv`` and its sidecar ``T.json``.

        Raises:
            UserError: a file is missing, edited or truncated, or holds impossible values.
        """
        path = Path(path)
        sidecar = read_sidecar(path)
        content = _read(path)
        if hashlib.sha256(content).hexdigest() != sidecar.csv_sha256:
            total = len(sidecar.row_crc32.split())
            bad = total - len(sound_rows(content, sidecar.row_crc32.split(), path))
            mend = f"measure the {bad} of {total} rows that are bad again: " if bad < total else ""
            raise UserError(
                f"{path}: its content differs from the hash in {sidecar_path(path).name}: edited "
                f"or half-written; {mend or 'rebuild: '}{build_command(path, sidecar)} "
                f"{'--resume' if mend else '--force'}"
            )
        return cls(parse_rows(content, path), _provenance(sidecar), path)

    @classmethod
    def salvage(cls, path: Path) -> LatencyTable:
        """Like ``load``, but of a damaged CSV those rows that are as they were written."""
        sidecar = read_sidecar(path)
        content = _read(path)
        if hashlib.sha256(content).hexdigest() == sidecar.csv_sha256:
            return cls.load(path)
        rows = sound_rows(content, sidecar.row_crc32.split(), path)
        return cls(rows, _provenance(sidecar), path)

    def save(self) -> None:
        """Write the CSV, then the sidecar that completes it, each atomically."""
        content = format_rows(self.rows, header=True).encode()
        sidecar = self.provenance.model_dump(mode="json")
        sidecar["csv_sha256"] = hashlib.sha256(content).hexdigest()
        sidecar["row_crc32"] = " ".join(checksums(content))
        write_atomically(self.path, content)
        write_atomically(sidecar_path(self.path), json.dumps(sidecar, indent=1) + "\n")

    def row(self, layer: Layer, input_shape: Shape) -> Row:
        """The row of a layer.

        Raises:
            UserError: there is none; says how to add it.
        """
        cached = self._cache.get((id(layer), input_shape))
        if cached is not None:
            return cached[1]
        row = self.rows.get((layer.signature, input_shape))
        if row is None:
            raise self._missing(layer, input_shape)
        if len(self._cache) > 100_000:
            self._cache.clear()
        self._cache[(id(layer), input_shape)] = (layer, row)  # keeps the layer, so its id, alive
        return row

    def cost(self, architecture: Architecture) -> dict[str, float]:
        """``latency_ms`` (calibrated), ``params`` and ``macs`` of a network."""
        return self.cost_of(architecture.placed())

    def cost_of(self, placed: Iterable[tuple[Layer, Shape]]) -> dict[str, float]:
        """``cost`` of the network that consists of these layers, each with its input shape."""
        ms, params, macs = 0.0, 0, 0
        for layer, shape in placed:
            row = self.row(layer, shape)
            ms += row.ms
            params += row.params
            macs += row.macs
        return {
            "latency_ms": self.calibration.latency(ms, params),
            "params": params,
            "macs": macs,
        }

    def predict(self, architecture: Architecture) -> float:
        """The latency of a network in milliseconds."""
        return self.cost(architecture)["latency_ms"]

    def require_layers(self, space: SearchSpace, space_argument: str | None = None) -> None:
        """Raise UserError, naming the first layer, unless all layers of ``space`` have rows.

        ``space_argument`` is how the command that adds them names the space; by default as the
        table was built.
        """
        for (_, shape), layer in space.layers().items():
            if (layer.signature, shape) not in self.rows:
                raise self._missing(layer, shape, space_argument)

    def require_target(self, target: Target) -> None:
        """Raise UserError, naming what differs, unless the table was built on ``target``."""
        difference = self.target.difference(target)
        if difference:
            wanted = self.provenance.model_copy(update={"target": target})
            raise UserError(
                f"{self.path}: was built for another target (here: the table, there: this "
                f"machine): {'; '.join(difference)}; build one: "
                f"{build_command(Path('NEW.csv'), wanted)}"
            )

    def require_trust(self) -> None:
        """Raise UserError, naming the figures and their bounds, if the table failed validation."""
        failures = judge(self.validation).failures
        if failures:
            raise UserError(
                f"{self.path}: {'; '.join(failures)}; build it again when the machine is quieter: "
                f"{build_command(self.path, self.provenance)} --force, or take it as it is with "
                f"--accept-table"
            )

    def _missing(self, layer: Layer, shape: Shape, space_argument: str | None = None) -> UserError:
        provenance = self.provenance
        if space_argument is not None:
            provenance = provenance.model_copy(update={"space_argument": space_argument})
        return UserError(
            f"{self.path}: no row for '{layer.signature}' on {shape_text(shape)} ({layer.slot}); "
            f"add what the space is missing: {build_command(self.path, provenance)} --resume"
        )


def sidecar_path(path: Path) -> Path:
    """The JSON file of a table."""
    return path.with_suffix(".json")


def build_command(path: Path, provenance: Provenance) -> str:
    """The command that builds this table."""
    words = ["nas", "build-lut", "--space", provenance.space_argument]
    words += ["--device", provenance.target.device]
    if provenance.target.runtime != "onnxruntime":
        words += ["--runtime", provenance.target.runtime]
    if provenance.target.threads != 1:
        words += ["--threads", str(provenance.target.threads)]
    if provenance.target.batch != 1:
        words += ["--batch", str(provenance.target.batch)]
    if provenance.target.precision != "float32":
        words += ["--precision", provenance.target.precision]
    if provenance.modelled:
        words.append("--quick")
    return " ".join([*words, "--out", str(path)])


def read_sidecar(path: Path) -> Sidecar:
    """The sidecar of the table at ``path``."""
    if path.suffix != ".csv":
        raise UserError(f"{path}: a latency table is a .csv file with a .json file beside it")
    if not path.exists() and not sidecar_path(path).exists():
        raise UserError(
            f"{path}: no such latency table; build it: nas build-lut --space SPACE --device cpu "
            f"--out {path}"
        )
    try:
        document = read_document(sidecar_path(path))
        try:
            return Sidecar.model_validate(document.data)
        except ValidationError as error:
            raise document.validation_error(error) from None
    except UserError as error:
        raise UserError(
            f"{error}; without it {path.name} is of no use, rebuild: nas build-lut --space SPACE "
            f"--device cpu --out {path} --force"
        ) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _provenance(sidecar: Sidecar) -> Provenance:
    fields = sidecar.model_dump(exclude={"csv_sha256", "row_crc32"})
    return Provenance.model_validate(fields)
