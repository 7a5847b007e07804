from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nas.errors import UserError
from nas.training.log import Log


def entries(path: Path) -> list[dict[str, object]]:
    """The lines of a log without their checksums."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: it for name, it in one.items() if name != "check"} for one in found]


def test_tensorboard_reads_the_curves_and_hides_what_a_killed_process_wrote(tmp_path: Path) -> None:
    path, curves = tmp_path / "log.jsonl", tmp_path / "tensorboard"
    with Log(path, curves, finished_epochs=0, setbacks=0) as log:
        for epoch in (1, 2, 3):
            log.append(epoch, {"loss/largest": epoch / 3})
    with Log(path, curves, finished_epochs=2, setbacks=0) as log:
        log.append(3, {"loss/largest": 7.0})
    found = EventAccumulator(str(curves)).Reload().Scalars("loss/largest")
    assert [it.step for it in found] == [1, 2, 3]
    assert [it.value for it in found] == pytest.approx([1 / 3, 2 / 3, 7.0], abs=1e-6)
    assert [it["loss/largest"] for it in entries(path)] == [0.333333, 0.666667, 7.0]


def test_curves_on_a_full_disk_are_one_line(tmp_path: Path, files_limited) -> None:
    with Log(
        tmp_path / "log.jsonl", tmp_path / "tensorboard", finished_epochs=0, setbacks=0
    ) as log:
        refused = pytest.raises(UserError, match="tensorboard: cannot be written: ")
        with refused as error, files_limited(300):
            append_many(log)
    assert "\n" not in str(error.value)


def append_many(log: Log) -> None:
    for epoch in range(1, 16):  # six lines of the log and five of the curves are 300 bytes
        log.append(epoch, {"loss": 0.5})


def test_setbacks_stand_between_the_epochs(tmp_path: Path) -> None:
    path, curves = tmp_path / "log.jsonl", tmp_path / "tensorboard"
    with Log(path, curves, finished_epochs=0, setbacks=0) as log:
        log.append(1, {"rate": 1.0})
        log.append_setback(1, 2, reason="the loss is not finite", step=7)
        log.append(2, {"rate": 0.5})
    assert entries(path) == [
        {"epoch": 1, "rate": 1.0},
        {"setback": 1, "epoch": 2, "step": 7, "reason": "the loss is not finite"},
        {"epoch": 2, "rate": 0.5},
    ]
    with Log(path, curves, finished_epochs=1, setbacks=1) as log:
        log.append(2, {"rate": 0.25})
    assert [it.get("rate") for it in entries(path)] == [1.0, None, 0.25]
    with Log(path, curves, finished_epochs=1, setbacks=0) as log:
        log.append(2, {"rate": 1.0})
    assert [it.get("rate") for it in entries(path)] == [1.0, 1.0]


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"{", b"3", b'{"rate": 1}', b'{"epoch": "x"}', b"\x80", b'{"epoch": 2\x80}'),
        *(b'{"epoch": 0}', b'{"epoch": 1000000000000}'),
        *(b'{"epoch": 2, "rate": "x"}', b'{"epoch": 2, "paths": {"a": {"b": 2}}}'),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"epoch": 1}\n' + line + b'\n{"epoch": 2}\n')
    with pytest.raises(
        UserError, match=r"log\.jsonl:2: is no line of a training; delete that line"
    ):
        Log(path, tmp_path / "tensorboard", finished_epochs=9, setbacks=0)
