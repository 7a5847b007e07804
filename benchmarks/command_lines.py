"""Command lines with odd values: none may end in a traceback, or in anything but one line.

    .venv/bin/python benchmarks/command_lines.py --lines 300         # ten minutes on two x86 cores
    .venv/bin/python benchmarks/command_lines.py --lines 300 --only 17   # one of them, as it prints

A line is a command with some of its options, in random order; their values are good ones, odd ones
(0, -1, nan, 10^12, control characters, words of other options) or files of other kinds. It runs in
a folder with a small run, table, network, model and pictures. Good endings are exit code 0, exit
code 2 with one line, and, for what still works after some seconds, Ctrl-C with exit code 130.
"""

from __future__ import annotations

import os

from nas.machine import OPENMP

os.environ.update(OPENMP | os.environ)  # as the command line does

import argparse
import importlib
import multiprocessing
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, get_args, get_origin

import numpy as np
import typer
from kills import build, prepare, start, train

from nas import cli

PATIENCE, GRACE = 6.0, 20.0
"""Seconds after which a line is interrupted, and in which it must have ended then."""
MOST_LINE = 2000
"""Characters of a line that people still read."""
ODD = (
    *("", " ", "0", "-1", "1", "2", "nan", "inf", "-inf", "1e400", "1e-400", "1e12", "9" * 400),
    *("0x10", "1_0", "true", "none", "é", "\N{GRINNING FACE}", "a\nb", "\x1b[31mred", "\udce4"),
    *(
        "../..",
        "/",
        "/dev/null",
        "/proc/self/mem",
        "a" * 300,
        "--json",
        "-",
        "*",
        "%s",
        "{}",
        "a=b",
    ),
)
FILES = (
    *("tiny.yaml", "network.json", "t.csv", "t.json", "run", "run/weights.safetensors", "m.onnx"),
    *("photos", "photos/cat/0.png", "rubbish", "empty", "folder", "nowhere", "slim"),
    *("folder:photos", "parquet:rubbish", "digits", "folder:folder", "hf:", "folder:"),
    *("demo_64px", "efficientformer_v2_s0", "cpu", "onnxruntime", "onnx", "slimmed"),
)


class Ending(NamedTuple):
    """How a line ended: its exit code, what it said, and the seconds that it took."""

    words: tuple[str, ...]
    outcome: str
    said: str
    seconds: float


GOOD = ("done", "line", "interrupted")


def main() -> None:
    """Run the lines, and print how they ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one line, to see what it prints")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        furnish(work)
        counts, bad = Counter[str](), list[Ending]()
        for number in range(given.lines) if given.only is None else [given.only]:
            words = draw_line(np.random.default_rng([given.seed, number]))
            place = Path(folder) / "place"
            shutil.copytree(work, place)
            ending = run_line(words, place)
            shutil.rmtree(place, ignore_errors=True)
            counts[ending.outcome] += 1
            if ending.outcome not in GOOD or given.only is not None:
                bad.append(ending)
                print(f"{number}: {shlex.join(ending.words)!r}: {ending.outcome}: {ending.said}")
    print(f"{sum(counts.values())} lines:", ", ".join(f"{n} {name}" for name, n in counts.items()))
    sys.exit(bool(bad) and given.only is None)


def furnish(work: Path) -> None:
    """What a user may have: a run, a table, networks, a model, pictures, and files of rubbish."""
    from PIL import Image

    from nas.deploy.export import to_onnx
    from nas.network import build as build_network
    from nas.space import SearchSpace

    work.mkdir()
    prepare(work, ["retrain"])
    for words in (train(work, work / "run"), build(work, work)):
        process = start(words)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    largest = SearchSpace.load(work / "tiny.yaml").largest()
    model = to_onnx(build_network(largest), largest.input_shape)
    (work / "m.onnx").write_bytes(model.SerializeToString())
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (work / "photos" / name).mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(256, size=(20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(work / "photos" / name / f"{number}.png")
    (work / "rubbish").write_bytes(rng.bytes(500))
    (work / "empty").write_bytes(b"")
    (work / "folder").mkdir()


class Parameter(NamedTuple):
    """An option of a command with its spellings, or an argument, which has none."""

    name: str
    options: tuple[str, ...]
    kind: object
    is_required: bool
    is_flag: bool


@cache
def parameters() -> Mapping[str, Sequence[Parameter]]:
    """The options and arguments of each command."""
    return {name: list(_parameters(name)) for name in cli.COMMANDS}


def _parameters(name: str) -> Iterator[Parameter]:
    group = typer.main.get_command(cli._application(name))
    for it in group.commands[name].params:  # type: ignore[attr-defined]
        is_option = it.param_type_name == "option"
        yield Parameter(
            it.name,
            tuple(it.opts) if is_option else (),
            it.type_descriptor.annotation,
            it.required,
            is_option and it.is_flag,
        )


def draw_line(rng: np.random.Generator) -> tuple[str, ...]:
    """A command with some of its options."""
    name = str(rng.choice(list(cli.COMMANDS)))
    groups = [
        _words(parameter, rng)
        for parameter in parameters()[name]
        if rng.random() < (0.25 if parameter.options and not parameter.is_required else 0.9)
    ]
    return (name, *(word for index in rng.permutation(len(groups)) for word in groups[index]))


def _words(parameter: Parameter, rng: np.random.Generator) -> list[str]:
    """An option with a value, or the values of an argument."""
    if not parameter.options:
        return [_value(parameter, rng) for _ in range(int(rng.integers(1, 3)))]
    option = str(rng.choice(parameter.options))
    if parameter.is_flag:
        return [option]
    if rng.random() < 0.03:  # of another command
        every = [word for of in parameters().values() for it in of for word in it.options]
        option = str(rng.choice(every))
    return [option, _value(parameter, rng)]


def _value(parameter: Parameter, rng: np.random.Generator) -> str:
    """A value that fits the parameter's type, a file of any kind, or an odd one."""
    kind = rng.random()
    if kind < 0.25:
        return str(rng.choice(ODD))
    if parameter.kind is int:
        return str(rng.integers(1, 9))
    if parameter.kind is float:
        return f"{10 ** rng.uniform(-3, 3):.3g}"
    if get_origin(parameter.kind) is Literal and kind < 0.8:
        return str(rng.choice(get_args(parameter.kind)))
    likely = _LIKELY.get(parameter.name)
    return likely if likely and kind < 0.8 else str(rng.choice(FILES))


