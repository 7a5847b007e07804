from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.architecture import Architecture
from nas.space import SearchSpace
from nas.supernet import Supernet
from nas.training.batches import Batch
from nas.training.distillation import Distillation, diverge
from nas.training.step import DropPath
from nas.training.supernets import LOSSES, add_gradients, draw_subnets, fresh_supernet


@pytest.fixture
def supernet(tiny_space: SearchSpace) -> Supernet:
    return fresh_supernet(tiny_space, seed=0, layer_scale=0.5).double().train()


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(0)
    images = torch.randn(6, 3, 32, 32, dtype=torch.float64)
    return Batch(images, torch.randint(10, (6,)), size=6, resolution=32)


def named(losses: Tensor) -> dict[str, Tensor]:
    return dict(zip(LOSSES, losses, strict=True))


def mapped_back(
    network: nn.Module, architecture: Architecture
) -> Iterator[tuple[str, tuple[slice, ...], Tensor]]:
    """Where the gradients of an extracted network belong in the supernet, said independently."""
    modules = dict(network.named_modules())
    for layer in architecture.layers:
        for name, parameter in modules[layer.slot].named_parameters():
            owner = modules[f"{layer.slot}.{name}".rpartition(".")[0]]
            key = f"{layer.slot}:{layer.kind}:{name}".replace(".", "/")
            if isinstance(owner, nn.BatchNorm2d):
                key += f"@{owner.num_features}"
            assert parameter.grad is not None
            yield key, tuple(slice(side) for side in parameter.shape), parameter.grad


@pytest.mark.parametrize("distillation", [0.0, 0.3, 1.0])
def test_gradients_of_a_step_are_the_sum_of_those_of_the_extracted_networks(
    tiny_space: SearchSpace,
    supernet: Supernet,
    batch: Batch,
    distillation: float,
) -> None:
    images, labels, *_ = batch
    largest = tiny_space.largest()
    subnets = draw_subnets(tiny_space, np.random.default_rng(3), 2)
    networks = {architecture: supernet.extract(architecture) for architecture in subnets}
    teacher = supernet.extract(largest)

    outputs = teacher(images)
    functional.cross_entropy(outputs, labels).backward()
    target = outputs.detach().softmax(1)
    expected = {name: torch.zeros_like(it) for name, it in supernet.named_parameters()}
    used = set()
    for key, corner, gradient in mapped_back(teacher, largest):
        expected[key][corner] += gradient
        used.add(key)
    for architecture in subnets:
        network = networks[architecture]
        network.zero_grad()
        log_outputs = network(images).log_softmax(1)
        chosen = log_outputs[torch.arange(len(labels)), labels]
        divergence = (target * (target.log() - log_outputs)).sum() / len(labels)
        (-(1 - distillation) * chosen.mean() + distillation * divergence).backward()
        for key, corner, gradient in mapped_back(network, architecture):
            expected[key][corner] += gradient
            used.add(key)

    add_gradients(supernet, batch, [largest, *subnets], Distillation(distillation))

    for name, parameter in supernet.named_parameters():
        assert (parameter.grad is not None) == (name in used), name
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-9, atol=1e-12)


def test_losses_are_means_over_images_and_subnets(
    tiny_space: SearchSpace, supernet: Supernet, batch: Batch
) -> None:
    images, labels, *_ = batch
    largest, smallest = tiny_space.largest(), tiny_space.smallest()
    middle = tiny_space.decode(tiny_space.uniform(0.5))
    target = supernet.extract(largest)(images).softmax(1)
    outputs = [supernet.extract(it)(images).softmax(1) for it in (smallest, middle)]

    losses = named(add_gradients(supernet, batch, [largest, smallest, middle], Distillation(0.5)))

    cross_entropies = [-it.gather(1, labels[:, None]).log().mean() for it in outputs]
    divergences = [(target * (target / it).log()).sum(1).mean() for it in outputs]
    torch.testing.assert_close(losses["largest"], -target.gather(1, labels[:, None]).log().mean())
    torch.testing.assert_close(losses["subnets"], sum(cross_entropies) / 2)
    torch.testing.assert_close(losses["distillation"], sum(divergences) / 2)
    assert losses["hits"] == (target.argmax(1) == labels).sum() / 6


