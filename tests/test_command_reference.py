"""The commands' reference in the documents is what the commands say of themselves.

To write it anew:  .venv/bin/python tests/test_command_reference.py
"""

import inspect
import re
from pathlib import Path

import typer
from typer.main import get_command

from nas import cli

REFERENCE = Path(__file__).parent.parent / "docs" / "commands.md"
HEAD = """\
# Commands

Generated from the commands themselves: `.venv/bin/python tests/test_command_reference.py`. `nas COMMAND
--help` prints the same.

A user's mistake is one line on standard error and exit code 2, Ctrl-C ends with 130. `--debug`,
anywhere in a command, shows the traceback of an error; `--trust FILE` runs a block file that a document
names; `nas --version` prints the version.
"""


ESCAPED = "\\|"
"""A bar inside of a table's cell."""


def command_of(name):
    """The command as typer builds it, with its options."""
    application = cli._application(name)
    return get_command(application).commands[name]


def cell(text):
    return re.sub(r"\s+", " ", text).strip().replace("|", ESCAPED).replace("<", "&lt;")


def reference():
    """The whole page."""
    return "\n".join([HEAD, *(section(name) for name in cli.COMMANDS)])


def section(name):
    command = command_of(name)
    context = typer.Context(command, info_name=f"nas {name}")
    usage = " ".join(["nas", name, *command.collect_usage_pieces(context)])
    lines = [f"## nas {name}", "", *inspect.cleandoc(command.help or "").splitlines(), ""]
    lines += ["```text", usage, "```", "", "| option | what it does |", "|---|---|"]
    for parameter in command.params:
        if record := parameter.get_help_record(context):
            words, text = record
            lines.append(f"| `{words.replace('|', ESCAPED)}` | {cell(text)} |")
    return "\n".join(lines) + "\n"


def test_the_reference_is_up_to_date():
    assert REFERENCE.read_text() == reference()


def test_the_reference_lists_every_command_and_every_option():
    page = REFERENCE.read_text()
    for name in cli.COMMANDS:
        (part,) = re.findall(rf"^## nas {name}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
        for parameter in command_of(name).params:
            for word in parameter.opts:
                assert word in part.replace("\\|", "|") or parameter.param_type_name == "argument"


if __name__ == "__main__":
    REFERENCE.write_text(reference())
