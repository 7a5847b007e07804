import json
import math
import tracemalloc
from pathlib import Path

import pytest
from pydantic import ValidationError

from nas.documents import Value, find, parse_document, read_document, write_atomically
from nas.errors import UserError


def test_numbers_and_words_are_read_as_yaml_12_does():
    data = parse_document("a: 1e-3\nb: no\nc: true\nd: 010\ne: .5\nf: ~\ng: -3\nh: 1.\n", "x").data
    assert data == {
        "a": 0.001, "b": "no", "c": True, "d": 10, "e": 0.5, "f": None, "g": -3, "h": 1.0,
    }  # fmt: skip
    assert isinstance(data["a"], float)


def test_json_is_read_too():
    assert parse_document('{"a": [1, 2.5, "x", null, true]}', "x").data == {
        "a": [1, 2.5, "x", None, True]
    }


def test_merge_keys_and_anchors_work():
    text = "base: &b {x: 1, y: 2}\nmore: {<<: *b, y: 3}\n"
    assert parse_document(text, "x").data["more"] == {"x": 1, "y": 3}


def test_positions_point_at_keys_and_items():
    document = parse_document("a:\n  - 1\n  - b: 2\n", "f.yaml")
    assert document.find(("a",)) == (1, 1)
    assert document.find(("a", 0)) == (2, 5)
    assert document.find(("a", 1, "b")) == (3, 5)
    error = document.error(("a", 1, "b"), "must be odd, got 2")
    assert str(error) == "f.yaml:3:5: a[1].b: must be odd, got 2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "x.yaml:3:1: key 'a' stands twice, first in line 1"),
        ("a: [1, 2\n", "x.yaml:2:1: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: !!python/object:os.system 1", "x.yaml:1:4: a tag (!) is not allowed here"),
        ("a: 1\n\0", "x.yaml:2:1: holds the control character U+0000"),
        ("a: \x7f", "x.yaml:1:4: holds the control character U+007F"),
        ("a: !!int ten", "x.yaml:1:4: a tag (!) is not allowed here; leave it out"),
        ("a: !!timestamp x", "x.yaml:1:4: a tag"),
        ("a: !own x", "x.yaml:1:4: a tag"),
        (f"a: {'9' * 5000}", "x.yaml:1:4: an integer must fit into 64 bits, got 999999"),
        ("a: 1e400", "x.yaml:1:4: a number must be finite, got 1e400"),
        ("a: &x [*x]", "x.yaml:1:8: alias '*x' stands inside of what it names"),
        ("a: &x\n  <<: *x", "x.yaml:2:7: alias '*x' stands inside of what it names"),
        ("[" * 2000, "x.yaml:1:52: lists and mappings may be 50 deep"),
        ("? [a]\n: b", "x.yaml:1:3: a key must be text"),
        ("<<: 3", "x.yaml:1:5: '<<' takes a mapping"),
        ('a: "\\U00110000"', "x.yaml:1:7: not valid YAML: chr() arg not in range"),
        ('a: "\\ud83d"', "x.yaml:1:4: a text must not hold half of a surrogate pair"),
        ("#" * 300_000, "x.yaml: must have at most 262,144 characters, has 300,000"),
    ],
)
def test_bad_yaml_is_one_line_with_a_place(text, message):
    with pytest.raises(UserError) as caught:
        parse_document(text, "x.yaml")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


LISTS = "a0: &a0 [1, 1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 9)
)


def test_a_list_beyond_all_bounds_is_refused_before_it_is_read():
    with pytest.raises(UserError, match=r"^x\.yaml:1:\d+: holds more than 40,000 values$"):
        parse_document(f"[{'1, ' * 85_000}]", "x.yaml")


@pytest.mark.parametrize("text", [LISTS, MERGES])
def test_aliases_of_aliases_cost_no_more_than_what_they_stand_for(text):
    tracemalloc.start()
    with pytest.raises(UserError, match=r"^x\.yaml:1:\d+: holds more than 40,000 values$"):
        parse_document(text, "x.yaml")
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n "a": 2}', "x.json:2:2: key 'a' stands twice, first in line 1"),
        ('{"a": NaN}', "x.json:1:7: a number must be finite, got NaN"),
        ('{"a": [1, -Infinity]}', "x.json:1:11: a number must be finite, got -Infinity"),
        ('{"a": 1e400}', "x.json:1:7: a number must be finite, got 1e400"),
        (f'{{"a": {"9" * 5000}}}', "x.json:1:7: an integer must fit into 64 bits"),
        (f'{{"a": 0.{"9" * 5000}}}', "x.json:1:7: a number has at most 100 digits, got 5002"),
        ("\0\0\0", "x.json:1:1: holds the control character U+0000"),
        ('{"a": "\\u0000"}', "x.json:1:7: a text must not hold the character U+0000"),
        ('{"a": "\\ud83d"}', "x.json:1:7: a text must not hold half of a surrogate pair"),
        ("[" * 2000 + "]" * 2000, "x.json:1:52: lists and mappings may be 50 deep"),
        ("[" * 100 + "]" * 100, "x.json:1:52: lists and mappings may be 50 deep"),
        ("a: 1", "x.json:1:1: not valid JSON: expecting value"),
        ("", "x.json:1:1: not valid JSON: expecting value"),
        ("[" + "1," * 4_000_000 + "1]", "x.json: holds more than 4,000,000 values"),
    ],
)  # fmt: skip
def test_bad_json_is_one_line_with_a_place(text, message):
    with pytest.raises(UserError) as caught:
        parse_document(text, "x.json")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x.json", "x.yaml", "x"])
