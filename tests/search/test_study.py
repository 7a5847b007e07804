import json
import subprocess
import sys
import threading
import time
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from optuna.distributions import IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import Trial, TrialState

from nas.errors import UserError
from nas.search.problem import Problem
from nas.search.study import Pulse, evaluated_in, make_sampler, open_study, work

SIZES = (3, 4, 2, 3)

WORKER = """
import sys, time
import numpy as np
from nas.search.problem import Problem
from nas.search.study import Pulse, make_sampler, open_study, work

storage, log, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])

def accuracy(one):
    with open(log, "a") as file:
        file.write(f"{one}\\n")
    time.sleep(seconds)
    return sum(one) / 10

problem = Problem(
    (3, 4, 2, 3), lambda one: {"latency_ms": 1.0 + sum(one)}, accuracy, {"latency_ms": 7.0}
)
work(
    open_study(storage, "study", subject="sums"), problem,
    sampler=make_sampler("nsga2", None), evaluations=24, rng=np.random.default_rng(),
    pulse=Pulse(0.1, 60.0),
)
"""


def problem(accuracy=lambda one: sum(one) / 10):
    return Problem(SIZES, lambda one: {"latency_ms": 1.0 + sum(one)}, accuracy, {"latency_ms": 7.0})


def worked(study, accuracy=lambda one: sum(one) / 10, sampler="nsga2", evaluations=24, **settings):
    work(
        study, problem(accuracy), sampler=make_sampler(sampler, 0), evaluations=evaluations,
        rng=np.random.default_rng(0), **settings,
    )  # fmt: skip
    return evaluated_in(study.get_trials(), problem())


def worker(tmp_path, seconds):
    """A real process that works on the study of the folder, and the file of what it evaluated."""
    log = tmp_path / f"log{time.monotonic_ns()}"
    log.touch()
    arguments = [str(tmp_path / "journal"), str(log), str(seconds)]
    return subprocess.Popen([sys.executable, "-c", WORKER, *arguments]), log


@pytest.mark.parametrize("sampler", ["nsga2", "tpe", "random"])
def test_every_sampler_spends_its_evaluations_within_the_bounds(sampler):
    asked = []
    study = open_study(None, "study", subject="sums")
    found = worked(study, lambda one: asked.append(one) or 0.5, sampler)
    assert list(found) == asked
    assert len(asked) == 24
    assert all(sum(one) <= 6 for one in asked)


