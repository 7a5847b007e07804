from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from nas.errors import UserError
from nas.store.lock import hold_lock

HOLDER = """
import os, sys
from pathlib import Path
from nas.store.lock import hold_lock
with hold_lock(Path(sys.argv[1]), held="no"):
    child = os.fork() if "fork" in sys.argv else 0
    if not child:
        print(os.getpid(), flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(path: Path, *options: str):
    """A process that holds the lock; gives it and the id of the process that reports."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, path, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        assert process.stdin is not None
        process.stdin.close()


def test_a_second_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as (process, _):
        with (
            pytest.raises(UserError, match=r"^somebody has it$"),
            hold_lock(path, held="somebody has it"),
        ):
            pass
        process.kill()
        process.wait()
        assert path.exists()  # a kill leaves it behind, unlocked
        with hold_lock(path, held="somebody has it"):
            pass
    assert not path.exists()


def test_children_of_a_killed_process_do_not_hold_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path, "fork") as (process, child):
        process.kill()
        process.wait()
        os.kill(child, 0)  # it lives
        with hold_lock(path, held="its child has it"):
            pass
        os.kill(child, signal.SIGKILL)


COUNTER = """
import sys
from pathlib import Path
from nas.store.lock import HeldError, hold_lock
folder, count = Path(sys.argv[1]), 0
while count < 200:
    try:
        with hold_lock(folder / "lock", held=""):
            number = int((folder / "number").read_text())
            (folder / "number").write_text(str(number + 1))
            count += 1
    except HeldError:
        pass
"""


def test_a_lock_on_a_file_that_was_deleted_meanwhile_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", COUNTER, tmp_path]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert (tmp_path / "number").read_text() == "400"  # each of them deletes it when it is done
    assert not (tmp_path / "lock").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="lock: cannot be written: ") as error:
        hold_lock(tmp_path / "file" / "lock", held="").__enter__()
    assert "\n" not in str(error.value)


def test_a_folder_that_was_deleted_meanwhile_is_one_line_and_stays_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def work() -> None:
        with hold_lock(folder / ".lock", held="") as lock:
            lock.require()
            shutil.rmtree(folder)
            assert not lock.is_there

    with pytest.raises(UserError, match=r"run: was deleted or replaced while this process was"):
        work()
    assert not folder.exists()


def test_the_lock_of_another_process_in_a_new_folder_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run" / ".lock"

    def work() -> None:
        with hold_lock(path, held=""):
            shutil.rmtree(path.parent)
            path.parent.mkdir()
            path.write_text("another's")

    with pytest.raises(UserError, match="was deleted or replaced"):
        work()
    assert path.read_text() == "another's"
