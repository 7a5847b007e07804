from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from nas.architecture import Architecture
from nas.data import Dataset
from nas.search.walk import drop_per_gain
from nas.space import SearchSpace
from nas.supernet import Supernet
from nas.training.evaluation import accuracy, calibrate
from nas.training.evaluator import BoundedMemory, Evaluator
from nas.training.supernets import fresh_supernet


def scrambled(space: SearchSpace) -> Supernet:
    """A supernet whose layers all matter, though it was not trained."""
    supernet = fresh_supernet(space, seed=0, layer_scale=1.0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return supernet


def evaluated_alone(supernet: Supernet, architecture: Architecture, dataset: Dataset) -> float:
    """Extracted, calibrated and found as a whole."""
    network = supernet.extract(architecture)
    images = dataset.at(architecture.input_size)
    calibrate(network, images.train, batches=4, batch_size=64, rng=np.random.default_rng(0))
    return accuracy(network, images.search)


@pytest.fixture(scope="module")
def small(digits: Dataset) -> Dataset:
    """A third of the images, which makes these tests three times as fast."""
    return Dataset(
        digits.name, digits.classes, digits.train.subset(range(300)), digits.search, digits.test,
        digits.split_sha256, digits.augmentation, digits.held_out,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["private", "shared", "two sizes"])
def supernet(request: pytest.FixtureRequest, tiny_space: SearchSpace) -> Supernet:
    changed: dict[str, object] = {"norms": request.param}
    if request.param == "two sizes":
        changed = {"input_size": [16, 32]}
    document = {**tiny_space.model_dump(exclude_defaults=True), **changed}
    return scrambled(SearchSpace.model_validate(document))


def neighbours(space: SearchSpace, seed: int) -> list[Architecture]:
    """A random architecture, and all that lower one choice of it."""
    rng = np.random.default_rng(seed)
    at = tuple(int(rng.integers(size)) for size in space.sizes)
    lowered = [
        (*at[:choice], index - 1, *at[choice + 1 :]) for choice, index in enumerate(at) if index
    ]
    return [space.decode(one) for one in (at, *lowered)]


def test_accuracies_are_those_of_architectures_evaluated_alone(
    supernet: Supernet, small: Dataset
) -> None:
    before = {name: it.clone() for name, it in supernet.state_dict().items()}
    asked = [one for seed in range(2) for one in neighbours(supernet.space, seed)]
    asked += [supernet.space.largest(), asked[0]]
    evaluator = Evaluator(supernet, small)
    found = [evaluator.accuracy(one) for one in asked]
    assert found == [evaluated_alone(supernet, one, small) for one in asked]
    assert len(set(found)) > 3
    assert all(it.equal(before[name]) for name, it in supernet.state_dict().items())


@pytest.mark.parametrize("cache_mb", [0, 1])
def test_a_small_cache_changes_nothing_and_is_not_exceeded(
    tiny_space: SearchSpace, small: Dataset, cache_mb: int
) -> None:
    supernet = scrambled(tiny_space)
    asked = neighbours(tiny_space, 0)
    ample, tight = Evaluator(supernet, small), Evaluator(supernet, small, cache_mb=cache_mb)
    assert [tight.accuracy(one) for one in asked] == [ample.accuracy(one) for one in asked]
    assert tight.memory.peak <= cache_mb * 1e6 < ample.memory.peak
    assert tight.macs > ample.macs


def test_macs_are_those_of_the_layers_that_ran(tiny_space: SearchSpace, small: Dataset) -> None:
    evaluator = Evaluator(scrambled(tiny_space), small)
    for architecture in neighbours(tiny_space, 3):
        forwarded = evaluator.macs
        with FlopCounterMode(display=False) as counter:
            evaluator.accuracy(architecture)
        assert evaluator.macs - forwarded == counter.get_total_flops() // 2 > 0


def test_an_architecture_runs_from_where_it_parts_from_those_before(
    tiny_space: SearchSpace, small: Dataset
) -> None:
    evaluator = Evaluator(scrambled(tiny_space), small)
    largest = tiny_space.largest()
    *body, last, head = largest.layers
    narrower = last.model_copy(update={"expansion": 1.0})
    spent = []
    for layers in ((last, head), (head,), (narrower, head), (narrower, head)):
        forwarded = evaluator.macs
        evaluator.accuracy(Architecture(input_shape=largest.input_shape, layers=(*body, *layers)))
        spent.append(evaluator.macs - forwarded)
    assert spent[1] > 0.5 * spent[0]  # where they part was not known before: nothing was kept
    assert 0 < spent[2] < 0.3 * spent[0]
    assert spent[3] == 0


def test_what_finalists_gave_is_not_computed_again(tiny_space: SearchSpace, small: Dataset) -> None:
    first, second, *_ = neighbours(tiny_space, 1)
    spent = {}
    for keep_all in (False, True):
        evaluator = Evaluator(scrambled(tiny_space), small)
        everything = np.arange(len(small.search))
        shuffled = np.random.default_rng(0).permutation(everything)
        # one by one, so that nobody knows where the second is to part from the first
        evaluator.predict(evaluator.subnet(first), shuffled[:50], keep_all=keep_all)
        subnet = evaluator.subnet(second)
        forwarded = evaluator.macs
        hits, _ = evaluator.predict(subnet, everything)
        spent[keep_all] = evaluator.macs - forwarded
        alone = evaluated_alone(evaluator.supernet, second, small)
        assert hits.mean() == pytest.approx(alone, abs=1e-12)
    assert spent[True] < spent[False]


def test_a_race_ends_with_the_best_evaluated_on_all_images(
    supernet: Supernet, small: Dataset
) -> None:
    before = {name: it.clone() for name, it in supernet.state_dict().items()}
    current, *candidates = neighbours(supernet.space, 1)
    gains = np.linspace(1, 2, len(candidates))

    def rank(drops: np.ndarray) -> np.ndarray:
        return drop_per_gain(drops, gains)

    found = Evaluator(supernet, small).race(current, candidates, rank)
    exact = [evaluated_alone(supernet, one, small) for one in candidates]
    now = evaluated_alone(supernet, current, small)
    best = int(np.argmin(rank(now - np.array(found))))
    assert found[best] == exact[best]
    assert best == int(np.argmin(rank(now - np.array(exact))))
    assert all(it.equal(before[name]) for name, it in supernet.state_dict().items())


def test_what_was_used_the_longest_ago_makes_room() -> None:
    memory: BoundedMemory[str] = BoundedMemory(10)
    memory.put("a", "first", 4)
    memory.put("b", "second", 4)
    assert memory.get("a") == "first"
    memory.put("c", "third", 4)
    assert [memory.get(key) for key in "abc"] == ["first", None, "third"]


def test_what_is_too_large_alone_is_not_kept_and_evicts_nothing() -> None:
    memory: BoundedMemory[str] = BoundedMemory(10)
    memory.put("a", "small", 4)
    memory.put("b", "large", 11)
    assert (memory.get("a"), memory.get("b"), memory.peak) == ("small", None, 4)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12)), max_size=40))
def test_sizes_add_up_and_stay_within_capacity(puts: list[tuple[int, int]]) -> None:
    memory: BoundedMemory[int] = BoundedMemory(10)
    sizes: dict[int, int] = {}
    for key, size in puts:
        memory.put(key, size, size)
        sizes[key] = size
        assert memory.used == sum(sizes[it] for it in range(6) if memory.get(it) is not None)
        assert memory.used <= memory.peak <= 10