def test_a_study_of_few_networks_ends_when_all_are_evaluated():
    tiny = Problem(
        (2, 2), lambda one: {"latency_ms": 1.0 + sum(one)}, lambda one: 0.0, {"latency_ms": 3.0}
    )
    study = open_study(None, "study", subject="sums")
    work(
        study, tiny, sampler=make_sampler("random", 0), evaluations=6,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    assert set(evaluated_in(study.get_trials(), tiny)) == {(0, 0), (0, 1), (1, 0), (1, 1)}


@pytest.mark.parametrize("scheme", ["", "sqlite:///"])
def test_a_study_goes_on_where_its_storage_stands(tmp_path, scheme):
    storage = f"{scheme}{tmp_path / 'study'}"
    worked(open_study(storage, "study", subject="sums"), evaluations=4)
    asked = []
    again = open_study(storage, "study", subject="sums")
    found = worked(again, lambda one: asked.append(one) or 0.5, evaluations=6)
    assert len(asked) == 2
    assert len(found) == 6


def test_two_processes_make_the_evaluations_of_one(tmp_path):
    workers = [worker(tmp_path, 0.05) for _ in range(2)]
    codes = [process.wait() for process, _ in workers]
    assert codes == [0, 0]
    logs = [log.read_text().splitlines() for _, log in workers]
    assert all(logs)
    assert len({*logs[0], *logs[1]}) == len(logs[0]) + len(logs[1]) == 24


def test_what_a_killed_process_was_at_is_evaluated_by_another(tmp_path):
    process, log = worker(tmp_path, 60)
    while process.poll() is None and not log.read_text().endswith("\n"):
        time.sleep(0.05)
    process.kill()
    process.wait()
    study = open_study(str(tmp_path / "journal"), "study", subject="sums")
    found = worked(study, pulse=Pulse(0.1, 0.5))
    assert len(found) == 24
    assert eval(log.read_text()) in found


@pytest.mark.parametrize("chosen", range(len(SIZES)))
def test_a_process_killed_while_it_chooses_leaves_nothing_to_evaluate(tmp_path, chosen):
    storage = str(tmp_path / "journal")
    study = open_study(storage, "study", subject="sums")
    trial = study.ask()  # never told: its process is gone
    for choice in range(chosen):
        trial.suggest_int(str(choice), 0, SIZES[choice] - 1)
    survivor = open_study(storage, "study", subject="sums")
    found = worked(survivor, evaluations=6, pulse=Pulse(0.1, 0.1))
    assert len(found) == 6
    assert not [it for it in survivor.get_trials() if it.state is TrialState.RUNNING]


def test_a_slow_worker_is_not_taken_for_a_dead_one(tmp_path):
    storage = str(tmp_path / "journal")
    open_study(storage, "study", subject="sums")
    asked = []
    begun = threading.Event()

    def slow(one):
        asked.append(one)
        begun.set()
        time.sleep(1)
        return 0.5

    settings = {"evaluations": 2, "pulse": Pulse(0.02, 0.3)}
    thread = threading.Thread(
        target=worked, args=(open_study(storage, "study", subject="sums"), slow), kwargs=settings
    )
    thread.start()
    begun.wait(30)
    worked(open_study(storage, "study", subject="sums"), slow, **settings)
    thread.join()
    assert len(asked) == len(set(asked)) == 2


def test_a_worker_that_chooses_slowly_does_not_repeat_what_another_evaluates(tmp_path):
    storage = str(tmp_path / "journal")
    asked, evaluating, evaluated_twice = [], threading.Event(), threading.Event()

    class Slow(RandomSampler):
        def before_trial(self, study, trial):  # noqa: ARG002
            evaluating.wait(10)  # the trial has its number, and has chosen nothing so far

    def accuracy(one):
        (evaluated_twice if one in asked else evaluating).set()
        asked.append(one)
        evaluated_twice.wait(1)
        return 0.5

    def start(sampler):
        proposals = iter([(1, 1, 1, 1), *product(*map(range, SIZES))])
        settings = {"rng": np.random.default_rng(0), "first": lambda: next(proposals)}
        study = open_study(storage, "study", subject="sums")
        thread = threading.Thread(
            target=work,
            args=(study, problem(accuracy)),
            kwargs={"sampler": sampler, "evaluations": 3, **settings},
        )
        thread.start()
        while not study.get_trials(deepcopy=False):
            time.sleep(0.01)
        return thread

    threads = [start(sampler) for sampler in (Slow(), RandomSampler())]
    for thread in threads:
        thread.join()
    assert len(asked) == len(set(asked)) == 3


def test_two_workers_that_choose_the_same_at_once_do_not_evaluate_it_twice(monkeypatch):
    study = open_study(None, "study", subject="sums")
    chosen = (1, 1, 1, 1)
    slow = study.ask()  # of a worker that has its number, and has chosen nothing so far
    unpulsed = Trial.set_user_attr
    evaluated_by_both = []

    def pulsed(trial, name, value):
        """The slow worker chooses, and finds no pulse, between the other's look and its pulse."""
        if name == "pulse" and not study.get_trials(deepcopy=False)[slow.number].params:
            for choice, size in enumerate(SIZES):
                slow.storage.set_trial_param(
                    slow._trial_id, str(choice), chosen[choice], IntDistribution(0, size - 1)
                )
        unpulsed(trial, name, value)

    def accuracy(one):
        if one == chosen and not study.get_trials(deepcopy=False)[slow.number].state.is_finished():
            evaluated_by_both.append(one)
        return 0.5

    monkeypatch.setattr(Trial, "set_user_attr", pulsed)
    found = worked(
        study, accuracy, "random", evaluations=6, first=lambda: chosen, pulse=Pulse(0.1, 0.5)
    )
    assert not evaluated_by_both
    assert chosen in found


def test_an_interrupted_evaluation_leaves_no_trial_running():
    study = open_study(None, "study", subject="sums")

    def interrupted(one):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worked(study, interrupted)
    assert [trial.state.name for trial in study.get_trials()] == ["FAIL"]


def test_a_storage_holds_a_study_of_one_subject(tmp_path):
    storage = str(tmp_path / "journal")
    open_study(storage, "study", subject="a run to 2 ms")
    with pytest.raises(UserError, match="its study 'study' is about a run to 2 ms, not one to 3"):
        open_study(storage, "study", subject="one to 3 ms")


@pytest.mark.parametrize("storage", ["nonsense://x", "sqlite:////no/such/folder/study"])
def test_a_storage_that_cannot_be_opened_is_one_line(storage):
    with pytest.raises(UserError, match=r"cannot be opened as a storage: [^\n]+$"):
        open_study(storage, "study", subject="sums")


def test_the_lock_of_a_killed_worker_blocks_nobody(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    worked(open_study("journal", "study", subject="sums"), evaluations=2)
    Path("journal.lock").symlink_to("journal")  # what version 0.1 left on a relative path
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, cwd=tmp_path
    )  # fmt: skip
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.kill()
        holder.wait()
    assert len(worked(open_study("journal", "study", subject="sums"), evaluations=4)) == 4
    assert sorted(it.name for it in tmp_path.iterdir()) == ["journal"]


HOLDER = """
import sys
from pathlib import Path
from nas.search.storage import JournalFile
with JournalFile(Path("journal"))._locked():
    print(flush=True)
    sys.stdin.read()
"""


def test_half_a_line_is_cut_before_the_next_is_written(tmp_path):
    storage = tmp_path / "journal"
    worked(open_study(str(storage), "study", subject="sums"), evaluations=2)
    whole = storage.read_bytes()
    for end in (b'{"op_code":', b"x" * 10_000, b"\x80"):
        storage.write_bytes(whole + end)
        open_study(str(storage), "study", subject="sums")
        found = storage.read_bytes()
        assert found.startswith(whole)
        assert all(json.loads(line) for line in found.splitlines())
    storage.write_bytes(whole + b"{")
    assert len(worked(open_study(str(storage), "study", subject="sums"), evaluations=4)) == 4


def test_a_full_disk_is_one_line_and_the_study_goes_on(tmp_path, files_limited):
    storage = tmp_path / "journal"
    study = open_study(str(storage), "study", subject="sums")
    worked(study, evaluations=2)
    for spare in range(0, 400, 80):
        with (
            pytest.raises(UserError, match="journal: cannot be written: ") as error,
            files_limited(storage.stat().st_size + spare),
        ):
            worked(study, evaluations=24)
        assert "\n" not in str(error.value)
        assert storage.read_bytes().endswith(b"\n")
    again = open_study(str(storage), "study", subject="sums")
    assert len(worked(again, pulse=Pulse(0.05, 0.1))) == 24


@pytest.mark.parametrize("accuracy", [7.0, -1.0, float("inf")])
def test_an_accuracy_that_no_worker_writes_is_one_line(accuracy):
    study = open_study(None, "study", subject="sums")
    worked(study, evaluations=2)
    trial = study.ask()
    for choice, size in enumerate(SIZES):
        trial.suggest_int(str(choice), 0, size - 1)
    trial.set_user_attr("evaluated", True)
    study.tell(trial, [accuracy, 1.0])
    with pytest.raises(
        UserError, match=r"trial \d+ of the study: accuracy must be from 0 to 1, got"
    ):
        evaluated_in(study.get_trials(), problem())


def test_options_that_no_worker_writes_are_one_line():
    study = open_study(None, "study", subject="sums")
    trial = study.ask()
    for choice, size in enumerate(SIZES):
        trial.suggest_int(str(choice), size, size)
    trial.set_user_attr("evaluated", True)
    study.tell(trial, [0.5, 1.0])
    with pytest.raises(UserError, match="its options must be whole numbers below 3, 4, 2, 3, got"):
        worked(study, evaluations=4)
