"""The commands of all pages, run as they stand there, each page in a folder of its own.

    .venv/bin/python benchmarks/pages.py --patience 25    # three quarters of an hour
    .venv/bin/python benchmarks/pages.py --pages docs/training.md --patience 30

What a page takes as given (pictures, runs, tables, networks, hosts) is made once by ``given.py``,
small: 500 generated pictures, trainings of an epoch. A command that has used more CPU time than
``--patience`` gets Ctrl-C, and must end with exit code 130 and a line that says what is kept: it
was *begun*, and what it would have left is laid in its place. What installs something or is of
another machine is *skipped*. Exits with 1 if a command ends in another way.

``ssh:pi`` and ``ssh:phone`` are an ssh server on this machine (``sshd.py``), ``adb:0123ABCD`` is a
device that it plays (``adbd.py``). Linux only.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    it for it in (ROOT / "docs").rglob("*.md") if it.name not in ("commands.md", "architecture.md")
)
DOCUMENTS = [
    ROOT / "README.md",
    *PAGES,
    ROOT / "CONTRIBUTING.md",
    ROOT / "latency_tables/README.md",
]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHELL = ("", "sh")
"""The languages of blocks that hold commands; ``text`` is what was printed."""

SKIPPED = {
    "installs": r"^(git|pip)\b|-m (venv|pip)\b|/pip install",
    "is a developer's, in the checkout": r"^make\b|^\S*python tests/",
    "opens a window": r"^open\b",
}
"""Why commands are never run here, and what they look like."""

SERIAL = "0123ABCD"
"""Of the device that pages reach by adb."""

FOLDERS = {"python3 run.py": "bundle"}
"""Where a command runs, if not in the page's folder: a folder that it fills."""
CONTAINERS = ("runs", "latency_tables")
WALL = 4
"""Times the patience that a command may take by the clock: it may wait for others."""
GRACE = 240.0
"""Seconds in which an interrupted command must have ended."""
INTERRUPTED, OUTDATED = 130, 1
TORCHRUN_ENDED = "SignalException"
"""What torchrun itself raises at Ctrl-C, with a traceback."""
KEPT = re.compile(r"\bkept\b|\bgoes on\b|\bto continue\b")


def shell_lines(text: str) -> Iterator[str]:
    """The commands in the shell blocks of a page, without their comments, each in one line."""
    for language, block in FENCED.findall(text):
        for line in block.replace("\\\n", " ").splitlines() if language in SHELL else ():
            command = re.sub(r"(^|\s+)#.*", "", line).strip()
            if command:
                yield command


class Ending(NamedTuple):
    """How a command ended (``run``, ``begun``, ``skipped``, ``failed``), why, after which time."""

    outcome: str
    reason: str = ""
    seconds: float = 0.0


