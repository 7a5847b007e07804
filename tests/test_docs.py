"""The pages say what is true: links lead somewhere, commands parse, messages stand in the source."""

import ast
import contextlib
import itertools
import re
import runpy
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from nas import cli

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
DOCUMENTS = [
    *PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md",
    ROOT / "latency_tables/README.md", ROOT / "runs/README.md",
]  # fmt: skip
RUN = runpy.run_path(str(ROOT / "benchmarks" / "pages.py"))
"""The program that runs the commands of the pages; here they are only parsed."""
FENCED = RUN["FENCED"]
INLINE = re.compile(r"`(nas [^`]+)`")
COMMAND = re.compile(r"(?:\.?[\w/]*/bin/)?(?:nas|torchrun .*-m nas --) (.+)")
LINK = re.compile(r"(?<!\\)\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
MESSAGE = re.compile(r"^### `(.+)`$", re.MULTILINE)
VALUE = "…"
"""Stands for a value in a message."""


def named(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda it: str(it.relative_to(ROOT)))


def prose(text):
    """A document without its blocks of code."""
    return FENCED.sub("", text)


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    titles = HEADING.findall(prose(path.read_text()))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@named(DOCUMENTS)
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(path):
    for link in LINK.findall(prose(path.read_text())):
        if "://" in link:
            continue
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def pages_of(entry):
    """The files in a part of the navigation."""
    if isinstance(entry, str):
        return [entry]
    return list(
        itertools.chain(*map(pages_of, entry if isinstance(entry, list) else entry.values()))
    )


def test_the_navigation_leads_to_every_page_once():
    site = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    assert sorted(pages_of(site["nav"])) == [str(it.relative_to(DOCS)) for it in PAGES]


def test_pictures_are_small():
    assert all(it.stat().st_size < 200_000 for it in DOCS.rglob("*.png"))


def commands_in(path):
    """The words of each nas command in the blocks of a document, and those in its sentences."""
    for line in RUN["shell_lines"](path.read_text()):
        if found := COMMAND.fullmatch(line):
            yield shlex.split(found[1]), True
    for words in INLINE.findall(MESSAGE.sub("", prose(path.read_text()))):
        with contextlib.suppress(ValueError):
            yield shlex.split(re.sub(r"[\[\]]", " ", words.replace("\\|", "|")))[1:], False


def complaint_about(words, *, is_whole):
    """What the command line says against a command; None if it takes it."""
    if words[0].startswith("-"):
        known = get_command(cli._application(None)).params
        return None if words[0] in ["--help", *(o for it in known for o in it.opts)] else words[0]
    name = words[0]
    if name not in cli.COMMANDS:
        return None if name.isupper() else f"no command {name}"
    command = get_command(cli._application(name)).commands[name]
    known = {"--help", *cli.DEBUG.split(), *cli.TRUST.split()}
    known |= {word for it in command.params for word in (*it.opts, *it.secondary_opts)}
    for word in words[1:]:
        if word.startswith("--") and word.partition("=")[0].rstrip(",.") not in known:
            return f"{name}: no option {word}"
    if is_whole:
        try:
            command.make_context(name, words[1:])
        except typer.Exit:
            return None
        except typer.TyperException as error:
            return f"{name}: {error.format_message()}"
    return None


@named([it for it in DOCUMENTS if it.name != "commands.md"])
def test_the_command_line_takes_every_command(path):
    found = [complaint_about(words, is_whole=whole) for words, whole in commands_in(path) if words]
    assert [it for it in found if it] == []


def test_commands_that_are_wrong_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```\nnas slim --target-ms 2 --run-to r\nnas bench\n```\n`nas slum`, `nas show`\n"
    )
    found = [complaint_about(words, is_whole=whole) for words, whole in commands_in(page)]
    assert found == [
        "slim: no option --run-to", "bench: Missing argument 'FILE...'.", "no command slum", None,
    ]  # fmt: skip


def templates():
    """Every text in the source, with ``VALUE`` where a value is put in."""
    for path in sorted((ROOT / "nas").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (it.value if isinstance(it, ast.Constant) else VALUE for it in node.values)
                yield "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_every_message_of_the_troubleshooting_stands_in_the_source():
    source = list(templates())
    messages = MESSAGE.findall((DOCS / "troubleshooting.md").read_text())
    assert len(messages) > 35
    for message in messages:
        parts = [re.escape(it) for it in message.strip(VALUE).split(VALUE)]
        pattern = re.compile(".*?".join(parts), re.DOTALL)
        assert any(pattern.search(it) for it in source), f"no message says: {message}"
