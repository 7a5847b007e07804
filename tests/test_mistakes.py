"""The last net: whatever goes wrong on a user's input is one line, and never a traceback."""

import errno
import importlib
import inspect
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pytest
from typer.models import ArgumentInfo

from nas import cli
from nas.cli.mistakes import explain
from nas.errors import StoppedError, UserError

SAMPLES = Path(__file__).parent / "samples"


def ending(error):
    """How a command ends in which this happens, some calls down."""
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001
        return explain(caught)


def raised_in(path, code, **names):
    """An error of code that stands in another file."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        exec(compile(code, str(path), "exec"), names)
    return caught.value


OURS = Path(cli.__file__).parents[1] / "data" / "tables.py"


def test_what_was_not_foreseen_names_the_place_and_how_to_report_it():
    line, code = explain(raised_in(OURS, "\n\n{}['label']"))
    assert code == 2
    assert line == (
        "nas/data/tables.py:3: KeyError: 'label'; nas did not foresee this: check what you gave "
        "it, and please report it with what --debug shows"
    )


def test_the_place_is_ours_where_a_library_raised_it():
    line, _ = explain(raised_in(OURS, "import json\njson.loads('{')"))
    assert line.startswith("nas/data/tables.py:2: JSONDecodeError: Expecting property name")


def test_the_place_is_the_users_where_his_block_raised_it(tmp_path):
    line, _ = explain(raised_in(tmp_path / "my_block.py", "assert False, 'no'"))
    assert line.startswith(f"{tmp_path}/my_block.py:1: AssertionError: no; ")


@pytest.mark.parametrize("code", ["assert 1 == 2", "undefined_name", "def f():\n  x\n  x = 1\nf()"])
def test_a_bug_that_is_certainly_ours_is_a_traceback(code):
    assert explain(raised_in(OURS, code)) is None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        pa.ArrowMemoryError("malloc of size 99 failed"),
        np._core._exceptions._ArrayMemoryError((10**9, 10**9), np.dtype("f4")),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed."),
        RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory for buffer of size 9"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=lambda it: type(it).__name__,
)
def test_too_little_memory_is_a_line(error):
    line, code = ending(error)
    assert line.startswith("not enough memory (")
    assert code == 2


def test_a_full_disk_and_a_lost_folder_are_lines():
    assert ending(OSError(errno.ENOSPC, "No space left on device", "r/log")) == (
        "r/log: cannot be written: No space left on device",
        2,
    )
    assert ending(FileNotFoundError(errno.ENOENT, "No such file", "r/x")) == (
        "r/x: No such file",
        2,
    )


def test_exit_codes_of_interruptions():
    assert ending(KeyboardInterrupt()).code == 130
    assert ending(StoppedError("stopped; nas slim --resume goes on")).code == 130
    assert ending(UserError("mistake")).code == 2
    assert ending(BrokenPipeError()) == ("", 141)


def test_an_exit_of_foreign_code_is_a_line(tmp_path):
    line, code = explain(raised_in(tmp_path / "my_block.py", "import sys\nsys.exit(0)"))
    assert (line, code) == (f"{tmp_path}/my_block.py:2: ended the program by sys.exit(0)", 2)


def test_debug_shows_the_traceback_and_stands_anywhere(tmp_path):
    called = ["build-lut", "--space", "x.yaml"]
    for words in (["--debug", *called], [*called, "--debug"]):
        done = subprocess.run([sys.executable, "-m", "nas", *words], cwd=tmp_path,
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert "UserError: x.yaml: no such file" in done.stderr


def test_a_reader_that_has_enough_ends_nothing_in_a_traceback():
    command = f"{sys.executable} -m nas spaces | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] in ("0", "141")  # it may have written all before


RANDOM = np.random.default_rng(0).bytes(3000)
FORMS = ("{}", "parquet:{}", "folder:{}", "cpu={}", "mobilenet_v3_small_100:{}", "{}:{}")
"""How a path stands in the words of options: alone, as a data set, a named table, a teacher."""

SUFFIXES = ("", ".json", ".yaml", ".csv", ".onnx", ".safetensors", ".parquet", ".py")

GOOD = {
    "run": "run", "table": "table.csv", "space": "tiny.yaml", "architecture": "architecture.json",
    "architectures": "architecture.json", "supernet": "run", "out": "out", "data": "digits",
    "weights": "slim/weights.safetensors", "files": "m.onnx", "folder": "run", "target_ms": "1",
    "input_size": "32", "tables": "table.csv", "what": "tiny.yaml", "latency_weight": "1",
}  # fmt: skip
"""Words that are right, or wrong in one line, where another option holds the random file."""


class Word(NamedTuple):
    """A parameter of a command: the option that stands before it, if any, and whether it is text."""

    name: str
    option: str | None
    is_required: bool
    is_text: bool


@cache
def parameters(name):
    """The parameters of a command, from its definition."""
    module, _ = cli.COMMANDS[name]
    function = getattr(importlib.import_module(f"nas.cli.{module}"), name.replace("-", "_"))
    return [word(it) for it in inspect.signature(function, eval_str=True).parameters.values()]


def word(parameter):
    annotation, detail = parameter.annotation, None
    if hasattr(annotation, "__metadata__"):
        annotation, detail, *_ = get_args(annotation)
    option = f"--{parameter.name.replace('_', '-')}"
    if detail is not None:  # in an annotation, typer takes the first name for a default
        names = (detail.default, *(detail.param_decls or ()))
        option = next((it.split("/")[0] for it in names if str(it).startswith("--")), option)
    is_required = parameter.default in (inspect.Parameter.empty, ...)
    is_argument = isinstance(detail, ArgumentInfo)
    return Word(parameter.name, None if is_argument else option, is_required, has_text(annotation))


def has_text(kind):
    """Whether a word of the user's own stands there: no number, no switch, none of a list."""
    return kind in (str, Path) or any(map(has_text, get_args(kind)))


