"""What a journal promises all that write one: searches, checks, trainings, tables."""

import re
from typing import Annotated

import pytest
from pydantic import TypeAdapter

from nas.documents import Value
from nas.errors import UserError
from nas.store.journal import Journal, Words


class Plan(Value):
    seed: int = 0
    bounds: dict[str, float] = {"ms": 1.0}


class Header(Value):
    weights: Annotated[str, Words("other weights")] = "w"
    plan: Plan = Plan()


class Number(Value):
    number: float


class Name(Value):
    name: str


KIND = TypeAdapter(Number | Name)
LINES = [Number(number=1 / 3), Name(name="a"), Number(number=0.5)]


def opened(path, **options):
    arguments = {"noun": "a search", "remedy": "--force starts anew", "header": Header()}
    return Journal(path, KIND, **{**arguments, **options})


@pytest.fixture
def path(tmp_path):
    with opened(tmp_path / "j.jsonl") as journal:
        journal.append(LINES[0])
        journal.append(*LINES[1:])
    return tmp_path / "j.jsonl"


def lines(path, **options):
    with opened(path, **options) as journal:
        return journal.lines


def test_what_was_appended_is_there_again(path):
    assert lines(path) == LINES


def test_each_line_is_in_the_file_when_append_returns(tmp_path):
    with opened(tmp_path / "j.jsonl", header=None) as journal:
        journal.append(Name(name="a"))
        assert (tmp_path / "j.jsonl").read_text() == '{"name": "a"}\n'


def test_a_torn_last_line_is_dropped_and_written_over(path):
    whole = path.read_bytes()
    for cut in range(1, len('{"number": 0.5}\n')):
        path.write_bytes(whole[:-cut])
        with opened(path) as journal:
            assert journal.lines == LINES[:2]
            journal.append(LINES[2])
        assert path.read_bytes() == whole


def test_a_journal_cut_within_its_header_begins_anew(path):
    path.write_bytes(path.read_bytes()[:20])
    assert lines(path) == []
    assert lines(path) == []
    assert path.read_text().count("\n") == 1


def test_without_resume_a_journal_begins_anew(path):
    assert lines(path, resume=False) == []
    assert path.read_text().count("\n") == 1


def test_lines_from_the_first_invalid_one_on_are_dropped(path):
    assert lines(path, keep=lambda line: isinstance(line, Number)) == LINES[:1]
    assert lines(path) == LINES[:1]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (Header(weights="x"), "is of a search with other weights"),
        (Header(plan=Plan(seed=1)), "was started with seed 0, got 1"),
        (
            Header(plan=Plan(bounds={"params": 1.0})),
            'was started with bounds {"ms": 1.0}, got {"params": 1.0}',
        ),
    ],
)
def test_another_header_is_one_line_and_leaves_the_file(path, header, message):
    before = path.read_bytes()
    with pytest.raises(UserError, match=re.escape(f"{path}: {message}; --force starts anew")):
        opened(path, header=header)
    assert path.read_bytes() == before


@pytest.mark.parametrize("line", ["{}", "", "{", "3", '{"number": "x"}', '{"name": "a", "b": 1}'])
@pytest.mark.parametrize("number", [1, 2])
def test_a_damaged_line_is_named(path, line, number):
    content = path.read_text().splitlines()
    content[number - 1] = line
    path.write_text("\n".join(content) + "\n")
    if (line, number) == ("{}", 1):  # a header of defaults only, as it is here
        assert lines(path) == LINES
        return
    with pytest.raises(
        UserError, match=rf"j\.jsonl:{number}: is no line of a search; --force starts anew"
    ):
        opened(path)


def test_a_full_disk_is_one_line_and_loses_the_last_line_only(path, files_limited):
    with opened(path) as journal:
        refused = pytest.raises(UserError, match=r"j\.jsonl: cannot be written: ")
        with refused as error, files_limited(path.stat().st_size + 5):
            journal.append(Name(name="b"))
    assert "\n" not in str(error.value)
    assert lines(path) == LINES


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"j\.jsonl: cannot be written: No such file"):
        opened(tmp_path / "gone" / "j.jsonl")
