from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.module import register_module_forward_hook
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from nas.data import Dataset
from nas.space import SearchSpace
from nas.supernet import Supernet
from nas.training.batches import Batch
from nas.training.run import Run
from nas.training.settings import DataSettings, LatencyTerm, SupernetSettings
from nas.training.supernets import (
    add_path_gradients,
    fresh_supernet,
    gumbel_noise,
    gumbel_weights,
    path_probabilities,
    sample_by_paths,
    scheduled_temperature,
    train_supernet,
)

FFN, ATTENTION = "stage1.block1.ffn", "stage2.block1.attention"


@pytest.fixture
def supernet(tiny_space: SearchSpace) -> Supernet:
    return fresh_supernet(tiny_space, seed=0, layer_scale=0.5).double().train()


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(0)
    images = torch.randn(6, 3, 32, 32, dtype=torch.float64)
    return Batch(images, torch.randint(10, (6,)), size=6, resolution=32)


def set_logits(supernet: Supernet, **values: list[float]) -> None:
    for slot, logits in zip((FFN, ATTENTION), supernet.path_logits.values(), strict=True):
        with torch.no_grad():
            logits.copy_(torch.tensor(values[slot.rpartition(".")[2]]))


def test_noise_is_gumbels_and_the_generator_decides_it() -> None:
    noise = gumbel_noise(np.random.default_rng(3), 400_000).numpy()
    error = (np.pi**2 / 6 / len(noise)) ** 0.5
    assert noise.mean() == pytest.approx(0.5772, abs=4 * error)  # Euler's constant
    assert noise.var() == pytest.approx(np.pi**2 / 6, rel=0.01)
    for x in (-1.0, 0.0, 0.5, 2.0):  # the whole distribution, not only two moments
        assert (noise <= x).mean() == pytest.approx(np.exp(-np.exp(-x)), abs=0.004)
    assert np.array_equal(noise, gumbel_noise(np.random.default_rng(3), 400_000).numpy())


@pytest.mark.parametrize("temperature", [0.3, 5.0])
def test_a_candidate_wins_as_often_as_its_probability_says(
    supernet: Supernet, temperature: float
) -> None:
    set_logits(supernet, ffn=[0.0, 1.2], attention=[0.5, -0.5])
    rng = np.random.default_rng(0)
    wins: Counter[str] = Counter()
    for _ in range(2000):
        for slot, weights in gumbel_weights(supernet.path_logits, rng, temperature).items():
            assert weights.sum().item() == pytest.approx(1)
            wins[slot] += int(weights[1] > weights[0])
    for slot, chances in path_probabilities(supernet).items():
        assert wins[slot] / 2000 == pytest.approx(list(chances.values())[1], abs=0.04)


def test_probabilities_are_the_softmax_of_the_logits_by_kind(supernet: Supernet) -> None:
    set_logits(supernet, ffn=[0.0, np.log(3)], attention=[0.0, 0.0])
    found = path_probabilities(supernet)
    assert list(found) == [FFN, ATTENTION]
    assert found[FFN] == pytest.approx({"identity": 0.25, "conv_ffn": 0.75})
    assert found[ATTENTION] == pytest.approx({"identity": 0.5, "attention4d": 0.5})


def test_the_temperature_falls_by_the_same_factor_in_each_step() -> None:
    found = [scheduled_temperature(step, steps=11, start=5.0, end=0.05) for step in range(11)]
    assert found[0] == 5.0
    assert found[10] == pytest.approx(0.05)
    assert found[5] == pytest.approx(0.5)
    ratios = np.divide(found[1:], found[:-1])
    assert ratios == pytest.approx([ratios[0]] * 10)
    assert scheduled_temperature(0, steps=1, start=5.0, end=0.5) == 5.0


def test_gradients_of_the_logits_equal_finite_differences(supernet: Supernet, batch: Batch) -> None:
    images, labels, *_ = batch
    set_logits(supernet, ffn=[0.3, -0.2], attention=[-0.1, 0.4])
    term = LatencyTerm(weight=0.7, table="t.csv", largest_ms=2.0,
                       ms={FFN: (0.0, 0.4), ATTENTION: (0.1, 1.1)})  # fmt: skip

    def loss() -> float:
        noise = np.random.default_rng(1)
        weights = gumbel_weights(supernet.path_logits, noise, 0.8)
        ms = sum(
            chance * cost
            for slot, chances in path_probabilities(supernet).items()
            for chance, cost in zip(chances.values(), term.ms[slot], strict=True)
        )
        with torch.no_grad():
            outputs = supernet.mixture(images, weights)
        return functional.cross_entropy(outputs, labels).item() + 0.7 * ms / 2.0

    found = add_path_gradients(
        supernet, batch, rng=np.random.default_rng(1), temperature=0.8, latency=term
    )
    for logits in supernet.path_logits.values():
        assert logits.grad is not None
        for index in range(2):
            before = loss()
            step = 1e-6
            with torch.no_grad():
                logits[index] += step
                slope = (loss() - before) / step
                logits[index] -= step
            assert logits.grad[index].item() == pytest.approx(slope, rel=1e-3, abs=1e-7)
    assert not found.requires_grad
    assert found.item() < loss()  # without the latency term


def test_a_high_price_lowers_the_probability_of_what_costs(
    tiny_space: SearchSpace, supernet: Supernet, batch: Batch
) -> None:
    term = LatencyTerm(weight=1e3, table="t.csv", largest_ms=1.0,
                       ms={FFN: (0.0, 0.5), ATTENTION: (0.0, 0.5)})  # fmt: skip
    for latency, expected in ((term, True), (None, False)):
        supernet.zero_grad()
        add_path_gradients(
            supernet, batch, rng=np.random.default_rng(0), temperature=1.0, latency=latency
        )
        gradients = [logits.grad for logits in supernet.path_logits.values()]
        assert all(bool(it[1] > 1) == expected for it in gradients if it is not None)


