"""Folders of delivered networks, and what their files say of themselves."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from nas.architecture import Architecture
from nas.deploy.card import LISTED, Card
from nas.deploy.delivered import FILES, remove_delivered
from nas.deploy.description import Description, MeasuredLatency
from nas.deploy.weights import with_metadata
from nas.errors import UserError
from nas.preprocessing import Preprocessing

CARD = Card(
    "slimmed network of tiny", "10 to train on", {"5 test images": 0.8}, 1234, 56789, "nas slim"
)


def test_metadata_stand_in_front_of_the_same_tensors_in_their_order():
    state = {"b": torch.arange(3.0), "a": torch.ones(2, dtype=torch.int64), "c": torch.zeros(1)}
    told = {name: json.dumps(name * 5) for name in "zyxw"}
    found = with_metadata(save(state), told)
    assert all(torch.equal(tensor, state[name]) for name, tensor in load(found).items())
    length = int.from_bytes(found[:8], "little")
    header = json.loads(found[8 : 8 + length])
    assert list(header["__metadata__"].items()) == list(told.items())
    assert length % 8 == 0
    assert with_metadata(save(state), {}) == save(state)


def test_a_description_is_read_from_what_it_wrote():
    seen = Preprocessing(mean=(0.5, 0.4, 0.3), std=(1, 2, 3), crop=0.875, interpolation="bilinear")
    architecture = Architecture.load("mobilevit_v2_050").with_preprocessing(seen)
    latency = MeasuredLatency(
        device="Zilog Z80", runtime="onnxruntime 1", threads=1, precision="float32",
        date="2026-12-01T00:00:00+00:00", warm_ms=1.5, cold_ms=2.5,
    )  # fmt: skip
    told = Description.of(architecture, classes=["a", "b"], run="r", measured=(latency,))
    assert Description.from_metadata(told.metadata()) == told
    assert (told.preprocessing, told.input_size) == (seen, architecture.input_size)
    assert "data" not in told.metadata(), "it is not known"
    assert told.told_of(architecture) == told.model_copy(update={"measured": ()})


def test_files_of_others_may_use_our_words_in_their_own_way():
    others = {"run": "yesterday's", "data": "{", "format": "pt", "mean": "[0.1, 0.2, 0.3]"}
    found = Description.from_metadata(others)
    assert (found.run, found.data, found.mean) == ("", "", (0.1, 0.2, 0.3))
    assert not found.tells_preprocessing
    assert found.preprocessing.interpolation is None


@pytest.mark.parametrize(
    "told", [{"color_order": '"BGR"'}, {"value_range": "[0, 255]"}, {"std": "[0, 1, 1]"},
             {"classes": "cat,dog"}, {"input_size": "0"},
             {"mean": "[NaN, 0, 0]"}, {"classes": "[" * 100_000}, {"std": "no\r\nlist"}]
)  # fmt: skip
def test_pictures_that_are_seen_in_another_way_are_refused(told):
    ((name, text),) = told.items()
    with pytest.raises(UserError) as error:
        Description.from_metadata(told)
    problem = "its metadata say in no known form how it sees pictures"
    assert str(error.value) == f"{problem}: {name} {' '.join(text[:200].split())}"


def test_metadata_that_are_no_text_are_refused():
    with pytest.raises(UserError, match=r"in no known form .*: classes \[\ufffd\]$"):
        Description.from_metadata({"classes": b"[\xff]"})


def test_only_what_was_delivered_is_removed(tmp_path):
    for folder, names in (("old", FILES), ("kept", [*FILES, "notes.txt"]), ("mine", FILES[:2])):
        for name in names:
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / name).write_text(name)
    (tmp_path / "file").write_text("a file")
    remove_delivered(tmp_path)
    found = sorted(str(it.relative_to(tmp_path)) for it in tmp_path.rglob("*") if it.is_file())
    assert found == ["file", "kept/notes.txt", *sorted(f"mine/{name}" for name in FILES[:2])]
    assert not (tmp_path / "old").exists()
    remove_delivered(Path(tmp_path / "nowhere"))


def test_a_card_says_what_it_knows():
    architecture = Architecture.load("mobilevit_v2_050")
    latency = MeasuredLatency(
        device="Zilog Z80", runtime="onnxruntime 1", threads=2, precision="int8",
        date="2026-12-01T00:00:00+00:00", warm_ms=1.5, cold_ms=2.5,
    )  # fmt: skip
    names = [f"class {place}" for place in range(LISTED + 2)]
    told = Description.of(architecture, classes=names, data="folder:p", measured=(latency,))
    text = CARD.text(told)
    assert "| Zilog Z80 | onnxruntime 1 | 2 | int8 | 2026-12-01 | 1.500 | 2.500 |" in text
    assert "| accuracy on 5 test images | 80.0 % |" in text
    assert "class 49 and 2 more." in text
    assert "in int8" not in text
    rounded = Card(**{**vars(CARD), "int8_agreement": 0.985, "remark": "too small"}).text(told)
    assert "gives 98.5 % of images the class" in rounded
    assert "Note: too small." in rounded
