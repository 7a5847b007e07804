import pytest

from nas.documents import parse_document, read_document, write_atomically
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
    assert document.positions["a",] == (1, 1)
    assert document.positions["a", 0] == (2, 5)
    assert document.positions["a", 1, "b"] == (3, 5)
    error = document.error(("a", 1, "b"), "must be odd, got 2")
    assert str(error) == "f.yaml:3:5: a[1].b: must be odd, got 2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "x.yaml:3:1: key 'a' stands twice, first in line 1"),
        ("a: [1, 2\n", "x.yaml:2:1: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: !!python/object:os.system 1", "x.yaml:1:4: not valid YAML: could not determine"),
    ],
)
def test_bad_yaml_is_one_line_with_a_place(text, message):
    with pytest.raises(UserError) as caught:
        parse_document(text, "x.yaml")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml: no such file"):
        read_document(tmp_path / "nowhere.yaml")


def test_a_binary_file_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"a\.yaml: cannot be read"):
        read_document(tmp_path / "a.yaml")


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
