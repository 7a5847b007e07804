from __future__ import annotations

import itertools
from typing import Any

import pytest

from nas.architecture import Architecture
from nas.errors import UserError
from nas.space import SearchSpace
from nas.training.batches import BatchPlan, PlannedBatch, reading_size


def plan(**changes: Any) -> BatchPlan:
    known = {"images": 1000, "batch_size": 36, "input_size": 64, "epochs": 5, "seed": 3}
    return BatchPlan(**{**known, "resolutions": (32, 64, 96), **changes})


def test_a_step_takes_the_same_area_at_every_resolution() -> None:
    for epoch in range(5):
        found = plan().epoch(epoch)
        assert {batch.resolution for batch in found} == {32, 64, 96}
        assert {batch.size * batch.resolution**2 for batch in found} == {36 * 64**2}


def test_an_epoch_takes_all_images_but_a_last_batch_that_would_not_be_full() -> None:
    steps = [0]
    for epoch in range(5):
        taken = sum(batch.size for batch in plan().epoch(epoch))
        assert 1000 - 144 < taken <= 1000  # 144 images of 32 px are a batch
        steps.append(steps[-1] + len(plan().epoch(epoch)))
    assert plan().first_steps == tuple(steps)
    assert plan().total_steps == steps[-1]


def test_resolutions_depend_on_seed_and_epoch_alone() -> None:
    assert plan().epoch(2) == plan(epochs=9).epoch(2)
    drawn = [plan(seed=seed).epoch(epoch) for seed in (3, 4) for epoch in range(5)]
    assert all(first != second for first, second in itertools.combinations(drawn, 2))


def test_without_resolutions_all_batches_are_alike() -> None:
    alone = plan(resolutions=())
    assert alone.epoch(4) == [PlannedBatch(36, 64)] * (1000 // 36)
    assert alone.first_steps == (0, 27, 54, 81, 108, 135)


def test_few_images_are_one_batch() -> None:
    assert [batch.size for batch in plan(images=20, resolutions=()).epoch(0)] == [20]
    assert all(sum(it.size for it in plan(images=20).epoch(epoch)) <= 20 for epoch in range(5))


def test_images_are_read_at_the_largest_size_that_a_network_sees(tiny_space: SearchSpace) -> None:
    assert reading_size(tiny_space, ()) == 32
    assert reading_size(tiny_space, (16, 32, 48)) == 48
    architecture = tiny_space.smallest()
    assert reading_size(architecture, ()) == 32
    assert reading_size(architecture, (24, 32)) == 32
    several = SearchSpace.model_validate({**tiny_space.model_dump(), "input_size": [16, 32]})
    assert reading_size(several, ()) == 32


@pytest.mark.parametrize(
    ("resolutions", "message"),
    [
        ((32, 50), "tiny: input sizes must be multiples of 8, got 50"),
        ((16, 48), "resolutions: must contain the input size of 'tiny', 32, got 16, 48"),
    ],
)
def test_resolutions_that_do_not_fit(
    tiny_space: SearchSpace, resolutions: tuple[int, ...], message: str
) -> None:
    with pytest.raises(UserError) as error:
        reading_size(tiny_space, resolutions)
    assert str(error.value) == message


def test_resolutions_that_do_not_fit_an_architecture(tiny_space: SearchSpace) -> None:
    with pytest.raises(UserError, match=r"tiny at 50 px: stem: the map must be a multiple of 4"):
        reading_size(tiny_space.largest(), (32, 50))
    published = Architecture.load("efficientformer_v2_s0")
    with pytest.raises(UserError, match=r"must contain the input size of .*, 224, got 160, 192"):
        reading_size(published, (160, 192))