_LIKELY = {
    "data": "folder:photos", "spec": "folder:photos", "space": "tiny.yaml", "run": "run",
    "table": "t.csv", "tables": "t.csv", "what": "tiny.yaml", "pictures": "photos/cat/0.png",
    "architecture": "network.json", "weights": "run/weights.safetensors", "model": "m.onnx",
    "files": "m.onnx", "device": "cpu", "out": "made", "folder": "run", "target_ms": "0.1",
}  # fmt: skip
"""A value of each parameter with which a command gets further than its first check."""


def run_line(words: tuple[str, ...], place: Path) -> Ending:
    """Run a line in a process of its own, in a folder."""
    said = place / "said"
    process = multiprocessing.get_context("fork").Process(target=_call, args=(words, place, said))
    begun = time.monotonic()
    process.start()
    process.join(PATIENCE)
    is_interrupted = process.is_alive()
    if is_interrupted:
        assert process.pid
        os.kill(process.pid, signal.SIGINT)
        process.join(GRACE)
    is_stuck = process.is_alive()
    if is_stuck:
        process.kill()
        process.join()
    text = said.read_text(errors="replace") if said.exists() else ""
    seconds = time.monotonic() - begun
    if is_stuck:
        return Ending(words, "stuck", text[-300:], seconds)
    outcome = judge(process.exitcode, text, is_interrupted=is_interrupted)
    return Ending(words, outcome, text[-300:], seconds)


def _call(words: tuple[str, ...], place: Path, said: Path) -> None:
    """Run the line here, as ``nas`` does; exits with its code."""
    os.chdir(place)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
    sys.argv = ["nas", *words]
    try:
        cli.main()
    finally:
        sys.stderr.flush()


def judge(code: int | None, text: str, *, is_interrupted: bool) -> str:
    """Whether an exit code and what stands on standard error are an ending for people."""
    last = (text.strip().split("\n") or [""])[-1]
    if "Traceback" in text:
        return "traceback"
    if code == 0:
        return "done"
    if is_interrupted:
        return "interrupted" if code == 130 else f"interrupted, code {code}"
    if code != 2:
        return f"code {code}"
    is_line = last.startswith("nas: ") and len(last) <= MOST_LINE and "did not foresee" not in last
    is_usage = "nas: Usage:" in text
    return "line" if is_line or is_usage else "ugly"


def load_commands() -> None:
    """Import what the commands import, once for all lines."""
    for module, _ in cli.COMMANDS.values():
        importlib.import_module(f"nas.cli.{module}")
    import nas.pipeline
    import nas.report.page  # noqa: F401


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    load_commands()
    main()
