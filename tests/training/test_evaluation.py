from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas.data import Dataset
from nas.errors import UserError
from nas.network import build
from nas.space import SearchSpace
from nas.supernet import Supernet
from nas.training.evaluation import (
    accuracy,
    calibrate,
    evaluate_supernet,
    find_answers,
    find_hits,
    inherited_accuracy,
    inherited_network,
)
from nas.training.supernets import fresh_supernet


@pytest.fixture
def supernet(tiny_space: SearchSpace) -> Supernet:
    return fresh_supernet(tiny_space, seed=0, layer_scale=1.0).eval()


class NoNumber(nn.Module):
    """Answers half of the images with NaN, the others with one class."""

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.eye(10)[torch.zeros(len(x), dtype=torch.long)]
        return torch.where(torch.arange(len(x))[:, None] % 2 == 0, logits, torch.nan)


def test_images_that_are_answered_by_no_number_are_no_hits(digits: Dataset) -> None:
    images = digits.search
    hits, finite = find_answers(NoNumber(), images, batch_size=len(images))
    even = torch.arange(len(images)) % 2 == 0
    assert torch.equal(finite, even)
    assert torch.equal(hits, even & (images.labels == 0))
    for judge in (accuracy, find_hits):
        message = rf"not finite \(NaN or infinity\) for {len(images) // 2} of {len(images)} images"
        with pytest.raises(UserError, match=message):
            judge(NoNumber(), images, batch_size=len(images))


def test_calibration_equals_the_mean_of_each_batch_seen_by_a_training_network(
    tiny_space: SearchSpace, digits: Dataset
) -> None:
    network = build(tiny_space.largest()).train()
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def watch(name: str, norm: nn.Module) -> None:
        def record(_: nn.Module, inputs: tuple[Tensor]) -> None:
            flat = inputs[0].double().transpose(0, 1).flatten(1)  # (C, N H W)
            seen.setdefault(name, []).append((flat.mean(1).float(), flat.var(1).float()))

        handles.append(norm.register_forward_pre_hook(record))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            watch(name, module)
    batches = islice(digits.train.batches(50, rng=np.random.default_rng(2)), 3)
    with torch.no_grad():
        for images, _ in batches:
            network(images)
    for handle in handles:
        handle.remove()

    calibrate(network, digits.train, batches=3, batch_size=50, rng=np.random.default_rng(2))

    assert len(seen) > 10
    for name, statistics in seen.items():
        norm = network.get_submodule(name)
        means, variances = zip(*statistics, strict=True)
        for found, expected in (norm.running_mean, means), (norm.running_var, variances):
            torch.testing.assert_close(found, torch.stack(expected).mean(0), rtol=1e-4, atol=1e-5)


def test_calibration_changes_nothing_but_statistics(
    tiny_space: SearchSpace, digits: Dataset
) -> None:
    network = build(tiny_space.smallest()).eval()
    before = {name: it.clone() for name, it in network.state_dict().items()}
    momenta = [it.momentum for it in network.modules() if isinstance(it, nn.BatchNorm2d)]
    calibrate(network, digits.train, batches=2, batch_size=50, rng=np.random.default_rng(0))
    changed = {name for name, it in network.state_dict().items() if not it.equal(before[name])}
    assert {name.rpartition(".")[2] for name in changed} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }
    norms = [it for it in network.modules() if isinstance(it, nn.BatchNorm2d)]
    assert [it.momentum for it in norms] == momenta
    assert not any(module.training for module in network.modules())


def test_calibration_copes_with_fewer_images_than_a_batch(
    tiny_space: SearchSpace, digits: Dataset
) -> None:
    network = build(tiny_space.smallest())
    few = digits.train.subset(range(7))
    calibrate(network, few, batches=10, batch_size=100, rng=np.random.default_rng(0))
    assert network.get_submodule("head.norm").num_batches_tracked == 1


def test_accuracy_counts_hits_in_evaluation_mode(tiny_space: SearchSpace, digits: Dataset) -> None:
    torch.manual_seed(0)
    network = build(tiny_space.largest()).train()
    statistics = network.get_submodule("head.norm").running_mean.clone()
    found = accuracy(network, digits.search, batch_size=50)
    images, labels = next(digits.search.batches(len(digits.search)))
    expected = sum(
        int(network.eval()(image[None]).argmax() == label)
        for image, label in zip(images, labels, strict=True)
    )
    assert found == expected / len(digits.search)
    assert statistics.equal(network.get_submodule("head.norm").running_mean)


def test_accuracy_leaves_the_mode_as_it_was(tiny_space: SearchSpace, digits: Dataset) -> None:
    network = build(tiny_space.smallest()).train()
    accuracy(network, digits.search)
    assert network.training


def test_inheriting_leaves_the_supernet_untouched_and_is_reproducible(
    tiny_space: SearchSpace, digits: Dataset, supernet: Supernet
) -> None:
    before = {name: it.clone() for name, it in supernet.state_dict().items()}
    middle = tiny_space.decode(tiny_space.uniform(0.5))
    first = inherited_accuracy(supernet, middle, digits)
    assert first == inherited_accuracy(supernet, middle, digits)
    assert all(it.equal(before[name]) for name, it in supernet.state_dict().items())


def test_an_inherited_network_has_the_weights_and_its_own_statistics(
    tiny_space: SearchSpace, digits: Dataset, supernet: Supernet
) -> None:
    extracted = supernet.extract(tiny_space.smallest()).state_dict()
    network = inherited_network(supernet, tiny_space.smallest(), digits.train)
    assert not network.training
    for name, tensor in network.state_dict().items():
        is_statistic = name.rpartition(".")[2].startswith(("running", "num"))
        assert tensor.equal(extracted[name]) != is_statistic, name


def test_three_subnets_are_evaluated_after_an_epoch(
    tiny_space: SearchSpace, digits: Dataset, supernet: Supernet
) -> None:
    found = evaluate_supernet(supernet, digits)
    assert list(found) == ["smallest", "middle", "largest"]
    assert found["largest"] == inherited_accuracy(supernet, tiny_space.largest(), digits)