CASES = [
    (name, parameter.name)
    for name in cli.COMMANDS
    for parameter in parameters(name)
    if parameter.is_text
]


def test_the_cases_are_found_in_the_definitions():
    assert len(CASES) > 45
    found = {f"{name} {parameter}" for name, parameter in CASES}
    known = {
        "show what",
        "show run",
        "bench files",
        "bench table",
        "slim tables",
        "retrain teacher",
    }
    assert known | {"train-supernet spec", "evaluate weights", "search storage"} <= found


@pytest.fixture
def feed(tmp_path, monkeypatch, capfd):
    """A function that calls a command with a file of random bytes in one of its words."""
    for sample in SAMPLES.iterdir():
        copy = shutil.copytree if sample.is_dir() else shutil.copy
        copy(sample, tmp_path / sample.name)
    monkeypatch.chdir(tmp_path)

    def feed(name, fed, suffix, form):
        file = Path(f"random{suffix}")
        file.write_bytes(RANDOM)
        words = words_of(name, fed, form.replace("{}", str(file)))
        monkeypatch.setattr("sys.argv", ["nas", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as caught:
            code = caught.code
        printed = capfd.readouterr()
        assert code == 2, (words, printed)
        *told, complaint = printed.err.splitlines()
        assert complaint.startswith("nas: "), (words, printed.err)
        progress = ("digits: 10 classes", "1 of 3: ")
        assert all(line.startswith(progress) for line in told), (words, printed.err)
        assert "did not foresee" not in printed.err, (words, printed.err)
        assert file.read_bytes() == RANDOM, words

    return feed


def words_of(name, fed, word):
    """A call of a command with ``word`` in one place, and good words where others are needed."""
    words = [name]
    for parameter in parameters(name):
        is_needed = parameter.is_required or parameter.name in NEEDED.get(name, ())
        is_needed |= parameter.option is None and fed == "table"  # the subject of the table
        value = GOOD.get(parameter.name) if is_needed else None
        value = "new" if value == "run" and name in ("retrain", "train-supernet") else value
        value = word if parameter.name == fed else value
        if value is not None:
            words += [parameter.option, value] if parameter.option else [value]
    return words


NEEDED = {
    "train-supernet": ("run",),
    "retrain": ("run", "architecture"),
    "slim": ("run", "target_ms", "tables"),
    "search": ("run", "target_ms", "tables"),
}
"""Options that are not required, without which these commands look at nothing else."""


@pytest.mark.parametrize(("name", "fed"), CASES, ids=[" ".join(case) for case in CASES])
def test_random_bytes_in_any_path_are_one_line(name, fed, feed):
    feed(name, fed, "", "{}")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fed"), CASES, ids=[" ".join(case) for case in CASES])
def test_random_bytes_in_any_form_are_one_line(name, fed, feed):
    for suffix in SUFFIXES[1:]:
        feed(name, fed, suffix, "{}")
    for form in FORMS[1:]:
        feed(name, fed, "", form)
