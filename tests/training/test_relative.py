"""Relative statistics against their formula in float64, and the largest network as it was."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from nas.network import build
from nas.supernet import Supernet
from nas.training.evaluation import calibrate_relatively, inherited_network
from nas.training.evaluator import Evaluator
from nas.training.relative import (
    Anchor,
    Moments,
    RelativeStatistics,
    anchoring,
    moments,
    relative,
    relative_to,
)


@pytest.fixture
def norms():
    """A norm over 6 channels with statistics of its own, and one over the first 4 of them."""
    torch.manual_seed(0)
    full = nn.BatchNorm2d(6).double().eval()
    full.running_mean, full.running_var = torch.randn(6).double(), torch.rand(6).double() + 0.5
    part = copy.deepcopy(nn.BatchNorm2d(4).double()).eval()
    for norm in (full, part):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return full, part


def by_formula(x, seen, stored, epsilon):
    """The statistics of a norm on ``x``, written out in numpy."""
    m, v = x.mean((0, 2, 3)), x.var((0, 2, 3))
    ratio = (v + epsilon) / (seen[1] + epsilon)
    return m + (stored[0] - seen[0]) * np.sqrt(ratio), (stored[1] + epsilon) * ratio - epsilon


def test_statistics_are_those_of_the_formula(norms):
    full, part = norms
    x, y = torch.randn(8, 6, 3, 3).double(), 2 * torch.randn(8, 4, 3, 3).double() + 1
    with anchoring({"a": full}) as anchors:
        assert torch.equal(full(x), copy.deepcopy(full)(x))  # stored statistics
    statistics = RelativeStatistics({"a": part})
    with statistics.batch(anchors):
        part(y)
    statistics.store()
    seen = x.numpy().mean((0, 2, 3))[:4], x.numpy().var((0, 2, 3))[:4]
    stored = full.running_mean.numpy()[:4], full.running_var.numpy()[:4]
    mean, variance = by_formula(y.numpy(), seen, stored, full.eps)
    assert np.allclose(part.running_mean, mean)
    assert np.allclose(part.running_var, variance)


def test_in_training_a_batch_is_normalised_as_it_will_be_in_evaluation(norms):
    full, part = norms
    x, y = torch.randn(8, 6, 3, 3).double(), 2 * torch.randn(8, 4, 3, 3).double() + 1
    with anchoring({"a": full}) as anchors:
        full(x)
    with relative_to(anchors, {"a": part}):
        trained = part(y)
    statistics = RelativeStatistics({"a": part})
    with statistics.batch(anchors):
        part(y)
    statistics.store()
    assert torch.allclose(trained, part(y))


def test_inputs_like_the_anchors_get_the_stored_statistics():
    own = Moments(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0]))
    stored = Moments(torch.tensor([3.0, 4.0]), torch.tensor([2.0, 1.0]))
    found = relative(own, Anchor(own, stored), 1e-5)
    assert torch.allclose(found.mean, stored.mean)
    assert torch.allclose(found.variance, stored.variance)


def test_a_norm_that_the_largest_network_lacks_takes_its_own_moments(norms):
    _, part = norms
    y = torch.randn(8, 4, 3, 3).double()
    statistics = RelativeStatistics({"a": part})
    with statistics.batch({}):
        part(y)
    statistics.store()
    assert torch.equal(part.running_mean, moments(y).mean)
    assert torch.equal(part.running_var, moments(y).variance)


def test_statistics_are_means_over_batches(norms):
    full, part = norms
    batches = [torch.randn(4, 6, 3, 3).double() + place for place in range(3)]
    each = []
    for x in batches:
        with anchoring({"a": full}) as anchors:
            full(x)
        one = RelativeStatistics({"a": part})
        with one.batch(anchors):
            part(x[:, :4] * 2)
        one.store()
        each.append(part.running_mean.clone())
    together = RelativeStatistics({"a": part})
    for x in batches:
        with anchoring({"a": full}) as anchors:
            full(x)
        with together.batch(anchors):
            part(x[:, :4] * 2)
    together.store()
    assert torch.allclose(part.running_mean, torch.stack(each).mean(0))


def test_norms_compute_as_before_when_a_context_ends(norms):
    full, _ = norms
    x = torch.randn(8, 6, 3, 3).double()
    expected = full(x)
    with pytest.raises(ValueError, match="stop"), anchoring({"a": full}):
        raise ValueError("stop")
    assert torch.equal(full(x), expected)
    assert "forward" not in vars(full)


@pytest.fixture(scope="module")
def anchored(tiny_space, digits, randomized):
    supernet = Supernet(tiny_space, anchored=True)
    randomized(supernet)
    return supernet.eval(), digits


def test_the_largest_network_stays_what_it_was(anchored):
    supernet, dataset = anchored
    largest = supernet.space.largest()
    plain, found = supernet.extract(largest), inherited_network(supernet, largest, dataset.train)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)
    again = build(largest)
    again.load_state_dict(plain.state_dict())
    rng = np.random.default_rng(0)
    calibrate_relatively(
        again, largest, plain, largest, dataset.train, batches=3, batch_size=32, rng=rng
    )
    for name, tensor in plain.state_dict().items():
        if tensor.is_floating_point():
            assert torch.allclose(again.state_dict()[name], tensor, rtol=1e-4, atol=1e-5), name


def test_what_the_largest_network_sees_is_seen_once_for_all_subnets(anchored, monkeypatch):
    supernet, dataset = anchored
    space, seen = supernet.space, {}
    middle = space.decode(space.uniform(0.5))
    inherited_network(supernet, space.smallest(), dataset.train, seen)
    expected = inherited_network(supernet, middle, dataset.train).state_dict()
    monkeypatch.delattr("nas.training.evaluation.anchoring")
    found = inherited_network(supernet, middle, dataset.train, seen).state_dict()
    assert all(torch.equal(found[name], it) for name, it in expected.items())
    with pytest.raises(NameError):
        inherited_network(supernet, middle, dataset.train)


def test_the_evaluator_calibrates_as_whole_networks_do(anchored, monkeypatch):
    supernet, dataset = anchored
    monkeypatch.setattr("nas.training.evaluation.CALIBRATION_BATCHES", 2)
    monkeypatch.setattr("nas.training.evaluation.CALIBRATION_BATCH_SIZE", 64)
    smallest = supernet.space.smallest()
    network = inherited_network(supernet, smallest, dataset.train)
    evaluator = Evaluator(supernet, dataset)
    subnet = evaluator.subnet(smallest)
    modules = evaluator._calibrated(subnet.prefixes)
    images, _ = next(dataset.search.batches(16))
    found = images
    for module in modules:
        found = module(found)
    assert torch.allclose(found, network(images), rtol=1e-3, atol=1e-4)
