"""Spaces around given networks: each holds its network as the largest, and a much smaller one."""

import pytest

from nas.architecture import Architecture
from nas.documents import built_in_architectures, parse_document
from nas.errors import UserError
from nas.network import measure_size
from nas.space import SearchSpace
from nas.space.new_space import write_space
from nas.supernet import Supernet


def macs(network):
    return measure_size(network).macs


def space_around(network):
    return SearchSpace.from_document(parse_document(write_space(network, macs), "space"))


QUICK = ("efficientnet_lite_0", "mobilenet_v4_conv_small", "levit_128s", "efficientvit_m0",
         "pvt_v2_b0", "mobilevit_v1_xxs", "efficientformer_v1_l1", "efficientformer_v2_s0")  # fmt: skip
ALL = [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK))
    for name in built_in_architectures()
]


@pytest.mark.parametrize("name", ALL)
def test_every_published_network_is_the_largest_of_its_space(name):
    network = Architecture.load(name)
    space = space_around(network)
    assert space.largest() == network
    assert space.preprocessing == network.preprocessing
    assert space.classes == network.classes
    assert macs(space.smallest()) < 0.4 * macs(network)
    assert len(space.choices) > 8


@pytest.mark.parametrize("name", ["efficientnet_lite_0", "levit_128s", "efficientformer_v2_s0"])
def test_the_smallest_network_has_about_a_quarter_of_the_macs(name):
    network = Architecture.load(name)
    assert 0.15 < macs(space_around(network).smallest()) / macs(network) <= 0.25


@pytest.mark.parametrize(
    "name",
    ["efficientnet_lite_0", "mobilenet_v4_conv_small", "levit_128s", "efficientvit_m0",
     "pvt_v2_b0", "mobilevit_v2_050", "efficientformer_v1_l1", "efficientformer_v2_s0"],
)  # fmt: skip
def test_a_supernet_can_be_made_of_it(name):
    Supernet(space_around(Architecture.load(name).with_classes(3)))


def test_other_classes_and_sizes(tmp_path):
    network = Architecture.load("efficientnet_lite_0").with_input_size(128).with_classes(6)
    text = write_space(network, macs)
    path = tmp_path / "space.yaml"
    path.write_text(text)
    space = SearchSpace.load(path)
    assert (space.input_size, space.classes, space.name) == (128, 6, "efficientnet_lite_0_128px")
    assert space.largest() == network
    assert text.count("#") > 6


def test_a_network_whose_slots_have_gaps_is_refused():
    network = Architecture.load("efficientnet_lite_0")
    layers = [layer for layer in network.layers if layer.slot != "stage5.block1.residual"]
    with pytest.raises(UserError, match="no space has it as its largest network"):
        write_space(network.model_copy(update={"layers": tuple(layers)}), macs)
