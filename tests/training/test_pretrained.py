"""Trainings that start from pretrained weights: their phases, their reference, what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file

from nas import pipeline
from nas.architecture import Architecture
from nas.deploy.weights import load_weights, save_weights
from nas.errors import UserError
from nas.network import build
from nas.preprocessing import Preprocessing
from nas.space import SearchSpace
from nas.training.evaluation import accuracy
from nas.training.pretrained import given_network, reference_network
from nas.training.retraining import Retraining
from nas.training.run import Run
from nas.training.settings import DataSettings, SupernetSettings

HALF = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop=0.875)
IMAGES = {"spec": "digits", "limit": 200, "search_share": 0.3}


@pytest.fixture(scope="module")
def weights(tmp_path_factory, small_space, randomized):
    """A file with weights of the largest network, with a classifier of other classes."""
    network = build(small_space.with_classes(5).largest())
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_weights(randomized(network), path)
    return path


def settings_of(weights, **changes):
    given = {"weights": str(weights), "epochs": 2, "reference_epochs": 3, **changes}
    return SupernetSettings(random_subnets=1, **given)


@pytest.fixture(scope="module")
def space(small_space):
    return small_space.with_preprocessing(HALF)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, space, weights, recorder):
    path, progress = tmp_path_factory.mktemp("runs") / "run", recorder()
    run = pipeline.train(
        space, path, data=DataSettings(**IMAGES), settings=settings_of(weights), progress=progress
    )
    return run, progress.lines


def test_the_phases_are_told(trained, weights):
    _, lines = trained
    told = "\n".join(lines)
    assert f"{weights}: their classifier of 5 classes is replaced by one of 10" in told
    first = told.index("the largest network learns the images")
    assert first < told.index("the importance of channels is measured")


def test_the_run_keeps_the_reference_network(trained, space):
    run, _ = trained
    folder = Retraining.open(run.path / "reference")
    assert folder.is_finished
    assert folder.record.recipe.name == "finetuning"
    assert (folder.record.recipe.epochs, folder.record.recipe.head_epochs) == (3, 1)
    result = json.loads((folder.path / "result.json").read_text())
    network = reference_network(run)
    test = run.load_images().test
    assert accuracy(network, test.at(16)) == result["test_accuracy"]
    assert run.load_teacher() is not None
    assert Architecture.load(run.reference_files[0]).preprocessing == HALF


def test_preprocessing_goes_from_the_space_to_images_and_networks(trained):
    run, _ = trained
    assert run.space.preprocessing == HALF
    assert run.space.smallest().preprocessing == HALF
    images, _ = next(run.load_images().test.batches(8))
    assert images.min() == pytest.approx(-1)
    assert images.max() <= 1


def test_the_largest_network_keeps_the_statistics_of_its_norms(trained, weights):
    run, _ = trained
    supernet = run.load_supernet()
    assert supernet.anchored
    largest = supernet.extract(run.space.largest())
    before = reference_network(run).state_dict()
    for name, tensor in largest.state_dict().items():
        if name.endswith("running_var"):
            known = before[name].sort().values
            assert torch.allclose(tensor.sort().values, known)  # in the order of importance


def test_a_training_that_was_stopped_anywhere_ends_as_if_it_was_not(
    tmp_path, space, weights, trained, stop_at
):
    run, _ = trained
    data, settings = DataSettings(**IMAGES), settings_of(weights)
    path, resume = tmp_path / "run", False
    for step in (3, 7, 3, 100_000):
        try:
            pipeline.train(
                space, path, data=data, settings=settings, resume=resume, progress=stop_at(step)
            )
        except UserError as error:
            assert "stopped" in str(error)  # noqa: PT017
        resume = (path / "run.json").exists()
    assert Run.open(path).checkpoint_path.read_bytes() == run.checkpoint_path.read_bytes()


@pytest.mark.parametrize("importance", ["magnitude", "none"])
def test_other_orders(tmp_path, space, weights, importance):
    settings = settings_of(weights, importance=importance, epochs=1, reference_epochs=2)
    run = pipeline.train(space, tmp_path / "run", data=DataSettings(**IMAGES), settings=settings)
    assert run.is_finished


def test_weights_that_do_not_fit_are_refused_before_anything_is_written(
    tmp_path, space, randomized
):
    path = tmp_path / "wrong.safetensors"
    save_weights(build(space.smallest()), path)
    with pytest.raises(UserError, match="weights do not fit tiny"):
        pipeline.train(
            space, tmp_path / "run", data=DataSettings(**IMAGES), settings=settings_of(path)
        )
    assert not (tmp_path / "run").exists()


def test_force_deletes_no_folder_that_merely_has_the_references_name(tmp_path, space, weights):
    kept = tmp_path / "mine" / "reference" / "notes.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    with pytest.raises(UserError, match="holds other things than a run"):
        pipeline.train(
            space,
            tmp_path / "mine",
            data=DataSettings(**IMAGES),
            settings=settings_of(weights),
            force=True,
        )
    assert kept.read_text() == "mine"


def test_force_trains_another_reference(tmp_path, space, weights):
    path, data = tmp_path / "run", DataSettings(**IMAGES)
    settings = settings_of(weights, epochs=1, reference_epochs=2)
    pipeline.train(space, path, data=data, settings=settings)
    stale = path / "reference" / "stale.txt"
    stale.write_text("of the run before")
    pipeline.train(space, path, data=data, settings=settings, force=True)
    assert not stale.exists()
    assert Run.open(path).has_reference


def test_the_named_network_must_be_the_largest(tmp_path, space):
    space.largest().with_preprocessing(Preprocessing()).save(tmp_path / "own.json")
    space.smallest().save(tmp_path / "smallest.json")
    assert given_network(space, str(tmp_path / "own.json")).preprocessing == Preprocessing()
    with pytest.raises(UserError, match="is not the largest network of the space 'tiny': stem is"):
        given_network(space, str(tmp_path / "smallest.json"))


def test_with_weights_other_defaults_hold(weights):
    assert SupernetSettings(weights=str(weights)).learning_rate < SupernetSettings().learning_rate
    assert SupernetSettings(weights=str(weights), learning_rate=0.1).learning_rate == 0.1


@pytest.mark.parametrize(("epochs", "of_the_head"), [(1, 0), (2, 1), (30, 2)])
def test_few_epochs_are_not_all_of_the_head(tmp_path, small_space, weights, epochs, of_the_head):
    folder, _ = Retraining.begin(
        tmp_path / "one",
        small_space.largest(),
        weights=str(weights),
        images=IMAGES,
        recipe={"epochs": epochs},
    )
    assert folder.record.recipe.head_epochs == of_the_head


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (
            {"epochs": 2, "head_epochs": 2},
            "recipe: head_epochs must be fewer than the 2 epochs, got 2",
        ),
        ({"epochs": 0}, "recipe: epochs: Input should be greater than 0"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_in_one_line(
    tmp_path, small_space, weights, recipe, message
):
    with pytest.raises(UserError, match=f"^{message}$"):
        Retraining.begin(
            tmp_path / "one",
            small_space.largest(),
            weights=str(weights),
            images=IMAGES,
            recipe=recipe,
        )
    assert not (tmp_path / "one").exists()


@pytest.fixture(scope="module")
def retrained(tmp_path_factory, small_space, weights):
    folder = tmp_path_factory.mktemp("retrained") / "one"
    recipe = {"epochs": 4, "head_epochs": 2}
    network = small_space.largest().with_preprocessing(HALF)
    result = pipeline.retrain(network, folder, weights=str(weights), images=IMAGES, recipe=recipe)
    return folder, result


def test_retrain_starts_from_weights(retrained, weights):
    folder, result = retrained
    retraining = Retraining.open(folder)
    assert retraining.record.weights == str(weights)
    assert result["recipe"] == "finetuning"
    assert result["inherited_test_accuracy"] is None
    network = build(retraining.architecture)
    load_weights(network, folder / "weights.safetensors")
    start = retraining.start().state_dict()
    for name, tensor in network.state_dict().items():
        if "running_" in name:
            assert torch.equal(tensor, start[name]), name


def test_first_the_head_learns_alone(tmp_path, small_space, weights, stop_at):
    folder = tmp_path / "one"
    with pytest.raises(UserError, match="stopped in epoch 2"):
        pipeline.retrain(
            small_space.largest(), folder, weights=str(weights), images=IMAGES,
            recipe={"epochs": 4, "head_epochs": 1}, progress=stop_at(5),
        )  # fmt: skip
    begun = Retraining.open(folder)
    start = begun.start().state_dict()
    saved = load_file(begun.checkpoint_path)
    changed = {
        name
        for name, tensor in start.items()
        if not torch.equal(saved[f"model.network.{name}"], tensor)
    }
    assert changed
    assert all(name.startswith("head.") and "norm" not in name for name in changed)


def test_a_retraining_starts_from_one_source(tmp_path, small_space, weights, trained):
    run, _ = trained
    with pytest.raises(UserError, match="from a supernet or from --weights, not from both"):
        pipeline.retrain(run.space.largest(), tmp_path / "one", supernet=run, weights=str(weights))


def test_a_space_is_one_of_its_weights(space):
    again = SearchSpace.model_validate(space.model_dump())
    assert again.preprocessing == HALF
