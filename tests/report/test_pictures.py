from dataclasses import replace

import pytest

from nas.latency.target import detect_target
from nas.report.pictures import draw_check, draw_frontier, draw_profiles


def without_operators(profiles):
    return [replace(profile, operators=None) for profile in profiles]


@pytest.mark.parametrize(
    "draw",
    [
        lambda path, made: draw_frontier(path, made["result"]),
        lambda path, made: draw_check(path, made["check"], title="tiny, digits"),
        lambda path, made: draw_profiles(path, made["profiles"], detect_target()),
        lambda path, made: draw_profiles(
            path, without_operators(made["profiles"]), detect_target()
        ),
    ],
    ids=["frontier", "check", "profiles", "layers"],
)
def test_a_picture_is_a_png_and_the_same_for_the_same_values(
    draw, tmp_path, result, check, profiles
):
    made = {"result": result, "check": check, "profiles": profiles}
    for name in ("a.png", "b.png"):
        draw(tmp_path / name, made)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_picture_of_a_frontier_shows_the_walk(tmp_path, result):
    draw_frontier(tmp_path / "walk.png", result)
    draw_frontier(tmp_path / "none.png", result.model_copy(update={"walk": ()}))
    assert (tmp_path / "walk.png").read_bytes() != (tmp_path / "none.png").read_bytes()
