"""Whether two processes on one study do the work of one in half the time, and survive a kill.

    .venv/bin/python benchmarks/workers.py --run runs/R --table T.csv    # 10 to 20 minutes

``nas search`` on a trained run, by one process and by two in turn, each pair from another seed, as
the networks that a search comes by are not equally large; then by two of which one is killed with a
kill -9 in the middle; each to the same number of trials. The time is that from the beginning of the
first trial to the end of the last. Two cores, a thread each.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import optuna

from nas.report.terminal import print_table
from nas.search.study import EVALUATED
from nas.slim.search import STORAGE

Trials = list[optuna.trial.FrozenTrial]


def main() -> None:
    """Run the searches, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--target-ms", default="2.0")
    parser.add_argument("--trials", type=int, default=100, help="by default the command's own")
    parser.add_argument("--repeats", type=int, default=4)
    arguments = parser.parse_args()
    rows = []
    seconds: dict[str, list[float]] = {}
    searches = [("one", 1, False), ("two", 2, False)] * arguments.repeats
    for index, (name, workers, kill) in enumerate([*searches, ("two, a kill", 2, True)]):
        with tempfile.TemporaryDirectory() as folder:
            trials = search(arguments, Path(folder) / "s", workers, index // 2, kill=kill)
        done = evaluated(trials)
        started = min(it.datetime_start for it in trials if it.datetime_start)
        ended = max(it.datetime_complete for it in done if it.datetime_complete)
        seconds.setdefault(name, []).append((ended - started).total_seconds())
        rows.append(
            (
                *(name, f"{seconds[name][-1]:.1f}", str(len(done))),
                str(len({str(it.params) for it in done})),
                str(sum(it.state is optuna.trial.TrialState.RUNNING for it in trials)),
            )
        )
    print_table(("processes", "seconds", "trials", "of them different", "left running"), rows)
    ratio = statistics.median(seconds["two"]) / statistics.median(seconds["one"])
    print(f"two processes take {ratio:.2f} of one's time (bar 0.6)")


def search(
    arguments: argparse.Namespace, out: Path, workers: int, seed: int, *, kill: bool
) -> Trials:
    """The trials of a study that so many processes make; the first of them draws by ``seed``."""
    command = [
        *(sys.executable, "-m", "nas", "search", "--run", str(arguments.run)),
        *("--table", str(arguments.table), "--target-ms", arguments.target_ms),
        *("--trials", str(arguments.trials), "--seed", str(seed), "--out", str(out)),
        *("--accept-table", "--json"),
    ]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(workers)]
    if kill:
        while len(evaluated(trials_of(out))) < arguments.trials // 2:
            time.sleep(0.2)
        os.kill(processes.pop().pid, signal.SIGKILL)
    for process in processes:
        process.wait()
    return trials_of(out)


def trials_of(out: Path) -> Trials:
    """All trials of the study in a folder."""
    if not (out / STORAGE).exists():
        return []
    backend = optuna.storages.journal.JournalFileBackend(str(out / STORAGE))
    storage = optuna.storages.JournalStorage(backend)
    studies = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=studies[0], storage=storage).trials if studies else []


def evaluated(trials: Sequence[optuna.trial.FrozenTrial]) -> Trials:
    """Those that cost an evaluation."""
    return [it for it in trials if it.user_attrs.get(EVALUATED) and it.values]


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    main()
