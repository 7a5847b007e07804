"""What a verdict says of its worth stands on the page that it names."""

import re
from pathlib import Path

import pytest

from nas.slim.evidence import PAGE, evidence


@pytest.mark.parametrize("from_weights", [False, True])
def test_each_figure_of_the_evidence_stands_on_its_page(from_weights):
    page = (Path(__file__).parents[2] / PAGE).read_text()
    figures = re.findall(r"\d[\d.,]*\d", evidence(from_weights=from_weights))
    assert figures
    assert all(figure in page for figure in figures)


def test_runs_from_weights_and_from_nothing_are_told_apart():
    assert evidence(from_weights=True) != evidence(from_weights=False)
