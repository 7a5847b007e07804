from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.architecture import Architecture
from nas.data import Dataset
from nas.data.images import MemoryImages
from nas.errors import UserError
from nas.families.parts import Scale
from nas.space import SearchSpace
from nas.training.alone import NetworkTraining, fresh_network, train_alone
from nas.training.evaluation import accuracy
from nas.training.settings import RECIPES, DataSettings, Recipe
from nas.training.supernets import fresh_supernet

PLAIN = Recipe(name="plain", epochs=1, batch_size=32, learning_rate=2e-3, clipping=None)


@pytest.fixture(scope="module")
def few() -> Dataset:
    return DataSettings(spec="digits", limit=120, search_share=0.2).load(32)


@pytest.fixture(scope="module")
def small(tiny_space: SearchSpace) -> Architecture:
    return tiny_space.decode(tiny_space.uniform(0.5))


def changed(**options: Any) -> Recipe:
    return PLAIN.model_copy(update=options)


def begun(
    small: Architecture, few: Dataset, recipe: Recipe, **options: Any
) -> tuple[NetworkTraining, list[Tensor]]:
    """A training, and a list that fills with the weights after each step."""
    network = fresh_network(small, seed=recipe.seed, layer_scale=recipe.layer_scale)
    training = NetworkTraining(small, network, few, recipe, **options)
    seen: list[Tensor] = []
    training.optimizer.register_step_post_hook(lambda *_: seen.append(weights(network)))
    return training, seen


def weights(network: nn.Module) -> Tensor:
    return torch.cat([it.detach().flatten().clone() for it in network.parameters()])


def trained(small: Architecture, few: Dataset, recipe: Recipe, **options: Any) -> Tensor:
    training, seen = begun(small, few, recipe, **options)
    training.run_epoch()
    return seen[-1]


def test_a_plain_training_is_adamw_on_cross_entropy(small: Architecture, few: Dataset) -> None:
    found = train_alone(small, few, changed(epochs=2, weight_decay=0.0, warmup=0.0))
    network = fresh_network(small, seed=0, layer_scale=0.1).train()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.0)
    for epoch in range(2):
        order = np.random.default_rng((0, epoch, 0))
        batches = few.train.batches(32, rng=order, augmentation=few.augmentation, drop_last=True)
        for step, (images, labels) in enumerate(batches, start=3 * epoch):
            functional.cross_entropy(network(images), labels).backward()
            optimizer.param_groups[0]["lr"] = 2e-3 * 0.5 * (1 + math.cos(math.pi * step / 6))
            optimizer.step()
            optimizer.zero_grad()
    # Not the weights: biases before a norm have no gradient but rounding, which Adam magnifies.
    images, _ = next(few.search.batches(24))
    expected = network.eval()(images)
    torch.testing.assert_close(found.eval()(images), expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    "option",
    [
        {"distortions": 2},
        {"erasing": 0.5},
        {"mixup": 0.8},
        {"cutmix": 1.0},
        {"smoothing": 0.1},
        {"clipping": 0.01},
        {"layer_scale": 1e-5},
        {"drop_path": 0.5},
        {"seed": 1},
    ],
    ids=str,
)
def test_every_field_of_a_recipe_has_a_say(
    small: Architecture, few: Dataset, option: dict[str, float]
) -> None:
    plain, other = (trained(small, few, recipe) for recipe in (PLAIN, changed(**option)))
    assert float((plain - other).abs().max()) > 1e-4


@pytest.mark.parametrize("space", ["demo_64px", "efficientformer_v1_64px"])
def test_every_layer_scale_starts_where_the_recipe_says(space: str) -> None:
    loaded = SearchSpace.load(space)
    network = fresh_network(loaded.largest(), seed=0, layer_scale=0.5)
    with_supernet = fresh_supernet(loaded, seed=0, layer_scale=0.5)
    scales = [it for it in network.modules() if isinstance(it, Scale)]
    scales += [
        it for it in with_supernet.extract(loaded.largest()).modules() if isinstance(it, Scale)
    ]
    assert scales
    assert all(bool((it.gamma == 0.5).all()) for it in scales)


