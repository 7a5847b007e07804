from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nas.architecture import Architecture
from nas.space import SearchSpace
from nas.supernet import Supernet
from nas.training.batches import Batch, BatchHistory, TaughtBatch
from nas.training.distillation import Distillation
from nas.training.run import Run
from nas.training.settings import DataSettings, SupernetSettings
from nas.training.supernets import add_gradients, draw_subnets, fresh_supernet, train_supernet


def batch(name: int, side: int = 8) -> TaughtBatch:
    return TaughtBatch(torch.zeros(1, 3, side, side), torch.tensor([name]), torch.zeros(1, 10))


def names(history: BatchHistory, students: int) -> list[int]:
    return [int(history.batch_of(student).labels) for student in range(1, 1 + students)]


def test_students_learn_from_batches_of_earlier_steps_as_far_apart_as_they_can_be() -> None:
    history = BatchHistory(2, spacing=2)
    found = []
    for name in range(9):
        history.add(batch(name))
        found.append(names(history, 2))
    young = [[0, 0], [1, 1], [2, 1], [2, 1], [3, 2], [4, 2]]
    assert found == [*young, [4, 2], [5, 3], [6, 4]]


@pytest.mark.parametrize(("steps", "spacing"), [(9, 3), (8, 2), (6, 2), (1, 1)])
def test_images_take_no_more_memory_than_is_granted(steps: int, spacing: int) -> None:
    history = BatchHistory(2, spacing=4, most_bytes=steps * batch(0).images.nbytes)
    for name in range(30):
        history.add(batch(name))
    assert names(history, 2) == [29 - spacing, 29 - 2 * spacing]


def test_each_part_of_a_step_is_preceded_by_its_like() -> None:
    history = BatchHistory(2, parts=2, spacing=1)
    found = []
    for name in range(10):  # two parts of five steps
        history.add(batch(name))
        found.append(names(history, 2))
    assert found[-2:] == [[6, 4], [7, 5]]
    assert found[:6] == [[0, 0], [1, 1], [2, 2], [3, 3], [4, 2], [5, 3]]


def test_images_of_another_size_have_a_history_of_their_own() -> None:
    history = BatchHistory(1, spacing=1)
    found = []
    for name in range(8):
        history.add(batch(name, side=(8, 16)[name % 2]))
        found += names(history, 1)
    assert found == [0, 1, 2, 3, 2, 3, 4, 5]


def test_each_subnet_learns_from_another_batch_what_the_teacher_made_of_it_then(
    tiny_space: SearchSpace,
) -> None:
    supernet = fresh_supernet(tiny_space, seed=0, layer_scale=0.5).double().train()
    largest = tiny_space.largest()
    subnets = draw_subnets(tiny_space, np.random.default_rng(3), 2)
    torch.manual_seed(0)
    batches = [
        (torch.randn(6, 3, 32, 32, dtype=torch.float64), torch.randint(10, (6,))) for _ in range(5)
    ]
    history = BatchHistory(3, spacing=1)
    targets = []
    for images, labels in batches:
        targets.append(supernet.extract(largest)(images).detach().log_softmax(1))
        supernet.zero_grad(set_to_none=True)
        add_gradients(
            supernet,
            Batch(images, labels, size=6, resolution=32),
            [largest, *subnets],
            Distillation(0.3),
            history=history,
        )
        found = {name: it.grad for name, it in supernet.named_parameters()}
        with torch.no_grad():  # a step: what the teacher makes of the next batch differs
            for parameter in supernet.parameters():
                parameter.mul_(1.01)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.div_(1.01)

    supernet.zero_grad(set_to_none=True)
    functional.cross_entropy(supernet(batches[-1][0], largest), batches[-1][1]).backward()
    for (images, labels), target, subnet in zip(
        batches[3:0:-1], targets[3:0:-1], subnets, strict=True
    ):
        outputs = supernet(images, subnet)
        divergence = (target.exp() * (target - outputs.log_softmax(1))).sum() / len(labels)
        (0.7 * functional.cross_entropy(outputs, labels) + 0.3 * divergence).backward()
    for name, parameter in supernet.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("staggered", [True, False])
def test_in_a_training_no_two_networks_of_a_step_see_the_same_images(
    tmp_path: Path,
    small_space: SearchSpace,
    monkeypatch: pytest.MonkeyPatch,
    staggered: bool,
) -> None:
    data = DataSettings(spec="digits", limit=160, search_share=0.2)
    dataset = data.load(16)
    settings = SupernetSettings(epochs=1, batch_size=16, path_choice=False, staggered=staggered)
    run = Run.create(
        tmp_path / "run", space=small_space, data=data, settings=settings, dataset=dataset
    )
    seen: list[bytes] = []
    forward = Supernet.forward

    def watched(self: Supernet, images: Tensor, subnet: Architecture, **options: Any) -> Tensor:
        if self.training:
            seen.append(images.contiguous().numpy().tobytes())
        return forward(self, images, subnet, **options)

    monkeypatch.setattr(Supernet, "forward", watched)
    train_supernet(run, dataset)
    steps = [seen[start : start + 4] for start in range(0, len(seen), 4)]
    assert len(steps) == len(dataset.train) // 16 == 8
    assert len({step[0] for step in steps}) == len(set(seen)) == 8
    assert {len(set(step)) for step in steps[4:]} == {4 if staggered else 1}
