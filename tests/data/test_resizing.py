import numpy as np
import pytest
import torch
from PIL import Image

from nas.data.images import resize
from nas.training.settings import DataSettings


@pytest.mark.parametrize("side", [12, 20, 31])
def test_images_are_resized_as_pillow_does_it(side: int) -> None:
    images = torch.rand(2, 3, 24, 24, generator=torch.manual_seed(0))
    found = resize(images, side)
    for image, resized in zip(images.flatten(0, 1), found.flatten(0, 1), strict=True):
        picture = Image.fromarray(image.numpy()).resize((side, side), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(resized, np.asarray(picture), atol=1e-5)


def test_images_of_that_size_are_left_alone() -> None:
    images = torch.rand(2, 3, 8, 8)
    assert resize(images, 8) is images


def test_a_data_set_at_another_size_has_the_same_images_resized() -> None:
    dataset = DataSettings(spec="digits", limit=60, search_share=0.3).load(32)
    smaller = dataset.at(16)
    for name in ("train", "search", "test"):
        options = [
            {"rng": np.random.default_rng(3), "augmentation": dataset.augmentation}
            for _ in range(2)
        ]
        whole, resized = (
            next(getattr(it, name).subset([5, 2, 8]).batches(3, **option))
            for it, option in zip((dataset, smaller), options, strict=True)
        )
        assert torch.equal(resized[0], resize(whole[0], 16))
        assert torch.equal(resized[1], whole[1])
    assert smaller.split_sha256 == dataset.split_sha256
