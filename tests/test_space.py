import itertools
import json

import numpy as np
import pytest

from nas.architecture import Architecture
from nas.documents import BUILT_IN, parse_document
from nas.errors import UserError
from nas.families.limits import least_size
from nas.network import layer_size, measure_size
from nas.space import (
    SearchSpace,
    built_in_architectures,
    built_in_spaces,
    named_choice,
)

TEXT = """\
name: tiny
input_size: 32
classes: 10
stem: {kind: conv_stem}
stages:
  - width: [8, 16]
    blocks:
      - repeat: 2
        ffn: [identity, {kind: conv_ffn, expansion: [1, 2.5]}]
  - width: [16, 24]
    downsample: {kind: conv_downsample}
    blocks:
      - attention: [identity, {kind: attention4d, stride: 2}]
        ffn: {kind: conv_ffn, expansion: 2}
head: {kind: classifier}
"""

BETWEEN = ("v1_l3", "v2_s1", "v2_s2")
SPACES = [
    pytest.param(name, marks=[pytest.mark.slow] * any(part in name for part in BETWEEN))
    for name in built_in_spaces()
]
"""Those of networks between the smallest and the largest of a family are for ``make test-all``."""


def load(text):
    return SearchSpace.from_document(parse_document(text, "a.yaml"))


@pytest.fixture(scope="module")
def tiny():
    return load(TEXT)


def test_choices_are_ordered_and_cheapest_first(tiny):
    assert dict(tiny.choices) == {
        "stage1.width": (8, 16),
        "stage1.block1.ffn.kind": ("identity", "conv_ffn"),
        "stage1.block1.ffn.expansion": (1.0, 2.5),
        "stage1.block2.ffn.kind": ("identity", "conv_ffn"),
        "stage1.block2.ffn.expansion": (1.0, 2.5),
        "stage2.width": (16, 24),
        "stage2.block1.attention.kind": ("identity", "attention4d"),
    }
    assert tiny.cardinality == 2**7


def test_decode_gives_what_the_indices_say(tiny):
    architecture = tiny.decode((1, 0, 1, 1, 1, 0, 0))
    assert [(layer.slot, layer.signature) for layer in architecture.layers] == [
        ("stem", "conv_stem out_channels=16"),
        ("stage1.block2.ffn", "conv_ffn channels=16 expansion=2.5"),
        ("stage2.downsample", "conv_downsample in_channels=16 out_channels=16"),
        ("stage2.block1.ffn", "conv_ffn channels=16 expansion=2"),
        ("head", "classifier in_channels=16 classes=10"),
    ]


def test_assignments_that_differ_in_a_removed_block_decode_to_one_architecture(tiny):
    assert tiny.decode((1, 0, 0, 1, 1, 0, 0)) == tiny.decode((1, 0, 1, 1, 1, 0, 0))


def test_canonical_assignments_and_architectures_are_one_to_one(tiny):
    every = list(itertools.product(*map(range, tiny.sizes)))
    canonical = {one: tiny.canonical(one) for one in every}
    assert all(tiny.decode(one) == tiny.decode(settled) for one, settled in canonical.items())
    assert len(set(canonical.values())) == len({tiny.decode(one) for one in every}) == 2 * 3 * 3 * 4
    assert tiny.canonical((1, 0, 1, 1, 1, 0, 0)) == (1, 0, 0, 1, 1, 0, 0)


@pytest.mark.parametrize("name", built_in_spaces())
def test_canonical_assignments_of_built_in_spaces_keep_the_architecture(name):
    space = SearchSpace.load(name)
    rng = np.random.default_rng(0)
    for _ in range(5):
        one = tuple(int(index) for index in rng.integers(space.sizes))
        settled = space.canonical(one)
        assert space.decode(settled) == space.decode(one)
        assert space.canonical(settled) == settled
        assert all(here <= there for here, there in zip(settled, one, strict=True))


@pytest.mark.parametrize("assignment", [(0,) * 6, (2, *[0] * 6), (-1, *[0] * 6)])
def test_assignments_out_of_range_are_refused(tiny, assignment):
    with pytest.raises(ValueError, match=r"tiny: (7 choices, got 6|stage1\.width: 2 options, got)"):
        tiny.decode(assignment)


