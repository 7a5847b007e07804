"""What kills and full disks leave behind: commands are stopped, go on, and are compared.

    .venv/bin/python benchmarks/kills.py --kills 20                         # about two hours
    .venv/bin/python benchmarks/kills.py --kills 5 --commands train retrain  # a few minutes

Each command runs once undisturbed, on digits and a space of 36 networks. Then it is killed with a
kill -9 at moments spread over its whole run, most of them after its first saved state, and goes on
with --resume (``search``: the same command again; where nothing was saved: the command with
--force). Then its folder lies on a disk (a small tmpfs, where this user may mount one, or a limit
for the size of each file) that is full at ten places; afterwards there is room, and it goes on.

| command | what runs | afterwards |
|---|---|---|
| build | ``build-lut`` | the visits before begin the finished journal; the table is whole |
| train | ``train-supernet``, four epochs | checkpoint and log are the same, bit for bit |
| slim | ``slim`` to a number of parameters | network, weights, walk: the same, bit for bit |
| search | ``search``, eight trials | what was evaluated is kept, none twice; a result |
| retrain | ``retrain``, four epochs | weights, checkpoint, log: the same, bit for bit |
| run | ``run``, two epochs each, behind its table | weights, walk: the same, bit for bit |

After each no lock and no file that was half written is left, every failure was one line and exit
code 2, and the exit code of what goes on is 0. Exits with 1 if one of these does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from safetensors import safe_open

from nas.firstrun.begin import begin, measure_alone
from nas.firstrun.estimate import Effort
from nas.firstrun.layout import JOURNAL
from nas.firstrun.request import Request
from nas.firstrun.schedule import Schedule, schedule_of
from nas.latency.table import LatencyTable
from nas.progress import Progress
from nas.report.terminal import print_table
from nas.search.study import EVALUATED

SPACE = """\
name: tiny
input_size: 16
classes: 10
stem: {kind: conv_stem}
stages:
  - width: [8, 16, 24]
    blocks:
      - ffn: [identity, {kind: conv_ffn, expansion: [1, 2]}]
  - width: [16, 24]
    downsample: {kind: conv_downsample}
    blocks:
      - ffn: {kind: conv_ffn, expansion: [1, 2]}
head: {kind: classifier}
"""
PLACES = 10
"""At which a disk is full."""
RUN_TARGET_MS = 50.0
"""Each network of the space meets it: what is measured decides nothing."""
BEFORE_STATE = 4
"""One of so many kills comes before the first saved state."""
CHANGING = ("images_per_second", "check")
"""The numbers in a log that are no result, and the checksum over them."""

Digest = Mapping[str, object]


def main() -> None:
    """Stop each command, let it go on, and print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=5, help="of each command")
    parser.add_argument("--places", type=int, default=PLACES, help="at which a disk is full")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    arguments = parser.parse_args()
    rows, failures = [], list[str]()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(work, arguments.commands)
        for name in arguments.commands:
            trial = Trial(COMMANDS[name], work)
            for number in range(arguments.kills):
                trial.kill(number, arguments.kills)
            for number in range(arguments.places):
                share = (number + 0.5) / arguments.places
                trial.fill(share**2)  # pages come last, and are large
            rows.append(trial.row(name))
            failures += [f"{name}: {failure}" for failure in trial.failures]
            print(rows[-1], flush=True)
    print_table(COLUMNS, rows, title="kills and full disks")
    print(*failures, sep="\n")
    sys.exit(bool(failures))


@dataclass(frozen=True)
class Command:
    """A command in a folder, and how it goes on; ``state`` is the first file that it saves."""

    words: Callable[[Path, Path], list[str]]
    resume: tuple[str, ...]
    state: str
    digest: Callable[[Path], Digest]
    continues: Callable[[Path, Digest], bool] = lambda there, before: True
    """Whether what was there ``before`` it went on is there still; see ``saved``."""
    saved: Callable[[Path], Digest] = lambda there: {}
    given: str = ""
    """The folder of the work that it begins with a copy of."""


COLUMNS = ("command", "seconds", "kills", "went on", "anew", "places", "full", "same", "failures")


