"""What a journal promises all that write one: searches, checks, trainings, tables."""

import json
import re
import zlib
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
        assert (tmp_path / "j.jsonl").read_text() == '{"name": "a", "check": "59c974e7"}\n'
        assert zlib.crc32(b'{"name": "a"}') == 0x59C974E7


def test_a_torn_last_line_is_dropped_and_written_over(path):
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines()[-1]) + 1):
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


def unsealed(path):
    """Make the file one of a version that wrote no checksums."""
    text = path.read_text()
    path.write_text(re.sub(r', "check": "[0-9a-f]{8}"', "", text))
    return path


@pytest.mark.parametrize(
    "line", ["{}", "", "{", "3", '{"number": "x"}', '{"name": "a", "b": 1}', "\x80", '"\r"']
)
@pytest.mark.parametrize("number", [1, 2])
def test_a_damaged_line_is_named(path, line, number):
    content = unsealed(path).read_bytes().splitlines()
    content[number - 1] = line.encode("latin-1")
    path.write_bytes(b"\n".join(content) + b"\n")
    if (line, number) == ("{}", 1):  # a header of defaults only, as it is here
        assert lines(path) == LINES
        return
    with pytest.raises(
        UserError, match=rf"j\.jsonl:{number}: is no line of a search; --force starts anew"
    ):
        opened(path)


def test_each_bit_that_flips_is_one_line_or_drops_the_last_line(path):
    whole = path.read_bytes()
    newlines = {index for index, byte in enumerate(whole) if byte == ord("\n")}
    for index in range(len(whole)):
        for bit in (1, 128):
            path.write_bytes(whole[:index] + bytes([whole[index] ^ bit]) + whole[index + 1 :])
            if index == max(newlines):
                assert lines(path) == LINES[:-1]
                continue
            with pytest.raises(
                UserError, match=r"j\.jsonl:\d+: is (no line|damaged)|is of a search"
            ):
                opened(path)


def test_a_line_without_its_checksum_after_one_with_is_damaged(path):
    with path.open("a") as file:
        file.write('{"name": "b"}\n')
    with pytest.raises(UserError, match=r"j\.jsonl:5: is damaged: is not what was written"):
        opened(path)


def test_lines_of_a_version_without_checksums_are_taken_and_counted(path):
    with opened(unsealed(path)) as journal:
        assert journal.lines == LINES
        assert journal.remark == (
            f"{path}: 3 of its lines are of a version that wrote no checksums; they are taken as they are"
        )
        journal.append(Name(name="b"))
    *old, new = path.read_text().splitlines()
    assert all("check" not in json.loads(line) for line in old)
    assert "check" in json.loads(new)
    with opened(path) as journal:
        assert journal.lines == [*LINES, Name(name="b")]


def test_a_journal_with_checksums_says_nothing_of_them(path):
    with opened(path) as journal:
        assert journal.remark is None


def test_what_a_full_disk_cut_short_is_gone_before_the_next_line(path, files_limited):
    with opened(path) as journal:
        before = path.read_bytes()
        with pytest.raises(UserError), files_limited(path.stat().st_size + 5):
            journal.append(Name(name="b"))
        assert path.read_bytes() == before
        journal.append(Name(name="c"))
    assert lines(path) == [*LINES, Name(name="c")]


def test_nothing_is_written_through_a_link(path, tmp_path):
    for target in (path, tmp_path / "gone"):
        link = tmp_path / f"to {target.name}"
        link.symlink_to(target)
        with pytest.raises(UserError, match="is a link, through which nothing is written; --force"):
            opened(link)
        assert lines(link, resume=False) == []
        assert not link.is_symlink()
    assert lines(path) == LINES
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_journal_that_is_deleted_meanwhile_is_one_line(path, replaced):
    with opened(path) as journal:
        path.unlink()
        if replaced:
            path.write_text("mine\n")
        with pytest.raises(UserError, match="was deleted or replaced while a search was under way"):
            journal.append(Name(name="b"))
    assert not path.exists() or path.read_text() == "mine\n"


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
