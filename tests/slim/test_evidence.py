"""What a verdict says of its worth stands on the page that it names."""

import re
from pathlib import Path

import pytest

from nas.slim.evidence import PAGE, evidence
from nas.space import SearchSpace

EFFICIENTFORMER, MOBILENET, OTHER = "mobile_64px", "mobilenet_64px", "across_32px"


@pytest.mark.parametrize("from_weights", [False, True])
@pytest.mark.parametrize("name", [EFFICIENTFORMER, MOBILENET, OTHER])
def test_each_figure_of_the_evidence_stands_on_its_page(name, from_weights):
    page = (Path(__file__).parents[2] / PAGE).read_text()
    found = evidence(SearchSpace.load(name), from_weights=from_weights)
    figures = re.findall(r"\d[\d.,]*\d", found)
    assert figures
    assert all(figure in page for figure in figures)


def test_runs_from_weights_and_from_nothing_are_told_apart():
    space = SearchSpace.load(MOBILENET)
    assert evidence(space, from_weights=True) != evidence(space, from_weights=False)


def test_runs_from_nothing_are_told_apart_by_the_layers_of_their_blocks():
    names = EFFICIENTFORMER, MOBILENET, OTHER
    found = [evidence(SearchSpace.load(it), from_weights=False) for it in names]
    assert len(set(found)) == 3
    assert "0.57 points" in found[0]
    assert "0.99 points" in found[1]
    assert "was not measured" in found[2]


def test_every_space_of_the_default_one_s_layers_is_told_the_same():
    names = EFFICIENTFORMER, "cifar10_32px", "demo_64px", "efficientformer_v2_s0_224px"
    assert len({evidence(SearchSpace.load(it), from_weights=False) for it in names}) == 1


def test_a_space_without_layers_in_its_blocks_is_not_told_of_others():
    ends = {"stem": {"kind": "conv_stem"}, "head": {"kind": "classifier"}}
    stages = [{"width": [8, 16]}, {"width": [16, 24], "downsample": {"kind": "conv_downsample"}}]
    space = SearchSpace.model_validate(
        {"name": "bare", "input_size": 32, "classes": 10, **ends, "stages": stages}
    )
    assert "was not measured" in evidence(space, from_weights=False)
