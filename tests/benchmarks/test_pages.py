"""What the benchmark that runs the pages takes for a command, and what for its end."""

import os
import runpy
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

RUN = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "pages.py"))
PAGE = """\
```
nas show tiny  # what is in it
# nothing

nas slim --run r \\
    --target-ms 2
```
```text
nas printed
```
```sh
pip install nas
```
`nas inline`
"""
PROGRAMS = {"nas", "python", "python3", "torchrun", "ls", "adb"}


def test_commands_stand_in_shell_blocks_each_in_a_line():
    found = list(RUN["shell_lines"](PAGE))
    assert found == ["nas show tiny", "nas slim --run r      --target-ms 2", "pip install nas"]
    assert [RUN["reason_to_skip"](it) for it in found] == ["", "", "installs"]


def test_each_line_of_the_pages_is_a_program_or_has_a_reason_to_be_skipped():
    lines = [it for page in RUN["DOCUMENTS"] for it in RUN["shell_lines"](page.read_text())]
    assert len(lines) > 60
    left = [it for it in lines if not RUN["reason_to_skip"](it)]
    assert {Path(shlex.split(it)[0]).name for it in left} <= PROGRAMS
    assert len(left) > 50


def test_what_is_not_here_is_skipped_with_its_reason():
    reason = RUN["reason_to_skip"]
    assert reason("nas bench a.onnx --device ssh:pi") == ""
    assert reason("nas bench a.onnx --device ssh:pi", has_ssh=False) == "no ssh server here"
    assert reason("adb devices") == ""
    assert reason("adb devices", has_adb=False) == "no adb here"
    assert reason(f"nas bench a.onnx --cores 0-{max(os.sched_getaffinity(0)) + 1}") != ""
    assert reason(f"nas bench a.onnx --cores 0-{min(os.sched_getaffinity(0))}") == ""


@pytest.mark.parametrize(
    ("line", "paths"),
    [
        ("nas slim --run runs/a --table cpu=a.csv", {"runs/a", "a.csv"}),
        ("nas train-supernet --data folder:photos --run runs/a", {"photos"}),
        ("nas export --architecture A.json --out a.onnx", {"A.json"}),
        ("nas bundle --space a.yaml --out bundle", {"a.yaml"}),
        ("nas classify runs/a/delivered new/*.jpg", {"runs/a/delivered", "new"}),
        ("nas slim --run runs/a", {"runs/a", "latency_tables/mobile_64px_cpu.csv"}),
    ],
)
def test_what_a_command_reads_is_brought_and_what_it_writes_is_not(line, paths):
    found = set(map(str, RUN["inputs_of"](line)))
    written = {"a.onnx"} if "--out" in line else {"runs/a"} if "train" in line else set()
    assert paths <= found
    assert not written & found


@pytest.mark.parametrize(
    ("code", "text", "is_begun", "outcome"),
    [
        (0, "made", False, "run"),
        (2, "nas: no such file", False, "failed"),
        (0, "Traceback (most recent call last):", False, "failed"),
        (130, "nas: stopped; to continue: nas run", True, "begun"),
        (130, "nas: stopped", True, "failed"),
        (1, "nas: to continue: nas run", True, "failed"),
        (-signal.SIGINT, "next, show it: nas show", True, "run"),
        (-signal.SIGINT, "nas: killed", False, "failed"),
    ],
)
def test_an_end_is_judged_by_code_and_words(code, text, is_begun, outcome):
    assert RUN["judge"]("nas run", code, text, is_begun=is_begun) == outcome


def test_torchrun_ends_in_its_own_way():
    line, text = "torchrun -m nas -- train-supernet", "Traceback\n...SignalException: got signal: 2"
    assert RUN["judge"](line, 1, text, is_begun=True) == "begun"
    assert RUN["judge"](line, 1, text, is_begun=False) == "failed"
    assert RUN["judge"](line, 1, "Traceback\n...ValueError", is_begun=True) == "failed"


def test_an_outdated_table_is_an_answer_of_check_lut_only():
    text = "rebuild it: nas build-lut --space tiny"
    assert RUN["judge"]("nas check-lut t.csv", 1, text, is_begun=False) == "run"
    assert RUN["judge"]("nas show t.csv", 1, text, is_begun=False) == "failed"


def test_what_works_too_long_is_interrupted_with_all_its_children():
    code = (
        "import time\ntry:\n    while True: pass\nexcept KeyboardInterrupt: raise SystemExit(130)"
    )
    process = subprocess.Popen(
        ["bash", "-c", f"{shlex.join([sys.executable, '-S', '-c', code])}; exit $?"],
        start_new_session=True, preexec_fn=RUN["hear_ctrl_c"],  # noqa: PLW1509 - it has one thread
    )  # fmt: skip
    assert RUN["watch"](process, 0.1)
    RUN["end"](process)
    assert process.returncode in (130, -2)


def test_files_that_a_page_shows_and_what_it_takes_as_given_are_brought(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```yaml\nname: tiny\nblocks: [own.py]\n```\n```python\nx = 1\n```\n")
    for name in ("all/t.csv", "all/t.json", "page/runs/a/slim_1/a.json", "all/runs/a/b"):
        (tmp_path / "given" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "given" / name).write_text(name)
    place = RUN["Place"](tmp_path / "here", tmp_path / "given", page, dict(os.environ))
    ending = place.run("test own.py && ls tiny.yaml t.csv runs/a/slim_1", 60.0)
    assert ending.outcome == "run"
    here = {str(it.relative_to(place.folder)) for it in place.folder.rglob("*") if it.is_file()}
    assert here >= {"own.py", "tiny.yaml", "t.csv", "t.json", "runs/a/slim_1/a.json"}
    assert "runs/a/b" not in here