def test_layers_are_exactly_those_of_all_architectures(tiny):
    everything = set()
    for assignment in itertools.product(*(range(size) for size in tiny.sizes)):
        for layer, shape in tiny.decode(assignment).placed():
            everything.add((layer.signature, shape))
    assert set(tiny.layers()) == everything


@pytest.mark.parametrize("name", SPACES)
def test_built_in_spaces_hold_their_samples(name):
    space = SearchSpace.load(name)
    rows = set(space.layers())
    rng = np.random.default_rng(0)
    smallest, largest = measure_size(space.smallest()), measure_size(space.largest())
    for _ in range(3):
        architecture = space.sample(rng)
        assert {(layer.signature, shape) for layer, shape in architecture.placed()} <= rows
        assert smallest.macs <= measure_size(architecture).macs <= largest.macs
    assert SearchSpace.from_document(parse_document(space.to_json(), "x")) == space
    assert hash(space) == hash(SearchSpace.load(name))


@pytest.mark.parametrize(
    "name", [it for it in built_in_architectures() if it.startswith("efficientformer")]
)
def test_each_published_network_lies_in_the_space_around_it(name):
    space, published = SearchSpace.load(f"{name}_224px"), Architecture.load(name)
    rows = set(space.layers())
    assert {(layer.signature, shape) for layer, shape in published.placed()} <= rows
    slots = {slot.name for slot in space.slots}
    assert {layer.slot for layer in published.layers} <= slots


MIXED = TEXT.replace(
    "ffn: [identity, {kind: conv_ffn, expansion: [1, 2.5]}]",
    "any: [identity, {kind: metablock4d, expansion: [1, 2]}, {kind: metablock3d, expansion: 4, "
    "heads: [2, 4]}, {kind: conv_ffn, expansion: [1, 2]}]",
)


def test_each_kind_of_a_slot_brings_its_own_fields_and_those_of_one_name_are_one_choice():
    space = load(MIXED)
    assert {name: space.choices[name] for name in space.choices if ".block1.any" in name} == {
        "stage1.block1.any.kind": ("identity", "metablock4d", "metablock3d", "conv_ffn"),
        "stage1.block1.any.expansion": (1.0, 2.0),
        "stage1.block1.any.heads": (2, 4),
    }
    position = space.kind_choices["stage1.block1.any"]
    made = []
    for kind in range(4):
        assignment = [size - 1 for size in space.sizes]
        assignment[position] = kind
        made += [
            layer.signature
            for layer in space.decode(assignment).layers
            if layer.slot == "stage1.block1.any"
        ]
    assert made == [
        "metablock4d channels=16 expansion=2",
        "metablock3d channels=16 expansion=4 heads=4",
        "conv_ffn channels=16 expansion=2",
    ]


def test_kinds_of_one_slot_with_other_options_for_one_field_have_a_choice_each():
    text = MIXED.replace(
        "{kind: conv_ffn, expansion: [1, 2]}", "{kind: conv_ffn, expansion: [1, 3]}"
    )
    space = load(text)
    names = [name for name in space.choices if ".block1.any" in name]
    assert {name: space.choices[name] for name in names} == {
        "stage1.block1.any.kind": ("identity", "metablock4d", "metablock3d", "conv_ffn"),
        "stage1.block1.any.metablock4d.expansion": (1.0, 2.0),
        "stage1.block1.any.heads": (2, 4),
        "stage1.block1.any.conv_ffn.expansion": (1.0, 3.0),
    }
    slot = next(it for it in space.slots if it.name == "stage1.block1.any")
    expected = {layer.signature for layer, _ in space.variants(slot) if layer is not None}
    rest = [size - 1 for size in space.sizes]
    places = [list(space.choices).index(name) for name in names]
    made, canonical = set(), set()
    for options in itertools.product(*(range(space.sizes[place]) for place in places)):
        for place, option in zip(places, options, strict=True):
            rest[place] = option
        found = [it for it in space.decode(rest).layers if it.slot == slot.name]
        made |= {layer.signature for layer in found}
        canonical.add(space.canonical(tuple(rest)))
    assert made == {it for it in expected if "channels=16" in it}
    assert len(canonical) == 1 + len(made)  # and the slot left out


