"""What a user asks for is compared word for word when a run goes on."""

import pytest
from pydantic import ValidationError

from nas.errors import UserError
from nas.firstrun.request import Request


def test_the_same_request_goes_on():
    Request(data="digits", minutes=3.0).require_same(Request(data="digits", minutes=3.0), "r")


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({"target_ms": 1.1}, {"target_ms": 2.0}, "with --target-ms 1.1, now with --target-ms 2;"),
        ({}, {"minutes": 5.0}, "without --minutes, now with --minutes 5;"),
        ({"space": "a.yaml"}, {}, "with --space a.yaml, now without --space;"),
        ({"cores": "4-7"}, {}, "with --cores 4-7, now without --cores;"),
        ({}, {"seed": 1}, "with --seed 0, now with --seed 1;"),
    ],
)
def test_another_request_is_told_what_differs_in_one_line(before, now, told):
    request = Request(data="digits", **before)
    with pytest.raises(UserError) as caught:
        request.require_same(Request(data="digits", **now), "runs/x")
    assert str(caught.value).startswith(f"runs/x: was started {told}")
    assert "name another --out, or start anew with --force" in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"weights": "w.pth"},
        {"space": "s", "architecture": "a"},
        {"minutes": 0.0},
        {"target_ms": float("inf")},
    ],
)
def test_a_request_without_sense_is_refused(fields):
    with pytest.raises(ValidationError):
        Request(data="digits", **fields)
