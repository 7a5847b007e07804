"""What ``nas run`` says of its plan."""

import pytest

from nas.firstrun.estimate import Effort
from nas.firstrun.facts import DataFacts, SpaceFacts
from nas.firstrun.outcome import ADVICE, plan_line
from nas.firstrun.request import Request
from nas.firstrun.schedule import schedule_of


def lines_of(side, **request):
    """The plan's lines for pictures of a side."""
    data = DataFacts(classes=6, train=862, search=288, test=287, search_share=0.25,
                     has_test=False, side=side, seconds=0.0001)  # fmt: skip
    place = SpaceFacts(word="demo_64px", name="demo_64px", input_size=64, layers=85,
                       sandwich_seconds=0.01, largest_seconds=0.003,
                       forward_seconds=(0.001, 0.0004, 0.0001), visit_seconds=0.03,
                       largest_ms=0.5, smallest_ms=0.08)  # fmt: skip
    effort = Effort(epochs=3, evaluations=30, retraining_epochs=6)
    schedule = schedule_of(data, place, effort, target_ms=0.3)
    return plan_line(Request(**request), schedule).split("\n")


def test_photographs_without_weights_are_told_what_these_are_worth():
    assert ADVICE in lines_of(256, data="folder:photos")


@pytest.mark.parametrize(
    ("side", "request_of"),
    [
        (256, {"data": "folder:photos", "architecture": "efficientnet_lite_0", "weights": "w.pth"}),
        (32, {"data": "parquet:cifar10.parquet"}),
        (64, {"data": "shapes"}),
    ],
)
def test_others_are_not(side, request_of):
    assert ADVICE not in lines_of(side, **request_of)