def test_a_seed_decides_everything(small: Architecture, few: Dataset) -> None:
    recipe = changed(distortions=2, erasing=0.25, mixup=0.8, cutmix=1.0, averaging=0.99)
    torch.manual_seed(1)  # the global generator has no say
    first = trained(small, few, recipe)
    torch.manual_seed(2)
    assert torch.equal(trained(small, few, recipe), first)


def test_gradients_are_clipped_to_their_norm(small: Architecture, few: Dataset) -> None:
    norms: dict[float | None, list[float]] = {}
    for clipping in None, 0.05:
        training, _ = begun(small, few, changed(clipping=clipping))
        found = norms[clipping] = []

        def record(
            *_: object, training: NetworkTraining = training, found: list[float] = found
        ) -> None:
            gradients = [it.grad.flatten() for it in training.network.parameters()]
            found.append(float(torch.cat(gradients).norm()))

        training.optimizer.register_step_pre_hook(record)
        training.run_epoch()
    assert norms[0.05] == pytest.approx([0.05] * 3, abs=1e-5)
    assert min(norms[None]) > 0.1


def test_what_is_delivered_is_the_average_of_the_weights(small: Architecture, few: Dataset) -> None:
    training, seen = begun(small, few, changed(averaging=0.25))
    training.run_epoch()
    average = seen[0]
    for step, current in enumerate(seen[1:], start=1):
        kept = min(0.25, (1 + step) / (10 + step))
        average = kept * average + (1 - kept) * current
    torch.testing.assert_close(weights(training.delivered), average)
    assert not torch.equal(weights(training.delivered), seen[-1])
    assert training.delivered.get_submodule("head.norm").num_batches_tracked == 3


def test_without_an_average_the_network_itself_is_delivered(
    small: Architecture, few: Dataset
) -> None:
    training, seen = begun(small, few, PLAIN)
    training.run_epoch()
    assert torch.equal(weights(training.delivered), seen[-1])


def test_a_teacher_replaces_its_share_of_the_labels(small: Architecture, few: Dataset) -> None:
    def teacher(images: Tensor) -> Tensor:
        return torch.eye(10)[images.mean((1, 2, 3)).mul(1e4).long() % 10] * 3

    wrong = MemoryImages(few.train.pixels, (few.train.labels + 1) % 10)  # type: ignore[attr-defined]
    mislabelled = dataclasses.replace(few, train=wrong)
    obedient, mixed, alone = (changed(distillation=share) for share in (1.0, 0.5, 0.0))
    first = trained(small, few, obedient, teacher=teacher)
    assert torch.equal(first, trained(small, mislabelled, obedient, teacher=teacher))
    between = trained(small, few, mixed, teacher=teacher)
    assert not torch.equal(between, trained(small, mislabelled, mixed, teacher=teacher))
    last = trained(small, few, alone, teacher=teacher)
    assert torch.equal(last, trained(small, few, PLAIN))
    assert not torch.equal(last, between)


def test_progress_counts_to_the_end(small: Architecture, few: Dataset, recorder) -> None:
    progress = recorder()
    training, _ = begun(small, few, changed(epochs=2), progress=progress)
    while not training.is_finished:
        numbers = training.run_epoch()
    assert set(numbers) == {"loss/labels", "learning_rate", "images_per_second"}
    assert progress.updates[-1][1:] == (6, 6)
    assert progress.updates[-1][0].endswith("0:00 left")
    assert training.evaluate() == {"search slice": accuracy(training.delivered, few.search)}


def test_a_loss_that_is_not_finite_ends_the_training(small: Architecture, few: Dataset) -> None:
    with pytest.raises(UserError, match="not finite in epoch 1; take a learning rate below 1e"):
        train_alone(small, few, changed(learning_rate=1e30, warmup=0.0))


def test_a_network_trained_alone_may_start_from_another(small: Architecture, few: Dataset) -> None:
    start = fresh_network(small, seed=9, layer_scale=0.1)
    before = weights(start)
    found = train_alone(small, few, changed(learning_rate=1e-12, weight_decay=0.0), network=start)
    torch.testing.assert_close(weights(found), before, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_a_network_learns_digits(tiny_space: SearchSpace, digits: Dataset) -> None:
    recipe = RECIPES["light"].model_copy(update={"epochs": 6, "batch_size": 32})
    network = train_alone(tiny_space.largest(), digits, recipe)
    assert accuracy(network, digits.search) > 0.85  # guessing: 0.1
