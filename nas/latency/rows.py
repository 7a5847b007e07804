"""Rows of a latency table, and their CSV."""

from __future__ import annotations

import csv
import io
import math
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from nas.errors import UserError
from nas.families import Shape

COLUMNS = ("layer", "input_shape", "ms", "ms_low", "ms_high", "params", "macs", "status")
Status = Literal["ok", "noisy", "modelled"]
Key = tuple[str, Shape]
"""A layer's signature and its input shape."""


class Row(NamedTuple):
    """What one layer costs on one input shape; ms with its 95 % interval, not calibrated."""

    ms: float
    ms_low: float
    ms_high: float
    params: int
    macs: int
    status: Status


def format_rows(rows: Mapping[Key, Row], *, header: bool) -> str:
    """The rows as CSV, milliseconds to the nanosecond."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(COLUMNS)
    for key, row in rows.items():
        writer.writerow(_cells(key, row))
    return text.getvalue()


def parse_rows(content: bytes, path: Path) -> dict[Key, Row]:
    """Read what ``format_rows`` wrote.

    Raises:
        UserError: naming file and line: a column is missing, a latency is not above zero, or a key
            stands twice.
    """
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
            raise UserError(f"{path}:{number}: '{key[0]}' on {shape_text(key[1])} stands twice")
        rows[key] = row
    return rows


def checksums(content: bytes) -> list[str]:
    """One for each row of a CSV: tells which rows are as they were written."""
    return [f"{zlib.crc32(line):08x}" for line in content.splitlines()[1:]]


def sound_rows(content: bytes, known: Collection[str], path: Path) -> dict[Key, Row]:
    """The rows of a damaged CSV whose checksums are known."""
    header = ",".join(COLUMNS).encode()
    lines = [line for line in content.splitlines() if f"{zlib.crc32(line):08x}" in known]
    return parse_rows(b"\n".join([header, *dict.fromkeys(lines), b""]), path)


def shape_text(shape: Shape) -> str:
    """``32x56x56``."""
    return "x".join(map(str, shape))


def _cells(key: Key, row: Row) -> list[object]:
    signature, shape = key
    ms = [f"{value:.6f}" for value in (row.ms, row.ms_low, row.ms_high)]
    return [signature, shape_text(shape), *ms, row.params, row.macs, row.status]


def _parse_cells(cells: list[str]) -> tuple[Key, Row]:
    if len(cells) != len(COLUMNS):
        raise ValueError(f"{len(COLUMNS)} cells expected, got {len(cells)}")
    signature, shape_cell, *numbers, params, macs, status = cells
    channels, height, width = map(int, shape_cell.split("x"))
    ms, low, high = map(float, numbers)
    if not (math.isfinite(ms) and ms > 0):
        raise ValueError(f"ms must be a number above zero, got {numbers[0]}")
    known: tuple[Status, ...] = get_args(Status)
    if status not in known:
        raise ValueError(f"status must be {', '.join(known[:-1])} or {known[-1]}, got '{status}'")
    row = Row(ms, low, high, int(params), int(macs), known[known.index(status)])
    return (signature, (channels, height, width)), row