def test_paths_are_drawn_as_often_as_their_probabilities_say(tiny_space: SearchSpace) -> None:
    probabilities = {
        FFN: {"identity": 0.1, "conv_ffn": 0.9},
        ATTENTION: {"identity": 1.0, "attention4d": 0.0},
    }
    rng = np.random.default_rng(0)
    drawn = [sample_by_paths(tiny_space, rng, probabilities) for _ in range(1000)]
    slots = Counter(layer.slot for architecture in drawn for layer in architecture.layers)
    assert slots[FFN] / 1000 == pytest.approx(0.9, abs=0.04)
    assert slots[ATTENTION] == 0
    assert len({it.layers[0] for it in drawn}) == 2  # widths stay random


def test_without_probabilities_the_space_decides(tiny_space: SearchSpace) -> None:
    for seed in range(5):
        found = sample_by_paths(tiny_space, np.random.default_rng(seed), {})
        assert found == tiny_space.sample(np.random.default_rng(seed))


def trained(
    folder: Path, space: SearchSpace, dataset: Dataset, data: DataSettings, **settings: object
) -> Run:
    recipe = SupernetSettings.model_validate({"epochs": 2, "batch_size": 32, "seed": 1, **settings})
    run = Run.create(folder / "run", space=space, data=data, settings=recipe, dataset=dataset,
                     force=True)  # fmt: skip
    train_supernet(run, dataset)
    return run


@pytest.fixture(scope="module")
def data() -> DataSettings:
    return DataSettings(spec="digits", limit=320, search_share=0.2)


@pytest.fixture(scope="module")
def dataset(data: DataSettings) -> Dataset:
    return data.load(16)


def test_probabilities_move_away_from_uniform_and_are_logged_and_saved(
    tmp_path: Path, small_space: SearchSpace, data: DataSettings, dataset: Dataset
) -> None:
    run = trained(tmp_path, small_space, dataset, data)
    log = [json.loads(line) for line in run.log_path.read_text().splitlines()]
    assert all(np.isfinite(line["loss/mixture"]) for line in log)
    assert log[-1]["temperature"] == pytest.approx(run.settings.last_temperature)
    saved = path_probabilities(run.load_supernet())
    for slot, chances in log[-1]["paths"].items():
        assert chances == pytest.approx(saved[slot], abs=1e-4)
    assert max(abs(chances["identity"] - 0.5) for chances in saved.values()) > 0.02
    assert log[0]["paths"] != log[-1]["paths"]


def test_a_price_has_its_say_in_training(
    tmp_path: Path, small_space: SearchSpace, data: DataSettings, dataset: Dataset
) -> None:
    ms = {FFN: (0.0, 0.5), ATTENTION: (0.0, 0.5)}
    term = LatencyTerm(weight=100.0, table="t.csv", largest_ms=1.0, ms=ms)
    run = trained(
        tmp_path, small_space, dataset, data, latency=term, path_learning_rate=0.2, path_interval=2
    )
    assert all(it["identity"] > 0.6 for it in path_probabilities(run.load_supernet()).values())


def test_without_path_choice_the_logits_stay_as_they_are(
    tmp_path: Path, small_space: SearchSpace, data: DataSettings, dataset: Dataset
) -> None:
    run = trained(tmp_path, small_space, dataset, data, path_choice=False, epochs=1)
    logits = run.load_supernet().path_logits.values()
    assert not any(torch.count_nonzero(it) for it in logits)
    (line,) = [json.loads(it) for it in run.log_path.read_text().splitlines()]
    assert not {"loss/mixture", "temperature", "paths"} & line.keys()


def test_the_mixture_takes_the_place_of_a_random_subnet_and_touches_no_weight(
    tmp_path: Path, small_space: SearchSpace, data: DataSettings, dataset: Dataset
) -> None:
    runs = [
        trained(tmp_path / name, small_space, dataset, data, epochs=1, staggered=False, **settings)
        for name, settings in (
            ("with", {"random_subnets": 2, "path_interval": 1}),
            ("without", {"random_subnets": 1, "path_choice": False}),
        )
    ]
    found, expected = (run.load_supernet().state_dict() for run in runs)
    for name, tensor in found.items():
        assert tensor.equal(expected[name]) != name.endswith("path_logits"), name


def test_a_mixture_runs_in_the_first_step_of_an_epoch_and_then_at_each_interval(
    tmp_path: Path, small_space: SearchSpace, data: DataSettings, dataset: Dataset
) -> None:
    networks: list[nn.Module] = []
    steps: list[tuple[int, bool]] = []

    def count(module: nn.Module, *_: object) -> None:
        if isinstance(module, nn.Linear) and module.training:  # a head
            networks.append(module)

    def record(optimizer: Optimizer, *_: object) -> None:
        path_logits = optimizer.param_groups[2]["params"]
        steps.append((len(networks), all(it.grad is not None for it in path_logits)))
        networks.clear()

    hooks = register_module_forward_hook(count), register_optimizer_step_pre_hook(record)
    trained(
        tmp_path, small_space, dataset, data, epochs=2, batch_size=36, random_subnets=1,
        path_interval=3,
    )  # fmt: skip
    for hook in hooks:
        hook.remove()
    # three networks, of two heads each: the largest, the smallest, and a random one or the mixture
    epoch = [(6, step % 3 == 0) for step in range(7)]
    assert steps == epoch * 2
