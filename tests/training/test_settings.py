from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from nas.architecture import Architecture
from nas.training.settings import (
    RECIPES,
    DataSettings,
    Recipe,
    SupernetSettings,
    like_the_supernet,
    published_drop_path,
    suitable_recipe,
)


@pytest.mark.parametrize(("images", "name"), [(99_999, "light"), (100_000, "published")])
def test_large_data_get_the_published_recipe(images: int, name: str) -> None:
    assert suitable_recipe(images) == name


def test_recipes_know_their_names() -> None:
    assert {name: recipe.name for name, recipe in RECIPES.items()} == {
        "light": "light",
        "finetuning": "finetuning",
        "published": "published",
    }


def test_the_supernets_recipe_takes_over_all_that_a_single_network_knows() -> None:
    settings = SupernetSettings(
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
    assert not any(recipe[name] for name in changed | {"drop_path"})
    assert recipe["seed"] == 9


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("efficientformer_v2_s0", 0.0),
        ("efficientformer_v2_s1", 0.0),
        ("efficientformer_v2_s2", 0.02),
        ("efficientformer_v2_l", 0.1),
        ("efficientformer_v1_l1", 0.0),
        ("efficientformer_v1_l3", 0.0),
        ("efficientformer_v1_l7", 0.0),
        ("pvt_v2_b0", 0.1),
        ("pvt_v2_b1", 0.1),
        ("pvt_v2_b2", 0.1),
        ("pvt_v2_b2_linear", 0.1),
        ("pvt_v2_b3", 0.1),
        ("pvt_v2_b4", 0.3),
        ("pvt_v2_b5", 0.3),
        ("efficientvit_m5", 0.0),
        ("mobilevit_v3_s", 0.0),
    ],
)
def test_published_networks_have_their_published_drop_path(name: str, rate: float) -> None:
    assert published_drop_path(Architecture.load(name)) == pytest.approx(rate, abs=1e-12)


def test_drop_path_grows_with_the_parameters_between_published_networks() -> None:
    fewer_classes = Architecture.load("efficientformer_v2_l").with_classes(10)
    # 990 fewer classes of two heads, each of 384 weights and a bias
    share = 1 - 990 * 2 * 385 / (26_322_288 - 12_710_112)
    assert published_drop_path(fewer_classes) == pytest.approx(0.02 + share * 0.08)


def test_files_list_the_fields_as_version_0_1_did() -> None:
    # the journal of a check knows its trainings by this text
    assert SupernetSettings().model_dump_json() == (
        '{"epochs":10,"batch_size":64,"accumulate":1,"resolutions":[],"learning_rate":0.004,'
        '"weight_decay":0.025,"warmup":0.1,"random_subnets":2,"staggered":true,"distillation":1.0,'
        '"divergence":"kl","teacher":null,"layer_scale":0.1,"precision":null,"drop_path":0.0,'
        '"path_choice":true,"path_interval":4,"path_learning_rate":0.05,"first_temperature":5.0,'
        '"last_temperature":0.5,"latency":null,"path_sampling":false,"seed":0}'
    )
    assert RECIPES["light"].model_dump_json() == (
        '{"name":"light","epochs":30,"batch_size":64,"resolutions":[],"learning_rate":0.004,'
        '"weight_decay":0.025,"warmup":0.1,"layer_scale":0.1,"clipping":5.0,"distortions":0,'
        '"magnitude":9.0,"erasing":0.0,"mixup":0.0,"cutmix":0.0,"smoothing":0.1,"drop_path":0.0,'
        '"distillation":0.5,"averaging":null,"precision":null,"seed":0}'
    )


def test_every_field_has_a_help_text() -> None:
    for settings in (SupernetSettings, Recipe, DataSettings):
        assert all(field.description for field in settings.model_fields.values())


def test_magnitudes_that_no_distortion_knows_are_refused() -> None:
    with pytest.raises(ValidationError, match="magnitude must be between 0 and 10, got 11"):
        Recipe(name="strong", magnitude=11)


def test_settings_load_without_torch() -> None:
    script = "import sys, nas.training.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