def test_the_teacher_learns_nothing_from_its_students(
    tiny_space: SearchSpace, supernet: Supernet, batch: Batch
) -> None:
    largest, smallest = tiny_space.largest(), tiny_space.smallest()
    only_largest = "stage1/block1/ffn:conv_ffn:fc1/conv/weight"  # the smallest has no such slot
    gradients = []
    for subnets, share in ([smallest], 1.0), ([smallest], 0.0):
        supernet.zero_grad()
        add_gradients(supernet, batch, [largest, *subnets], Distillation(share))
        gradients.append(supernet.get_parameter(only_largest).grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


def test_the_largest_alone_drops_paths(
    tiny_space: SearchSpace, supernet: Supernet, batch: Batch
) -> None:
    largest, smallest = tiny_space.largest(), tiny_space.smallest()
    networks, labels_only = [largest, largest, smallest], Distillation(0.0)
    whole = named(add_gradients(supernet, batch, networks, labels_only))
    drop_path = DropPath(0.5, np.random.default_rng(0))
    dropped = named(add_gradients(supernet, batch, networks, labels_only, drop_path=drop_path))
    torch.testing.assert_close(dropped["subnets"], whole["subnets"], rtol=1e-12, atol=0)
    assert not torch.allclose(dropped["largest"], whole["largest"])


def test_a_step_draws_the_smallest_and_random_subnets_that_the_generator_decides(
    tiny_space: SearchSpace,
) -> None:
    draws = [draw_subnets(tiny_space, np.random.default_rng(5), 3) for _ in range(2)]
    assert draws[0] == draws[1]
    assert len(draws[0]) == 4
    assert draws[0][0] == tiny_space.smallest()
    assert draws[0] != draw_subnets(tiny_space, np.random.default_rng(6), 3)


def test_a_teacher_takes_the_place_of_the_largest(
    tiny_space: SearchSpace, supernet: Supernet, batch: Batch
) -> None:
    images, labels, *_ = batch
    largest, smallest = tiny_space.largest(), tiny_space.smallest()
    outputs = torch.randn(6, 10, dtype=torch.float64)
    target = outputs.softmax(1)
    networks = {it: supernet.extract(it) for it in (largest, smallest)}
    expected = {name: torch.zeros_like(it) for name, it in supernet.named_parameters()}
    for architecture, network in networks.items():
        log_outputs = network(images).log_softmax(1)
        chosen = log_outputs[torch.arange(len(labels)), labels]
        divergence = (target * (target.log() - log_outputs)).sum() / len(labels)
        (-0.75 * chosen.mean() + 0.25 * divergence).backward()
        for key, corner, gradient in mapped_back(network, architecture):
            expected[key][corner] += gradient

    def teacher(given: Tensor) -> Tensor:
        assert given is images
        return outputs

    add_gradients(supernet, batch, [largest, smallest], Distillation(0.25, "kl", teacher))

    for name, parameter in supernet.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-9, atol=1e-12)


def test_the_divergence_is_a_choice(
    tiny_space: SearchSpace, supernet: Supernet, batch: Batch
) -> None:
    images = batch.images
    largest, smallest = tiny_space.largest(), tiny_space.smallest()
    student = supernet.extract(smallest)
    divergence = diverge(student(images), supernet.extract(largest)(images), "alpha")
    divergence.backward()
    supernet.zero_grad()
    losses = named(add_gradients(supernet, batch, [largest, smallest], Distillation(1.0, "alpha")))
    torch.testing.assert_close(losses["distillation"], divergence.detach())
    together = supernet.get_parameter("head:classifier:norm/bias@16")
    expected = student.get_submodule("head.norm").bias.grad
    torch.testing.assert_close(together.grad, expected)  # the largest has a norm of its own there


def test_each_subnet_sees_the_batch_at_its_own_input_size(
    tiny_space: SearchSpace, batch: Batch
) -> None:
    space = SearchSpace.model_validate({**tiny_space.model_dump(), "input_size": [16, 32]})
    supernet = fresh_supernet(space, seed=0, layer_scale=0.5).double().train()
    images, labels, *_ = batch
    small, largest = space.smallest(), space.largest()
    networks = [supernet.extract(it) for it in (largest, small)]
    resized = functional.interpolate(images, (16, 16), mode="bicubic", antialias=True)
    for network, inputs in zip(networks, (images, resized), strict=True):
        functional.cross_entropy(network(inputs), labels).backward()
    add_gradients(supernet, batch, [largest, small], Distillation(0.0))
    key, corner, gradient = next(mapped_back(networks[1], small))
    other = networks[0].get_parameter("stem.conv1.conv.weight").grad
    assert other is not None
    assert key == "stem:conv_stem:conv1/conv/weight"
    expected = other.clone()
    expected[corner] += gradient
    torch.testing.assert_close(supernet.get_parameter(key).grad, expected)


@pytest.fixture
def fixed_norms(tiny_space: SearchSpace) -> Supernet:
    """Norms use their running statistics: those of a part would differ from the whole batch's."""
    return fresh_supernet(tiny_space, seed=0, layer_scale=0.5).double().eval()


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_gradients_and_losses_of_parts_add_up_to_those_of_the_batch(
    tiny_space: SearchSpace, fixed_norms: Supernet, batch: Batch, parts: int
) -> None:
    networks = [tiny_space.largest(), *draw_subnets(tiny_space, np.random.default_rng(3), 2)]
    expected = add_gradients(fixed_norms, batch, networks, Distillation(0.3))
    gradients = {name: it.grad for name, it in fixed_norms.named_parameters()}
    fixed_norms.zero_grad(set_to_none=True)
    split = batch.split(parts)
    assert sorted(len(part.labels) for part in split) == {1: [6], 2: [3, 3], 4: [1, 1, 2, 2]}[parts]
    losses = [
        part.weight * add_gradients(fixed_norms, part, networks, Distillation(0.3))
        for part in split
    ]
    torch.testing.assert_close(torch.stack(losses).sum(0), expected)
    for name, parameter in fixed_norms.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-10, atol=1e-13)


def test_a_share_of_a_batch_counts_as_much_as_it_is_of_it(
    tiny_space: SearchSpace, fixed_norms: Supernet, batch: Batch
) -> None:
    networks = [tiny_space.largest(), tiny_space.smallest()]
    alone = add_gradients(fixed_norms, batch, networks, Distillation(0.0))
    gradient = fixed_norms.get_parameter("head:classifier:head/weight").grad
    fixed_norms.zero_grad(set_to_none=True)
    share = batch._replace(size=24)
    assert share.weight == 0.25
    torch.testing.assert_close(
        add_gradients(fixed_norms, share, networks, Distillation(0.0)), alone
    )
    found = fixed_norms.get_parameter("head:classifier:head/weight").grad
    torch.testing.assert_close(found, gradient / 4)
