from __future__ import annotations

import dataclasses
import itertools
import shutil
from pathlib import Path

import pytest

from nas.data import Dataset
from nas.errors import UserError
from nas.network import measure_size
from nas.space import SearchSpace
from nas.training.alone import train_alone
from nas.training.check import (
    Compared,
    check_supernet,
    judge_ranks,
    spanning_architectures,
)
from nas.training.evaluation import accuracy, inherited_accuracy
from nas.training.run import Run
from nas.training.settings import DataSettings, Recipe, SupernetSettings, like_the_supernet
from nas.training.supernets import train_supernet


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return DataSettings(spec="digits", limit=120, search_share=0.4).load(16)


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, small_space: SearchSpace, dataset: Dataset
) -> Run:
    run = Run.create(
        tmp_path_factory.mktemp("trained") / "run",
        space=small_space,
        data=DataSettings(spec="digits", limit=120, search_share=0.4),
        settings=SupernetSettings(epochs=1, batch_size=32),
        dataset=dataset,
    )
    train_supernet(run, dataset)
    return run


@pytest.fixture
def run(tmp_path: Path, trained: Run) -> Run:
    """Without a check so far."""
    shutil.copytree(trained.path, tmp_path / "run")
    return Run.open(tmp_path / "run")


@pytest.fixture
def recipe() -> Recipe:
    return like_the_supernet(SupernetSettings(epochs=1, batch_size=32))


def compared(space: SearchSpace, *rows: tuple[float, ...]) -> list[Compared]:
    return [
        Compared(
            architecture=space.smallest(), params=1, macs=1, inherited=first, alone=tuple(others)
        )
        for first, *others in rows
    ]


def test_architectures_span_the_space(tiny_space: SearchSpace) -> None:
    picked = spanning_architectures(tiny_space, 6)
    macs = [measure_size(it).macs for it in picked]
    assert (picked[0], picked[-1]) == (tiny_space.smallest(), tiny_space.largest())
    assert len(set(picked)) == 6
    assert macs == sorted(macs)
    ratios = [after / before for before, after in itertools.pairwise(macs)]
    assert max(ratios) < 1.6  # evenly spread: 1.35 between neighbours, where there is one
    assert picked == spanning_architectures(tiny_space, 6)


def test_a_large_space_is_drawn_from() -> None:
    space = SearchSpace.load("demo_64px")
    picked = spanning_architectures(space, 4)
    assert (picked[0], picked[-1]) == (space.smallest(), space.largest())
    assert len(set(picked)) == 4


def test_a_space_with_too_few_architectures_is_refused(tiny_space: SearchSpace) -> None:
    every = {tiny_space.decode(it) for it in itertools.product(*map(range, tiny_space.sizes))}
    assert set(spanning_architectures(tiny_space, len(every))) == every
    message = f"tiny: has {len(every)} architectures, --architectures must not be above"
    with pytest.raises(UserError, match=message):
        spanning_architectures(tiny_space, len(every) + 1)


def test_ranks_and_gap_by_hand(tiny_space: SearchSpace, recipe: Recipe) -> None:
    rows = compared(tiny_space, (0.1, 0.2, 0.3), (0.2, 0.3, 0.4), (0.3, 0.3, 0.2), (0.4, 0.6, 0.6))
    check = judge_ranks(rows, recipe, images=10)
    # means alone: .25 .35 .25 .6; of six pairs four agree, one disagrees, one is tied
    assert check.tau == pytest.approx(3 / (6 * 5) ** 0.5)
    assert check.tau_interval[0] <= check.tau <= check.tau_interval[1]
    # seeds: (.2 .3 .3 .6) and (.3 .4 .2 .6): four agree, one disagrees, one is tied
    assert check.tau_between_seeds == pytest.approx(3 / (6 * 5) ** 0.5)
    assert check.gap == pytest.approx((-0.15 - 0.15 + 0.05 - 0.2) / 4)
    (first,) = compared(tiny_space, (0.1, 0.2, 0.3))[:1]
    assert first.mean_alone == pytest.approx(0.25)


def test_one_seed_has_no_correlation_between_seeds(tiny_space: SearchSpace, recipe: Recipe) -> None:
    rows = compared(tiny_space, (0.1, 0.2), (0.2, 0.3), (0.3, 0.4))
    check = judge_ranks(rows, recipe, images=10)
    assert (check.tau, check.tau_between_seeds) == (1, None)


def test_a_check_compares_what_it_says(run: Run, dataset: Dataset, recipe: Recipe) -> None:
    check = check_supernet(run, dataset, recipe, architectures=4, seeds=2)
    assert [one.architecture for one in check.compared] == spanning_architectures(run.space, 4)
    second = check.compared[1]
    assert second.inherited == inherited_accuracy(run.load_supernet(), second.architecture, dataset)
    for seed in 0, 1:
        own = recipe.model_copy(update={"seed": seed})
        network = train_alone(second.architecture, dataset, own)
        assert second.alone[seed] == accuracy(network, dataset.search)
    assert (second.params, second.macs) == measure_size(second.architecture)
    assert check.images == len(dataset.search)


def test_a_stopped_check_goes_on(
    run: Run, dataset: Dataset, recipe: Recipe, recorder, stop_at
) -> None:
    journal = run.path / "check.jsonl"

    with pytest.raises(UserError) as error:
        check_supernet(run, dataset, recipe, architectures=4, seeds=1, progress=stop_at(5))
    assert str(error.value) == (
        f"stopped; 2 trainings are kept in {journal}, the same command goes on"
    )
    kept = journal.read_text().splitlines()
    assert len(kept) == 2
    progress = recorder()
    check = check_supernet(run, dataset, recipe, architectures=4, seeds=1, progress=progress)
    assert {text.partition(",")[0] for text, *_ in progress.updates} == {
        "network 3 of 4",
        "network 4 of 4",
    }
    assert journal.read_text().splitlines()[:2] == kept
    journal.unlink()
    assert check == check_supernet(run, dataset, recipe, architectures=4, seeds=1)


def test_only_what_was_trained_alike_is_taken_from_the_journal(
    run: Run, dataset: Dataset, recipe: Recipe, recorder
) -> None:
    check_supernet(run, dataset, recipe, architectures=4, seeds=1)
    progress = recorder()
    check_supernet(run, dataset, recipe, architectures=4, seeds=1, progress=progress)
    assert progress.updates == []
    slower = recipe.model_copy(update={"learning_rate": 1e-4})
    check_supernet(run, dataset, slower, architectures=4, seeds=1, progress=progress)
    assert progress.updates[-1][1:] == (8, 8)  # four trainings of two steps
    progress = recorder()
    check_supernet(run, dataset, recipe, architectures=4, seeds=2, progress=progress)
    assert progress.updates[0][1] > 8  # of 16: the first seed is known


def test_other_images_are_refused(run: Run, dataset: Dataset, recipe: Recipe) -> None:
    changed = dataclasses.replace(
        dataset, held_out=dataset.held_out.model_copy(update={"search_sha256": "another"})
    )
    with pytest.raises(UserError, match="the images of digits are not those that the run was"):
        check_supernet(run, changed, recipe, architectures=4, seeds=1)
