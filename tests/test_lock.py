from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from nas.errors import UserError
from nas.store import lock
from nas.store.lock import Lock

HOLDER = """
import os, sys
from pathlib import Path
from nas.store.lock import Lock
with Lock(Path(sys.argv[1]), held="no"):
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
            Lock(path, held="somebody has it"),
        ):
            pass
        process.kill()
        process.wait()
        assert path.exists()  # a kill leaves it behind, unlocked
        with Lock(path, held="somebody has it"):
            pass
    assert not path.exists()


def test_children_of_a_killed_process_do_not_hold_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path, "fork") as (process, child):
        process.kill()
        process.wait()
        os.kill(child, 0)  # it lives
        with Lock(path, held="its child has it"):
            pass
        os.kill(child, signal.SIGKILL)


def test_a_lock_on_a_deleted_file_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, taken, take = tmp_path / "lock", [], lock._take

    def delete_first(file):
        if not taken:
            path.unlink()  # as the process before does, between our opening and locking
        taken.append(file)
        take(file)

    monkeypatch.setattr(lock, "_take", delete_first)
    with (
        Lock(path, held="first"),
        pytest.raises(UserError, match="second"),
        Lock(path, held="second"),
    ):
        pass
    assert len(taken) == 3


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="lock: cannot be written: ") as error:
        Lock(tmp_path / "file" / "lock", held="").__enter__()
    assert "\n" not in str(error.value)