@dataclass
class Trial:
    """A command, its undisturbed run, and what its disturbed ones came to."""

    command: Command
    work: Path
    failures: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        there = self._fresh()
        self.given_bytes = size_of(there)
        begun, saved = time.monotonic(), 0.0
        process = start(self.command.words(self.work, there))
        while process.poll() is None:
            if not saved and (there / self.command.state).exists():
                saved = time.monotonic() - begun
            time.sleep(0.01)
        assert process.returncode == 0, process.communicate()
        self.seconds, self.first_state = time.monotonic() - begun, saved
        self.expected = self.command.digest(there)
        self.bytes = size_of(there) - self.given_bytes

    def kill(self, number: int, kills: int) -> None:
        """Kill the command at one of ``kills`` moments, and let it go on."""
        there = self._fresh()
        process = start(self.command.words(self.work, there))
        early = -(-kills // BEFORE_STATE)
        if number < early:
            time.sleep(self.first_state * (number + 0.5) / early)
        else:
            while process.poll() is None and not (there / self.command.state).exists():
                time.sleep(0.005)
            share = (number - early + 0.5) / (kills - early)
            time.sleep(share * (self.seconds - self.first_state))
        process.kill()
        process.communicate()
        self.counts["kills"] += process.returncode == -signal.SIGKILL
        self._go_on(there, f"kill {number + 1} of {kills}")

    def fill(self, share: float) -> None:
        """Run the command where a share of what it needs has room, make room, and let it go on."""
        there = self._fresh()
        there.mkdir(exist_ok=True)
        where = f"disk full at {share:.0%}"
        with small_disk(there, self.given_bytes + round(share * self.bytes)) as disk:
            self._give(there)
            process = start(self.command.words(self.work, there), disk.limit)
            _, errors = process.communicate()
            self.counts["places"] += 1
            if process.returncode:
                self.counts["full"] += 1
                self._require_line(process.returncode, errors, where)
            disk.make_room()
            self._go_on(there, where, is_done=not process.returncode)

    def row(self, name: str) -> tuple[str, ...]:
        """The counts for the table; ``anew``: nothing was saved."""
        counts = (self.counts[it] for it in ("kills", "went on", "anew", "places", "full", "same"))
        return (name, f"{self.seconds:.1f}", *map(str, counts), str(len(self.failures)))

    def _go_on(self, there: Path, where: str, *, is_done: bool = False) -> None:
        before = self.command.saved(there)
        words = self.command.words(self.work, there)
        if not is_done:
            process = start([*words, *self.command.resume])
            _, errors = process.communicate()
            if process.returncode:
                self._require_line(process.returncode, errors, where)
                self.counts["anew"] += 1
                process = start([*words, "--force"])
                _, errors = process.communicate()
                before = {}
            else:
                self.counts["went on"] += 1
            if process.returncode:
                self.failures.append(f"{where}: does not go on: {errors.strip()[-200:]}")
                return
        found = self.command.digest(there)
        if found != self.expected:
            differs = [name for name in self.expected if found.get(name) != self.expected[name]]
            self.failures.append(f"{where}: other results: {', '.join(differs)}")
        elif not self.command.continues(there, before):
            self.failures.append(f"{where}: what was saved before is not there")
        else:
            self.counts["same"] += 1
        left = [it.name for it in there.rglob("*") if it.name.endswith(("partial", "lock"))]
        if left:
            self.failures.append(f"{where}: left behind: {', '.join(left)}")

    def _require_line(self, code: int, errors: str, where: str) -> None:
        last = errors.strip().splitlines()[-1:]
        if code != 2 or "Traceback" in errors or not (last and last[0].startswith("nas: ")):
            self.failures.append(f"{where}: exit code {code}: {errors.strip()[-200:]}")

    def _fresh(self) -> Path:
        there = self.work / "there"
        shutil.rmtree(there, ignore_errors=True)
        self._give(there)
        return there

    def _give(self, there: Path) -> None:
        if self.command.given:
            shutil.copytree(self.work / self.command.given, there, dirs_exist_ok=True)


@dataclass
class Disk:
    """A folder with little room."""

    mounted: Path | None
    bytes: int

    def limit(self) -> None:
        """Limit the files of this process, where no disk is mounted."""
        if not self.mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.bytes, resource.RLIM_INFINITY))

    def make_room(self) -> None:
        if self.mounted:
            subprocess.run(
                ["mount", "-o", "remount,size=1g", self.mounted], check=True
            )  # fmt: skip


