from __future__ import annotations

import pytest

from nas.training.recipe import RECIPES, like_the_supernet, suitable_recipe
from nas.training.settings import Settings


@pytest.mark.parametrize(("images", "name"), [(99_999, "light"), (100_000, "published")])
def test_large_data_get_the_published_recipe(images: int, name: str) -> None:
    assert suitable_recipe(images) == name


def test_recipes_know_their_names() -> None:
    assert {name: recipe.name for name, recipe in RECIPES.items()} == {
        "light": "light",
        "published": "published",
    }


def test_the_supernets_recipe_takes_over_all_that_a_single_network_knows() -> None:
    settings = Settings(
        epochs=3,
        batch_size=17,
        learning_rate=0.5,
        weight_decay=0.25,
        warmup=0.75,
        layer_scale=0.125,
        seed=9,
    )
    recipe = like_the_supernet(settings).model_dump()
    for name in ("epochs", "batch_size", "learning_rate", "weight_decay", "warmup", "layer_scale"):
        assert recipe[name] == getattr(settings, name)
    changed = {"distortions", "erasing", "mixup", "cutmix", "smoothing", "clipping", "averaging"}
    assert not any(recipe[name] for name in changed)
    assert recipe["seed"] == 9
