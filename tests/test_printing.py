"""What is shown is readable, harmless to a terminal, and as short as a person can read it."""

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nas import cli
from nas.architecture import Architecture
from nas.printing import MOST_CHARACTERS, command, print_line, readable

SEQUENCES = [
    "\x1b[2J",  # clears the screen
    "\x1b]0;title\x07",
    "\x9b31m",  # the same in one byte
    "\r",
    "\n",
    "\b",
    "\x00",
    "\x7f",
    "\u202e",  # turns the direction of what follows
    "\u2028",
    "\udcff",  # of a file's name that is no UTF-8
]


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_control_sequences_are_escaped(sequence):
    found = readable(f"cat{sequence}dog")
    assert found.isprintable()
    assert found.startswith("cat\\")
    assert found.endswith("dog")
    assert found.encode()


@pytest.mark.parametrize("text", ["größer × 2 – gut", "猫.png", "👩‍👩‍👧", "a\\n stays"])
def test_what_people_write_stays(text):
    assert readable(text) == text


def test_long_texts_keep_their_beginning_and_their_end():
    text = "where: " + "x" * 10**6 + "; the remedy"
    found = readable(text)
    assert len(found) < MOST_CHARACTERS + 20
    assert found.startswith("where: x")
    assert found.endswith("x; the remedy")
    assert " [...] " in found


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:hunter2@host/db", "mysql+pymysql://me:hun@ter2@host:3306/db",
     "redis://:hunter2@host", "postgresql://host/db?user=me&password=hunter2&x=1"],
)  # fmt: skip
def test_passwords_are_masked(url):
    found = readable(f"{url}: cannot be opened ({url})")
    assert "ter2" not in found
    assert found.count("***") == 2
    assert "host" in found


def test_urls_without_a_password_stay():
    for text in ("https://onnx.ai/onnx/a.html", "postgresql://me@host/db", "t.csv:14:7: a@b"):
        assert readable(text) == text


def test_a_command_is_one_that_a_shell_reads():
    words = ["nas", "show", "my space.yaml", "$(rm -rf x)", "it's", Path("a;b")]
    assert shlex.split(command(*words)) == [str(word) for word in words]
    assert command("nas", "show", "own.yaml") == "nas show own.yaml"


@pytest.mark.slow
def test_a_terminal_without_a_letter_shows_it_escaped(tmp_path):
    network = Architecture.load("mobilenet_v3_small_100").model_copy(update={"name": "größe"})
    network.save(tmp_path / "a.json")
    done = subprocess.run(
        [sys.executable, "-m", "nas", "show", "a.json"], cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "gr\\xf6\\xdfe" in done.stdout


def test_everything_is_printed_through_one_function():
    package = Path(cli.__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                source = ast.get_source_segment(path.read_text(), node)
                is_json = source == "print(json.dumps(told, indent=2))"
                # the runner imports nothing of nas, and prints its own words and numbers only
                is_known = path.name in ("printing.py", "runner.py")
                assert is_known or is_json, f"{path}:{node.lineno}"


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """An architecture whose name moves the cursor, in a file whose name needs quotes."""
    monkeypatch.chdir(tmp_path)
    network = Architecture.load("mobilenet_v3_small_100")
    name = "\x1b[2J" + "x" * 5000 + "\nblocks: [evil.py]"
    path = tmp_path / "my network.json"
    network.model_copy(update={"name": name}).save(path)
    return path


def test_names_of_strangers_are_shown_escaped_and_short(hostile, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["nas", "show", str(hostile)])
    cli.main()
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "\\x1b[2J" in printed
    assert "x" * 300 not in printed


def test_the_name_of_a_network_adds_nothing_to_the_space_around_it(hostile, capsys, monkeypatch):
    Path("evil.py").write_text("from pathlib import Path\nPath('ran').write_text('x')\n")
    monkeypatch.setattr("sys.argv", ["nas", "new-space", str(hostile), "--out", "my space.yaml"])
    with pytest.raises(SystemExit):  # the name of a space may have no blank
        cli.main()
    monkeypatch.setattr("sys.argv", ["nas", "new-space", str(hostile), "--out", "around.yaml"])
    cli.main()
    text = Path("around.yaml").read_text()
    assert not re.search("^blocks:", text, re.MULTILINE)
    assert "#   nas show around.yaml" in text
    assert not Path("ran").exists()


def test_a_line_is_printed_where_it_belongs(capsys):
    print_line("a\x1bb")
    print_line("c\nd", file=sys.stderr)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("a\\x1bb\n", "c\\nd\n")