@pytest.mark.parametrize("name", [*built_in_spaces(), "mixed"])
def test_choices_are_found_again_by_their_names(name):
    mixed = MIXED.replace("{kind: conv_ffn, expansion: [1, 2]}", "{kind: conv_ffn, expansion: [1]}")
    space = load(mixed) if name == "mixed" else SearchSpace.load(name)
    found = tuple(named_choice(name, options) for name, options in space.choices.items())
    assert found == space.typed_choices


@pytest.mark.parametrize(
    "name", ["width", "stage0.width", "stage1", "stem.kind.a.b", "stage1.ffn.a"]
)
def test_names_that_no_choice_has_are_refused(name):
    with pytest.raises(ValueError, match="is the name of no choice"):
        named_choice(name, (1, 2))


@pytest.mark.parametrize("name", built_in_spaces())
def test_kinds_of_built_in_spaces_stand_in_the_order_of_their_macs(name):
    for slot, candidates in SearchSpace.load(name).paths.items():
        costs = [layer_size(*placed).macs if placed else -1 for placed in candidates]
        assert costs == sorted(costs), slot


def test_samples_take_all_kinds_as_often_whatever_their_size():
    space = load(MIXED)
    rng = np.random.default_rng(0)
    place = space.kind_choices["stage1.block1.any"]
    drawn = np.bincount([space.sample_assignment(rng)[place] for _ in range(1200)], minlength=4)
    assert abs(drawn[0] / 1200 - 1 / 2) < 0.05
    assert np.abs(drawn[1:] / 1200 - 1 / 6).max() < 0.04


def test_uniform_scaling_keeps_the_kinds_of_the_largest_network():
    space = load(MIXED)
    kinds = [index for slot, index in space.kind_choices.items() if slot.endswith(".any")]
    found = [tuple(space.uniform(share)[place] for place in kinds) for share in (0, 0.5, 1)]
    assert found == [(0, 0), (0, 3), (3, 3)]


def test_pooling_and_attention_blocks_may_stand_in_any_order():
    space = SearchSpace.load("efficientformer_v1_64px")
    kinds = [name for name in space.choices if name.startswith("stage4") and name.endswith("kind")]
    assignment = dict.fromkeys(space.choices, 0) | dict(zip(kinds, (2, 1, 2), strict=True))
    layers = space.decode(tuple(assignment.values())).layers
    assert [layer.kind for layer in layers if layer.slot.startswith("stage4.block")] == [
        "metablock3d", "metablock4d", "metablock3d"
    ]  # fmt: skip


def test_samples_spread_over_sizes_and_repeat_with_the_seed():
    space = SearchSpace.load("mobile_64px")
    rng, again = np.random.default_rng(1), np.random.default_rng(1)
    samples = [space.sample(rng) for _ in range(200)]
    assert samples[:5] == [space.sample(again) for _ in range(5)]
    macs = np.array([measure_size(sample).macs for sample in samples[:60]])
    largest = measure_size(space.largest()).macs
    assert macs.min() < 0.2 * largest
    assert macs.max() > 0.7 * largest


def test_uniform_scaling_runs_from_smallest_to_largest_in_even_steps():
    space = SearchSpace.load("mobile_64px")
    assert space.decode(space.uniform(0)) == space.smallest()
    assert space.decode(space.uniform(1)) == space.largest()
    costs = [measure_size(space.decode(space.uniform(t / 20))).macs for t in range(21)]
    assert costs == sorted(costs)
    half = dict(zip(space.choices, space.uniform(0.5), strict=True))
    kept = [
        index for name, index in half.items() if name.startswith("stage3.") and "ffn.kind" in name
    ]
    assert abs(len(kept) - 2 * sum(kept)) <= 1  # half of those that may go