def test_json_is_read_as_json_whatever_the_file_is_called(name):
    data = {"classes": ["\N{GRINNING FACE}", "tab\tand\nline", "\x7f\x85"], "a": {"a": 1e-7}}
    assert parse_document(json.dumps(data, indent="\t"), name).data == data


def test_yaml_reads_an_emoji_of_two_halves():
    assert parse_document('a: "\\ud83d\\ude00"', "x.yaml").data == {"a": "\N{GRINNING FACE}"}


@pytest.mark.parametrize("name", ["f.yaml", "f.json"])
def test_parts_of_json_have_places_too(name):
    text = '{"a": {"b": [1, {"c": "},]"}]},\n "b": {"b": 2}, "c\\u0022": [[], [3]]}'
    document = parse_document(text, name)
    parts = [(), ("a",), ("a", "b", 1, "c"), ("b",), ("b", "b"), ('c"',), ('c"', 1, 0)]
    assert [document.find(it) for it in parts] == [
        (1, 1), (1, 2), (1, 18), (2, 2), (2, 8), (2, 17), (2, 34),
    ]  # fmt: skip
    assert document.find(("a", 1)) is None


def test_a_file_beyond_all_bounds_is_not_read_whole(tmp_path):
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match=r"a\.json: must have at most 33,554,432 bytes"):
        read_document(tmp_path / "a.json")


def test_a_name_that_no_file_can_have_is_one_line():
    for name in ("a" * 5000, "a\0b"):
        with pytest.raises(UserError, match="is neither a file nor built in"):
            find(name, {}, "thing")
        with pytest.raises(UserError, match="cannot be read"):
            read_document(Path(name))


class Numbers(Value):
    one: float
    many: dict[str, float] = {}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_no_value_holds_a_number_that_is_not_finite(number):
    for fields in ({"one": number}, {"one": 1.0, "many": {"a": number}}):
        with pytest.raises(ValidationError, match="finite"):
            Numbers(**fields)


def test_a_number_beyond_all_bounds_is_refused_whatever_follows_it():
    for rest in ("}", "a2e70796}", "xyz"):
        with pytest.raises(UserError, match=r"a\.json:1:9: a number must be finite, got 3e5501$"):
            parse_document('{"one": 3e5501' + rest, "a.json")


def test_a_long_key_is_shown_in_a_few_words():
    with pytest.raises(UserError) as caught:
        parse_document(json.dumps({"one": 1.0, "9" * 5000: 2}), "a.json").validated(Numbers)
    shown = f"{'9' * 100}... of 5,000 characters"
    assert str(caught.value) == f"a.json:1:14: {shown}: unknown key '{shown}'"


def test_a_wrong_value_is_shown_in_a_few_words():
    with pytest.raises(UserError) as caught:
        parse_document(json.dumps({"one": "x" * 10_000}), "a.json").validated(Numbers)
    assert str(caught.value).startswith("a.json:1:2: one: input should be a valid number")
    assert len(str(caught.value)) < 200


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml: no such file"):
        read_document(tmp_path / "nowhere.yaml")


def test_a_binary_file_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"a\.yaml:1:1: is UTF-16, must be UTF-8: byte 0xFF"):
        read_document(tmp_path / "a.yaml")
    (tmp_path / "a.json").write_bytes(b'{\n"a": "\x80"}')
    with pytest.raises(UserError, match=r"a\.json:2:7: is no text, must be UTF-8: byte 0x80"):
        read_document(tmp_path / "a.json")


def test_atomic_writing_keeps_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "folder" / "file"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == ["file"]


def test_writing_below_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        UserError, match=r"file/inside: cannot be written: (Not a directory|File exists)"
    ):
        write_atomically(tmp_path / "file" / "inside", "x")
