"""The facts about images, and the spaces that a plan chooses from."""

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.architecture import Architecture
from nas.errors import UserError
from nas.firstrun.facts import DataFacts
from nas.firstrun.measuring import BUILT_IN, candidates, read_facts, space_around
from nas.firstrun.request import Request
from nas.space import SearchSpace


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Fifty photographs of two classes, 60 pixels on their shorter side; one was held upright."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(50):
        path = root / "ab"[number % 2] / f"IMG_{number:04}.JPG"
        path.parent.mkdir(exist_ok=True)
        size = (60, 90) if number == 7 else (90, 60)
        Image.fromarray(np.full((size[1], size[0], 3), number, np.uint8)).save(path)
    return root


def data(side, classes=6):
    return DataFacts(classes=classes, train=1600, search=400, test=500, search_share=0.2,
                     has_test=False, side=side, seconds=0.002)  # fmt: skip


def words(request, side):
    return [(it.word, it.space.largest_size) for it in candidates(request, data(side))]


def test_images_are_counted_by_their_use(photos):
    found = read_facts(Request(data=f"folder:{photos}"))
    assert (found.classes, found.has_test, found.side) == (2, False, 60)
    assert (found.train, found.search, found.test) == (30, 10, 10)
    assert found.search_share == 0.25
    assert 0 < found.seconds < 1
    assert read_facts(Request(data=f"folder:{photos}"), 0.1).search == 4


def test_all_pictures_that_cannot_be_read_are_named_before_anything_is_measured(photos, tmp_path):
    photos = shutil.copytree(photos, tmp_path / "photos")
    damaged = sorted(photos.rglob("*.*"))[:7]
    for place in damaged:
        place.write_bytes(place.read_bytes()[:-40])
    with pytest.raises(
        UserError, match=r"7 of \d+ images are unreadable: .* and 4 more; "
    ) as found:
        read_facts(Request(data=f"folder:{photos}"))
    _, _, command = str(found.value).partition("replace or remove them: ")
    assert sorted(shlex.split(command)) == sorted(["rm", *map(str, damaged)])
    for place in damaged[1:]:
        place.unlink()
    with pytest.raises(UserError, match=r"unreadable image \(.*\); replace or remove it$"):
        read_facts(Request(data=f"folder:{photos}"))


def test_small_pictures_are_not_enlarged():
    request = Request(data="folder:p")
    assert words(request, 256) == list(BUILT_IN)
    assert words(request, 32) == [("cifar10_32px", 32)]
    assert words(request, 8) == [("cifar10_32px", 32)]  # there is none for fewer pixels
    assert max(size for _, size in words(request, 64)) == 96


def test_candidates_know_the_classes_and_bear_their_size_in_their_name():
    found = list(candidates(Request(data="folder:p"), data(256)))
    assert {it.space.classes for it in found} == {6}
    assert [it.space.name for it in found][-2:] == ["mobile_96px", "mobile_128px"]


def test_built_in_spaces_come_from_cheap_to_dear():
    from nas.network import measure_size

    found = [it.space for it in candidates(Request(data="folder:p"), data(256))]
    macs = [measure_size(space.largest()).macs for space in found]
    assert macs == sorted(macs)


def test_a_space_that_is_asked_for_is_the_only_candidate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own.json").write_text(SearchSpace.load("demo_64px").to_json())
    assert words(Request(data="folder:p", space="own.json"), 8) == [("own.json", 64)]


@pytest.mark.slow
def test_around_a_network_there_is_a_space_of_each_size_up_to_its_own():
    request = Request(data="folder:p", architecture="efficientnet_lite_0")
    found = list(candidates(request, data(256)))
    assert [it.space.largest_size for it in found] == [96, 128, 160, 192, 224]
    given = Architecture.load("efficientnet_lite_0").with_classes(6)
    assert found[-1].space.largest() == given
    assert found[0].space == space_around(given.with_input_size(96))