def main() -> None:
    """Run the commands, print a line for each, and how many there were of each page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=Path, nargs="+", help="some of them; by default all")
    parser.add_argument("--patience", type=float, default=90.0, help="seconds of CPU time")
    parser.add_argument("--given", type=Path, help="keep here, and take from here, what is given")
    chosen = parser.parse_args()
    from adbd import HAS_ADB, plugged_in
    from adbd import MISSING as NO_ADB
    from given import furnish
    from sshd import HAS_SSHD, serving
    from sshd import MISSING as NO_SSHD

    from nas.report.terminal import print_table

    counts: dict[Path, Counter[str]] = {}
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        if HAS_SSHD:
            home = work / "home"
            server = stack.enter_context(serving(work, hosts=("pi", "phone"), home=home))
            path = f"{Path(sys.executable).parent}:{server.path}"
            write_python(home / "nas" / "bin" / "python")
            write_python(home / "nas-python")
        else:
            print(f"commands by ssh are skipped: {NO_SSHD}")
        if HAS_ADB:
            write_adb(work / "adb", stack.enter_context(plugged_in(path)))
            path = f"{work / 'adb'}:{path}"
        else:
            print(f"commands by adb are skipped: {NO_ADB}")
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        given = (chosen.given or work / "given").resolve()
        furnish(given, environment)
        for number, page in enumerate(it.resolve() for it in chosen.pages or DOCUMENTS):
            place = Place(work / str(number), given, page, environment)
            counts[page] = Counter()
            for line in shell_lines(page.read_text()):
                reason = reason_to_skip(line, has_ssh=HAS_SSHD, has_adb=HAS_ADB)
                ending = Ending("skipped", reason) if reason else place.run(line, chosen.patience)
                counts[page][ending.outcome] += 1
                tell(page, line, ending)
            shutil.rmtree(place.folder)
    outcomes = ("run", "begun", "skipped", "failed")
    total = sum(counts.values(), Counter[str]())
    rows = [
        (name_of(page), *(str(it[name]) for name in outcomes)) for page, it in counts.items() if it
    ]
    rows.append(("all pages", *(str(total[name]) for name in outcomes)))
    print_table(("page", *outcomes), rows, title="the commands of the pages")
    sys.exit(bool(total["failed"]))


def reason_to_skip(line: str, *, has_ssh: bool = True, has_adb: bool = True) -> str:
    """Why a command cannot run here; empty if it can."""
    for reason, pattern in SKIPPED.items():
        if re.search(pattern, line):
            return reason
    if " openvino" in line and not importlib.util.find_spec("openvino"):
        return "OpenVINO is not installed here"
    if re.search(r"\bssh\b", line) and not has_ssh:
        return "no ssh server here"
    if re.search(r"\badb\b", line) and not has_adb:
        return "no adb here"
    cores = re.search(r"--cores \d+-(\d+)", line)
    if cores and int(cores[1]) not in os.sched_getaffinity(0):
        return "this machine has no such core"
    return ""


@dataclass(frozen=True)
class Place:
    """The folder of a page, to which is brought what its commands take as given."""

    folder: Path
    given: Path
    page: Path
    environment: dict[str, str]

    def __post_init__(self) -> None:
        for name in CONTAINERS:
            (self.folder / name).mkdir(parents=True)
        for name in (".venv", "venv"):
            (self.folder / name).symlink_to(sys.prefix)
        write_shown_files(self.page, self.folder)

    def run(self, line: str, patience: float) -> Ending:
        """Run a command; one that was not finished leaves no trace."""
        for path in inputs_of(line):
            self._lay(path)
        before = set(self._files())
        started = time.monotonic()
        output = self.folder / "printed"
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", line],
                stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                cwd=self.folder / FOLDERS.get(line, ""), env=self.environment,
                start_new_session=True, preexec_fn=hear_ctrl_c,  # noqa: PLW1509 - one thread
            )  # fmt: skip
            try:
                is_begun = watch(process, patience)
            finally:
                end(process)
        is_begun = is_begun and process.returncode != 0  # it may have been done just then
        seconds, text = time.monotonic() - started, output.read_text(errors="replace")
        if is_begun:
            self._take_away(set(self._files()) - before, FOLDERS.get(line))
        outcome = judge(line, process.returncode, text, is_begun=is_begun)
        reason = f"{text}\nexit code {process.returncode}" if outcome == "failed" else ""
        return Ending(outcome, reason, seconds)

    def _lay(self, path: Path) -> None:
        """Bring a file or folder that is given and not there, with all of its parts."""
        sources = [self.given / it for it in (self.page.stem, "all", "pictures")]
        missing = next((it for it in reversed([path, *path.parents]) if self._lacks(it)), None)
        source = next((it / missing for it in sources if missing and (it / path).exists()), None)
        if missing is None or source is None:
            return
        if source.is_dir():
            shutil.copytree(source, self.folder / missing)
        else:  # of a table, what lies beside it
            for file in source.parent.glob(f"{source.stem}.*"):
                shutil.copy(file, (self.folder / missing).parent)

    def _lacks(self, path: Path) -> bool:
        return not (self.folder / path).exists()

    def _files(self) -> Iterator[Path]:
        for folder, names, files in os.walk(self.folder):
            names[:] = [it for it in names if not Path(folder, it).is_symlink()]
            yield from (Path(folder, it) for it in files if it != "printed")

    def _take_away(self, files: Collection[Path], folder: str | None) -> None:
        """Remove files with the folders that they leave empty, or the whole folder."""
        for path in files:
            path.unlink()
        if folder:
            shutil.rmtree(self.folder / folder)
        for place, _, _ in os.walk(self.folder, topdown=False):
            if Path(place).name not in CONTAINERS:
                with suppress(OSError):
                    Path(place).rmdir()


def write_shown_files(page: Path, folder: Path) -> None:
    """Write what a page shows: a space by its name, its block as the space calls it."""
    blocks = FENCED.findall(page.read_text())
    code = "".join(it for language, it in blocks if language == "python")
    for space in (it for language, it in blocks if language == "yaml"):
        for name in re.findall(r"^name: (\w+)$", space, re.MULTILINE):
            (folder / f"{name}.yaml").write_text(space)
        for name in re.findall(r"^blocks: \[(\S+)\]$", space, re.MULTILINE):
            (folder / name).write_text(code)


def inputs_of(line: str) -> Iterator[Path]:
    """Paths that a command may read: all of its words but those it writes to, without patterns."""
    words = shlex.split(line)
    writes = {"--out"} | ({"--run"} if {"train-supernet", "retrain"} & set(words) else set())
    first = 2 if words[0] == "nas" else 0  # nas bundle reads no folder of that name
    for before, word in itertools.islice(zip(["", *words], words, strict=False), first, None):
        if before in writes or word.startswith(("-", "/")):
            continue
        for part in re.split(r"[:=,]", word):
            yield Path(part.partition("*")[0])
    if {"slim", "search"} & set(words) and "--table" not in words:
        yield Path("latency_tables/mobile_64px_cpu.csv")


def hear_ctrl_c() -> None:
    """Undo what a shell does to its background jobs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def watch(process: subprocess.Popen[bytes], patience: float) -> bool:
    """Wait for the end of a command; press Ctrl-C where it takes too long. Whether it did."""
    started = time.monotonic()
    while process.poll() is None:
        if cpu_seconds(process.pid) > patience or time.monotonic() - started > WALL * patience:
            os.killpg(process.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            return True
        time.sleep(0.2)
    return False


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a command, with all that it has started, if it is still there."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def cpu_seconds(pid: int) -> float:
    """What a process and all that it has started have used, whatever their sessions."""
    ticks, started = dict[int, int](), dict[int, list[int]]()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            started.setdefault(int(fields[1]), []).append(int(stat.parent.name))
            ticks[int(stat.parent.name)] = sum(map(int, fields[11:15]))
    found = [pid]
    for process in found:
        found += started.get(process, [])
    return sum(ticks.get(it, 0) for it in found) / os.sysconf("SC_CLK_TCK")


def judge(line: str, code: int, text: str, *, is_begun: bool) -> str:
    """What an exit code and all that was printed say of a command."""
    if is_begun and line.startswith("torchrun"):
        return "begun" if TORCHRUN_ENDED in text else "failed"
    if "Traceback" in text:
        return "failed"
    if is_begun and code == -signal.SIGINT:
        return "run"  # it was done: Python itself was ending, which no longer hears Ctrl-C
    if is_begun:
        last = (text.strip().splitlines() or [""])[-1]
        return "begun" if code == INTERRUPTED and KEPT.search(last) else "failed"
    is_answer = code == OUTDATED and "check-lut" in line and "nas build-lut" in text
    return "run" if code == 0 or is_answer else "failed"


def tell(page: Path, line: str, ending: Ending) -> None:
    """One line for a command; what it printed last where it failed."""
    told = f"{ending.seconds:.1f} s" if ending.seconds else ending.reason
    print(f"{name_of(page)}: {ending.outcome} ({told}): {line}", flush=True)
    if ending.outcome == "failed":
        print(*(f"    {it}" for it in ending.reason.strip().splitlines()[-12:]), sep="\n")


def name_of(page: Path) -> str:
    """Its place in the checkout."""
    return str(page.relative_to(ROOT))


def write_adb(folder: Path, serial: str) -> None:
    """An ``adb`` that knows a device by the serial of the pages, and by its own."""
    folder.mkdir()
    real, file = shutil.which("adb"), folder / "adb"
    file.write_text(
        "#!/bin/bash\n"
        f'for word; do shift; [ "$word" = {SERIAL} ] && word={serial}; set -- "$@" "$word"; done\n'
        f'exec {real} "$@"\n'
    )
    file.chmod(0o755)


def write_python(file: Path) -> None:
    """A program that is this Python with its packages, wherever it lies."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    file.chmod(0o755)


if __name__ == "__main__":
    main()