@contextmanager
def small_disk(there: Path, size: int) -> Iterator[Disk]:
    """A tmpfs of so many bytes at a folder, or a limit where this user may not mount one."""
    size = max(size, 4096)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(there)]
    is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield Disk(there if is_mounted else None, size)
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", there], check=True)


def size_of(folder: Path) -> int:
    """Bytes of all its files, in whole pages of a disk."""
    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    return sum(-(-size // 4096) * 4096 for size in sizes)


def start(words: Sequence[str], prepare: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    """A process of ``nas`` with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "nas", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment,
        preexec_fn=prepare,  # noqa: PLW1509 - it has one thread
    )  # fmt: skip


def prepare(work: Path, commands: Sequence[str]) -> None:
    """Write the space, and the run and the table that searches need."""
    (work / "tiny.yaml").write_text(SPACE)
    if {"slim", "search"} & set(commands):
        for words in (train(work, work / "run"), build(work, work)):
            process = start(words)
            _, errors = process.communicate()
            assert process.returncode == 0, errors
    if "retrain" in commands:
        from nas.space import SearchSpace

        space = SearchSpace.load(work / "tiny.yaml")
        space.largest().save(work / "network.json")
    if "run" in commands:
        begin(run_request(work), work / "whole", brief_plan)
        process = start(whole(work, work / "whole"))
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        (work / "begun").mkdir()
        for file in (work / "whole").iterdir():  # its plan and its table
            if file.is_file() and file.name != JOURNAL:
                shutil.copy(file, work / "begun")
        lines = (work / "whole" / JOURNAL).read_bytes().splitlines(keepends=True)
        (work / "begun" / JOURNAL).write_bytes(b"".join(lines[:2]))


def build(work: Path, there: Path) -> list[str]:
    """A quick table of the space."""
    words = ["build-lut", "--space", f"{work}/tiny.yaml", "--quick"]
    return [*words, "--out", f"{there}/t.csv"]


def train(work: Path, there: Path) -> list[str]:
    """A supernet on a part of the digits."""
    words = ["train-supernet", "--space", f"{work}/tiny.yaml", "--run", str(there)]
    return [*words, "--limit", "300", "--epochs", "4"]


def slim(work: Path, there: Path) -> list[str]:
    """A search whose choices depend on no latency."""
    words = ["slim", "--run", f"{work}/run", "--table", f"{work}/t.csv", "--accept-table"]
    return [*words, "--target-params", "3500", "--evaluations", "8", "--out", str(there)]


def search(work: Path, there: Path) -> list[str]:
    """A study by one worker."""
    words = ["search", "--run", f"{work}/run", "--table", f"{work}/t.csv", "--accept-table"]
    return [*words, "--target-params", "5000", "--trials", "8", "--out", str(there)]


def retrain(work: Path, there: Path) -> list[str]:
    """The largest network of the space, alone."""
    words = ["retrain", "--architecture", f"{work}/network.json", "--run", str(there)]
    return [*words, "--limit", "300", "--epochs", "4"]


def whole(work: Path, there: Path) -> list[str]:
    """Everything by one command."""
    words = ["run", "--data", "digits", "--space", f"{work}/tiny.yaml"]
    return [*words, "--target-ms", f"{RUN_TARGET_MS:g}", "--out", str(there)]


def run_request(work: Path) -> Request:
    """What ``whole`` asks for."""
    return Request(data="digits", space=f"{work}/tiny.yaml", target_ms=RUN_TARGET_MS)


def brief_plan(request: Request, _: Progress) -> Schedule:
    """A plan of few epochs."""
    data, place, device = measure_alone(request, 0.25)
    effort = Effort(epochs=2, evaluations=8, retraining_epochs=2)
    return schedule_of(data, place, effort, target_ms=RUN_TARGET_MS, training_device=device)


def of_run(there: Path) -> Digest:
    """What it delivers, but the latencies that it measures on the way."""
    files = ("slim/trace.jsonl", "run/checkpoint.safetensors", "retrained/weights.safetensors")
    found: dict[str, object] = {name: (there / name).read_bytes() for name in files}
    return {**found, "stages": [it["stage"] for it in stages(there).values()]}


def stages(there: Path) -> dict[str, dict[str, object]]:
    """The finished stages of a run, by their place."""
    file = there / JOURNAL
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    return {str(place): json.loads(line) for place, line in enumerate(lines)}


def of_training(there: Path) -> Digest:
    """What a training leaves, but the speeds in its log."""
    files = {file.name: file.read_bytes() for file in there.glob("*.safetensors")}
    files.pop("previous.safetensors")
    log = [
        {name: it for name, it in json.loads(line).items() if name not in CHANGING}
        for line in (there / "log.jsonl").read_text().splitlines()
    ]
    return {**files, "log": log}


def of_slimming(there: Path) -> Digest:
    """What a search leaves that depends on no latency."""
    files = ("architecture.json", "trace.jsonl", "frontier.csv")
    found: dict[str, object] = {name: (there / name).read_bytes() for name in files}
    with safe_open(there / "weights.safetensors", "numpy") as weights:
        found |= {name: weights.get_tensor(name).tobytes() for name in weights.keys()}  # noqa: SIM118
        told = weights.metadata()
    return {**found, **{name: text for name, text in told.items() if name != "measured"}}


def of_search(there: Path) -> Digest:
    """How many networks were evaluated, and whether one was delivered."""
    evaluated = list(trials(there).values())
    has_result = (there / "result.json").exists() and (there / "weights.safetensors").exists()
    return {"evaluated": len(evaluated), "once": len(set(evaluated)), "result": has_result}


def trials(there: Path) -> dict[str, object]:
    """The evaluated trials of a study: networks and accuracies, by their numbers."""
    file = there / "study.log"
    if not file.exists() or not file.read_bytes().count(b"\n"):
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    whole = there.parent / "copy of study.log"
    content = file.read_bytes()
    whole.write_bytes(content[: content.rindex(b"\n") + 1])
    storage = JournalStorage(JournalFileBackend(str(whole)))
    if not storage.get_all_studies():
        return {}
    study = optuna.load_study(study_name="tiny", storage=storage)
    return {
        str(it.number): (tuple(it.params.items()), tuple(it.values))
        for it in study.trials
        if it.user_attrs.get(EVALUATED) and it.values
    }


def of_build(there: Path) -> Digest:
    """What a table holds whatever the machine was like."""
    table = LatencyTable.load(there / "t.csv")
    return {"layers": len(table.rows), "validated": table.validation is not None}


def visits(there: Path) -> dict[str, object]:
    """The whole lines of a build's journal by their numbers."""
    file = there / "t.visits.jsonl"
    if not file.exists():
        return {}
    lines = file.read_bytes().split(b"\n")[:-1]
    return {str(number): line for number, line in enumerate(lines)}


COMMANDS = {
    "build": Command(
        build, ("--resume",), "t.visits.jsonl", of_build,
        lambda there, before: before.items() <= visits(there).items(), visits,
    ),
    "train": Command(train, ("--resume",), "checkpoint.safetensors", of_training),
    "slim": Command(slim, ("--resume",), "journal.jsonl", of_slimming),
    "search": Command(
        search, (), "study.log", of_search,
        lambda there, before: before.items() <= trials(there).items(), trials,
    ),
    "retrain": Command(retrain, ("--resume",), "checkpoint.safetensors", of_training),
    "run": Command(
        whole, (), "run/checkpoint.safetensors", of_run,
        lambda there, before: before.items() <= stages(there).items(), stages, given="begun",
    ),
}  # fmt: skip


if __name__ == "__main__":
    main()
