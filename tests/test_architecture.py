import subprocess
import sys

import pytest
from pydantic import ValidationError

import nas
from nas.architecture import Architecture
from nas.errors import UserError
from nas.families.efficientformer_v2.layers import Attention4D, Classifier, ConvFFN, ConvStem
from nas.space import SearchSpace, built_in_architectures

TEXT = """{
  "name": "tiny",
  "input_shape": [3, 32, 32],
  "layers": [
    {"slot": "stem", "kind": "conv_stem", "out_channels": 8},
    {"slot": "stage1.block1.ffn", "kind": "conv_ffn", "channels": 8, "expansion": 1.5},
    {"slot": "stage1.block1.attention", "kind": "attention4d", "channels": 8, "stride": 2},
    {"slot": "head", "kind": "classifier", "in_channels": 8, "classes": 10}
  ]
}
"""


@pytest.fixture
def tiny():
    return Architecture.from_json(TEXT)


def test_json_is_pinned(tiny):
    assert tiny.to_json() == TEXT


@pytest.mark.parametrize("name", built_in_architectures())
def test_published_architectures_survive_json(name):
    architecture = Architecture.load(name)
    assert architecture.name == name
    assert architecture.classes == 1000
    assert Architecture.from_json(architecture.to_json()) == architecture


def test_save_and_load(tiny, tmp_path):
    tiny.save(tmp_path / "a.json")
    assert Architecture.load(tmp_path / "a.json") == tiny


def test_is_a_value(tiny):
    other = Architecture.from_json(TEXT.replace("tiny", "renamed"))
    assert other == tiny
    assert hash(other) == hash(tiny)
    assert len({tiny, other}) == 1
    assert tiny.with_input_size(64) != tiny
    with pytest.raises(ValidationError):
        tiny.name = "x"


def test_placed_gives_each_layer_its_input_shape(tiny):
    shapes = [shape for _, shape in tiny.placed()]
    assert shapes == [(3, 32, 32), (8, 8, 8), (8, 8, 8), (8, 8, 8)]
    assert tiny.classes == 10


def test_signature_leaves_slot_and_defaults_out():
    ffn = ConvFFN(slot="a", channels=32, expansion=4)
    assert ffn.signature == "conv_ffn channels=32 expansion=4"
    assert ffn.signature == ConvFFN(slot="b", channels=32, expansion=4.0).signature
    attention = Attention4D(slot="a", channels=8, stride=2, talking_heads=False)
    assert attention.signature == "attention4d channels=8 stride=2 talking_heads=false"


def test_an_input_size_that_the_strides_do_not_divide(tiny):
    message = (
        r"^tiny at 36 px: stage1\.block1\.attention: the map must be a multiple of 2, got 9x9$"
    )
    with pytest.raises(UserError, match=message):
        tiny.with_input_size(36)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"channels": 8, "expansion"', '"channels": 12, "expansion"',
         "architecture:1:1: stage1.block1.ffn: takes 12 channels, got 8"),
        ("conv_ffn", "conv_fnf",
         "architecture:6:5: layers[1]: unknown kind 'conv_fnf'; did you mean 'conv_ffn'?; known: "),
        ('"expansion": 1.5', '"expansion": 0',
         "architecture:6:70: layers[1].expansion: input should be greater than 0, got 0"),
        ('"expansion": 1.5', '"expanson": 1.5',
         "architecture:6:70: layers[1].expanson: unknown key 'expanson'; did you mean 'expansion'?"),
        (', "expansion": 1.5', "", "architecture:6:5: layers[1]: key 'expansion' is missing"),
        ("stage1.block1.attention", "stage1.block1.ffn",
         "architecture:1:1: slot 'stage1.block1.ffn' stands 2 times"),
        ('"name": "tiny"', '"stages": []', "architecture:1:1: is a search space, not an architecture"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_with_place_rule_and_value(old, new, message):
    assert old in TEXT
    with pytest.raises(UserError) as caught:
        Architecture.from_json(TEXT.replace(old, new))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_network_without_classifier_is_refused(tiny):
    with pytest.raises(ValidationError, match="the last layer must be a classifier, got conv_ffn"):
        Architecture(input_shape=(3, 32, 32), layers=tiny.layers[:2])


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(UserError, match=r"did you mean 'efficientformer_v2_s0'\?; built in: "):
        Architecture.load("efficientformer_v2_s00")


def test_schema_names_every_field_of_every_kind():
    schema = Architecture.model_json_schema()
    for layer in (ConvStem, ConvFFN, Attention4D, Classifier):
        assert set(schema["$defs"][layer.__name__]["properties"]) == set(layer.model_fields)


def test_importing_nas_loads_no_torch():
    code = (
        "import sys, nas; nas.SearchSpace.load('mobile_64px').largest(); nas.search.slim; "
        "nas.mobile_efficiency_score; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names():
    assert nas.__all__ == [
        "Architecture", "LatencyTable", "SearchSpace", "Supernet", "UserError", "build",
        "load_timm_state_dict", "mobile_efficiency_score", "resize_attention_biases",
        "to_timm_state_dict",
    ]  # fmt: skip
    assert all(getattr(nas, name) is not None for name in nas.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'surprise'"):
        _ = nas.surprise


def test_another_number_of_classes_changes_the_head_alone():
    original = Architecture.load("efficientformer_v2_s0")
    changed = original.with_classes(7)
    assert (original.classes, changed.classes) == (1000, 7)
    assert changed.layers[:-1] == original.layers[:-1]
    assert changed.with_classes(1000) == original


def test_a_changed_copy_forgets_what_was_computed_of_the_original():
    largest = SearchSpace.load("demo_64px").largest()
    head = largest.layers[-1]
    assert head.signature == "classifier in_channels=160 classes=10 distillation=false"
    assert (
        largest.with_classes(37).layers[-1].signature
        == "classifier in_channels=160 classes=37 distillation=false"
    )
    assert hash(largest.with_classes(37)) != hash(largest)
    assert head.model_copy(update={"classes": 10}) == head


def test_a_network_for_grey_pictures_is_refused_where_pictures_are_read():
    grey = Architecture.model_validate(
        {
            "input_shape": (1, 32, 32),
            "layers": [
                {"slot": "stem", "kind": "conv_stem", "in_channels": 1, "out_channels": 8},
                {"slot": "head", "kind": "classifier", "in_channels": 8, "classes": 10},
            ],
        }
    )
    with pytest.raises(UserError, match="pictures are read in 3 colours, its first layer takes 1"):
        grey.require_colour()
    Architecture.load("mobilevit_v1_xxs").require_colour()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[3, 256, 256]", "[3, 1000000000000, 64]", "input_shape[1]: input should be less than"),
        ('"out_channels": 16', '"out_channels": 1000000000000', "layers[0].out_channels: input"),
        ('"expansion": 2.0', '"expansion": 1e300', "expansion: input should be less than or equal"),
        ('"expansion": 2.0', '"expansion": 1e-9', "its expansion leaves no channel inside of it"),
        ('"expansion": 2.0', '"expansion": NaN', "a number must be finite, got NaN"),
        ('"classes": 1000', '"classes": 1, "classes": 2', "key 'classes' stands twice"),
    ],
)
def test_networks_beyond_all_reason_are_refused_in_one_line(old, new, message):
    text = Architecture.load("mobilevit_v1_xxs").to_json()
    assert old in text
    with pytest.raises(UserError) as caught:
        Architecture.from_json(text.replace(old, new, 1))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