def test_with_classes_changes_the_head_alone(tiny):
    other = tiny.with_classes(37)
    assert other.largest().classes == 37
    assert other.largest().layers[:-1] == tiny.largest().layers[:-1]


def test_input_size_may_be_a_choice():
    space = load(TEXT.replace("input_size: 32", "input_size: [32, 48]"))
    assert space.largest().input_shape == (3, 48, 48)
    assert space.smallest().input_shape == (3, 32, 32)
    maps = {shape[1:] for (signature, shape) in space.layers() if "conv_ffn" in signature}
    assert maps == {(8, 8), (12, 12), (4, 4), (6, 6)}


def test_stride_is_a_choice_that_falls():
    text = TEXT.replace("stride: 2", "stride: [2, 1]")
    assert load(text).choices["stage2.block1.attention.stride"] == (2, 1)
    with pytest.raises(UserError, match=r"a\.yaml:13:51: .*\.stride: .*\(descending\), got 1, 2"):
        load(TEXT.replace("stride: 2", "stride: [1, 2]"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("width: [8, 16]", "width: [8, 18]",
         "a.yaml:6:16: stages[0].width[1]: must be a multiple of 4, got 18"),
        ("width: [8, 16]", "width: 30", "a.yaml:6:5: stages[0].width: must be a multiple of 4, got 30"),
        ("width: [8, 16]", "width: []", "a.yaml:6:5: stages[0].width: a choice needs at least one option"),
        ("width: [8, 16]", "width: [16, 8]",
         "a.yaml:6:5: stages[0].width: must go from cheapest to most expensive (ascending), got 16, 8"),
        ("width: [8, 16]", "width: [8, 8]", "a.yaml:6:5: stages[0].width: lists an option twice, got 8, 8"),
        ("width: [8, 16]", "widht: [8, 16]",
         "a.yaml:6:5: stages[0].widht: unknown key 'widht'; did you mean 'width'?"),
        ("expansion: [1, 2.5]", "expansion: []",
         "a.yaml:9:42: stages[0].blocks[0].ffn[1].expansion: a choice needs at least one option"),
        ("expansion: [1, 2.5]", "expansion: [1, -2]",
         "a.yaml:9:57: stages[0].blocks[0].ffn[1].expansion[1]: input should be greater than 0, got -2"),
        ("expansion: [1, 2.5]", "expanson: [1, 2.5]",
         "a.yaml:9:42: stages[0].blocks[0].ffn[1].expanson: unknown key 'expanson'; did you mean "
         "'expansion'?"),
        ("[identity, {kind: conv_ffn", "[identity, {kind: conv_fn",
         "a.yaml:9:25: stages[0].blocks[0].ffn[1]: unknown kind 'conv_fn'; did you mean 'conv_ffn'?"),
        ("[identity, {kind: attention4d, stride: 2}]", "[{kind: attention4d, stride: 2}, identity]",
         "a.yaml:13:9: stages[1].blocks[0].attention: must list identity first"),
        ("[identity, {kind: attention4d, stride: 2}]", "[identity, identity]",
         "a.yaml:13:9: stages[1].blocks[0].attention: each kind may stand once"),
        ("ffn: {kind: conv_ffn, expansion: 2}", "FFN: {kind: conv_ffn, expansion: 2}",
         "a.yaml:14:9: stages[1].blocks[0].FFN: a slot's name must be in lower case"),
        ("input_size: 32", "input_size: 36", "a.yaml:2:1: input_size: 36 px do not fit: "),
        ("classes: 10\n", "", "a.yaml:1:1: key 'classes' is missing"),
        ("repeat: 2", "repeat: 0",
         "a.yaml:8:9: stages[0].blocks[0].repeat: input should be greater than 0, got 0"),
        ("    downsample: {kind: conv_downsample}\n", "",
         "a.yaml:10:5: stages[1].width: nothing leads from the width before to this one (8 16 or 16 24); "
         "add a layer that does to the stage, such as downsample: {kind: conv_downsample}"),
        ("downsample: {kind: conv_downsample}", "downsample: [identity, {kind: conv_downsample}]",
         "a.yaml:11:5: stages[1].downsample: leads from width 8 to 16, but identity makes 8"),
        ("head: {kind: classifier}", "head: {kind: conv_ffn, expansion: 1}",
         "a.yaml:15:1: head: must be a classifier, got conv_ffn"),
        ("head: {kind: classifier}", "head: identity", "a.yaml:15:1: head: must be a classifier, got identity"),
        ("stem: {kind: conv_stem}", "stem: identity", "a.yaml:4:1: stem: leads from width 3 to 8, but identity"),
        ("classes: 10", "classes: 10\nchannels: 1",
         "a.yaml:4:1: channels: pictures are read in colour, must be 3, got 1"),
        ("input_size: 32", "input_size: 1000000000000",
         "a.yaml:2:1: input_size: input should be less than or equal to 4096, got 1000000000000"),
        ("classes: 10", "classes: 1000000000000", "a.yaml:3:1: classes: input should be less than"),
        ("repeat: 2", "repeat: 100000", "a.yaml:8:9: stages[0].blocks[0].repeat: input should be less than"),
        ("repeat: 2", "repeat: 999", "a.yaml:5:1: stages: a network may have 1,000 layers, this space has 1,001"),
        ("width: [8, 16]", "width: 4000000", "a.yaml:6:5: stages[0].width: input should be less than"),
        ("width: [8, 16]", f"width: {list(range(4, 40000, 4))}",
         "a.yaml:6:5: stages[0].width: may hold 100, got 9999"),
        ("expansion: [1, 2.5]", "expansion: [1, 1e400]",
         "a.yaml:9:57: a number must be finite, got 1e400"),
        ("expansion: [1, 2.5]", "expansion: [1, 1e300]",
         "a.yaml:9:57: stages[0].blocks[0].ffn[1].expansion[1]: input should be less than or equal to 64"),
        ("expansion: [1, 2.5]", "expansion: [0.01, 2.5]",
         "a.yaml:9:9: stages[0].blocks[0].ffn: Value error, stage1.block1.ffn: its expansion leaves no"),
        ("downsample: {kind: conv_downsample}", "downsample: {kind: conv_ffn, expansion: 1}",
         "a.yaml:11:5: stages[1].downsample: stage2.downsample: takes 16 channels, got 8"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_with_place_rule_and_value(old, new, message):
    assert old in TEXT
    with pytest.raises(UserError) as caught:
        load(TEXT.replace(old, new))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_an_architecture_file_is_no_space():
    with pytest.raises(UserError, match="a search space is a mapping with 'stages'"):
        load(SearchSpace.load("mobile_64px").largest().to_json())


def test_unknown_space_lists_what_there_is():
    with pytest.raises(UserError, match=r"search space 'mobil_64px'.*did you mean 'mobile_64px'"):
        SearchSpace.load("mobil_64px")


def test_schema_allows_a_list_wherever_a_choice_is_allowed():
    schema = SearchSpace.model_json_schema()
    ffn = schema["$defs"]["ConvFFNSpec"]["properties"]["expansion"]
    assert [option["type"] for option in ffn["anyOf"]] == ["number", "array"]
    assert schema["$defs"]["IdentitySpec"]["anyOf"][0] == {"const": "identity"}


@pytest.mark.parametrize(
    ("value", "name"), [(SearchSpace, "space"), (Architecture, "architecture")]
)
def test_the_schema_files_for_editors_are_up_to_date(value, name):
    stored = json.loads((BUILT_IN / "schema" / f"{name}.json").read_text())
    assert stored == value.model_json_schema()


def test_path_choices_hold_each_candidate_as_the_largest_network_has_it(tiny):
    assert list(tiny.paths) == ["stage1.block1.ffn", "stage1.block2.ffn", "stage2.block1.attention"]
    placed = {layer.slot: (layer, shape) for layer, shape in tiny.largest().placed()}
    for slot, candidates in tiny.paths.items():
        assert candidates == (None, placed[slot])


@pytest.mark.parametrize("name", built_in_spaces())
def test_path_choices_stand_in_the_order_of_their_kinds(name):
    space = SearchSpace.load(name)
    assert space.paths.keys() == space.kind_choices.keys()
    for slot, candidates in space.paths.items():
        found = tuple(placed[0].kind if placed else "identity" for placed in candidates)
        assert found == space.typed_choices[space.kind_choices[slot]].options
        shapes = {placed[0].output_shape(placed[1]) for placed in candidates if placed}
        assert len(shapes) == 1


def test_kinds_of_a_slot_must_make_maps_of_one_size():
    data = SearchSpace.load("mobilevit_64px").model_dump(exclude_defaults=True)
    message = r"kinds make maps of different sizes, \(7, 7\) and \(8, 8\)"
    with pytest.raises(ValueError, match=message):
        SearchSpace.model_validate({**data, "input_size": 224})


@pytest.mark.parametrize("name", SPACES)
def test_placed_layers_are_those_of_an_architecture_decoded_afresh(name):
    space, rng = SearchSpace.load(name), np.random.default_rng(0)
    for _ in range(5):
        assignment = space.sample_assignment(rng)
        afresh = SearchSpace.load(name).decode(assignment)  # no layer of it was made before
        assert list(space.placed(assignment)) == list(afresh.placed())
        assert space.decode(assignment) == afresh
    sizes = (space.input_size, 2 * space.input_size)
    sized = SearchSpace.model_validate({**json.loads(space.to_json()), "input_size": sizes})
    smaller, larger = ([*sized.placed((size, *assignment))] for size in (0, 1))
    assert larger == list(sized.decode((1, *assignment)).placed()) != smaller


def test_placed_refuses_what_is_no_assignment():
    space = SearchSpace.load("demo_64px")
    for wrong in ((0,), (-1, *[0] * (len(space.sizes) - 1))):
        with pytest.raises(ValueError, match=r"choices, got 1|options, got -1"):
            list(space.placed(wrong))


def test_a_space_of_more_layers_than_can_be_measured_is_refused_at_once():
    widths = list(range(4, 404, 4))
    many = f"conv_ffn, expansion: {[1 + i / 100 for i in range(100)]}"
    text = TEXT.replace("[8, 16]", str(widths)).replace("conv_ffn, expansion: [1, 2.5]", many)
    message = (
        r"a\.yaml:9:9: .*\.ffn: 10,100 layers may stand in stage1\.block1\.ffn, 60,908 in all "
    )
    with pytest.raises(UserError, match=message + "slots; the most for a table is 50,000"):
        load(text.replace("repeat: 2", "repeat: 6"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "[8, 16]",
            "16384",
            r"its largest network: a network may have 2e\+09 parameters, this one",
        ),
        ("input_size: 32", "input_size: 4096", r"a network may have 1e\+12 multiply-accumulates"),
    ],
)
def test_the_largest_network_has_bounds(old, new, message):
    big = TEXT.replace("expansion: [1, 2.5]", "expansion: 64").replace("[16, 24]", "16384")
    with pytest.raises(UserError, match=message):
        load(big.replace(old, new))


@pytest.mark.parametrize("name", [*built_in_spaces(), *built_in_architectures()])
def test_no_network_is_smaller_than_the_least_size_told_of_it(name):
    if name in built_in_spaces():
        networks = [SearchSpace.load(name).smallest(), SearchSpace.load(name).largest()]
    else:
        networks = [Architecture.load(name)]
    for network in networks:
        for layer, shape in network.placed():
            params, macs = least_size(layer, shape)
            size = layer_size(layer, shape)
            assert params <= size.params, layer
            assert macs <= size.macs, layer
        least = sum(least_size(*placed)[0] for placed in network.placed())
        assert measure_size(network).params <= 40 * least


def test_stages_of_one_fixed_width_need_nothing_between_them():
    text = TEXT.replace("[8, 16]", "16").replace("[16, 24]", "16")
    space = load(text.replace("    downsample: {kind: conv_downsample}\n", ""))
    assert measure_size(space.largest()).params > measure_size(space.smallest()).params
