from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nas.data.augmentation import Augmentation, RandAugment, normalise
from nas.data.folders import folder
from nas.data.images import Images, MemoryImages, StreamedImages
from nas.data.sources import decode_all
from nas.errors import UserError

KINDS = ["memory", "streamed here", "streamed by two workers"]


def load(kind: str, photos: Path, side: int = 12) -> Images:
    pictures = folder("photos", photos).train
    indices = np.arange(len(pictures.labels))
    labels = torch.from_numpy(pictures.labels)
    if kind == "memory":
        return MemoryImages(decode_all(pictures, indices, side), labels)
    return StreamedImages(pictures, indices, labels, side, workers=2 if "two" in kind else 0)


def drawn(images: Images, seed: int = 0, **options: object) -> list[torch.Tensor]:
    rng = np.random.default_rng(seed)
    batches = images.batches(6, rng=rng, **{"augmentation": Augmentation(), **options})
    return [tensor for batch in batches for tensor in batch]


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_batches_in_order_hold_every_image_once(kind: str, photos: Path) -> None:
    images = load(kind, photos)
    batches = list(images.batches(6))
    assert [len(labels) for _, labels in batches] == [6, 6, 6, 2]
    pixels = torch.cat([pixels for pixels, _ in batches])
    assert pixels.shape == (20, 3, 12, 12)
    assert pixels.dtype == torch.float32
    assert torch.equal(torch.cat([labels for _, labels in batches]), images.labels)
    expected = decode_all(folder("photos", photos).train, np.arange(20), 12)
    assert torch.equal(pixels, normalise(expected))  # streamed equals in memory


@pytest.mark.parametrize("kind", KINDS)
def test_same_generator_state_same_batches(kind: str, photos: Path) -> None:
    images = load(kind, photos)
    assert equal(drawn(images), drawn(images))
    assert not equal(drawn(images), drawn(images, seed=1))


@pytest.mark.parametrize("kind", KINDS)
def test_global_random_state_is_left_alone(kind: str, photos: Path) -> None:
    images = load(kind, photos)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    drawn(images)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_number_of_workers_changes_nothing(photos: Path) -> None:
    assert equal(drawn(load(KINDS[1], photos)), drawn(load(KINDS[2], photos)))


def test_streamed_images_are_distorted_alike_by_any_number_of_workers(photos: Path) -> None:
    distorting = Augmentation(distortion=RandAugment(share=1))
    here, workers = (drawn(load(kind, photos), augmentation=distorting) for kind in KINDS[1:])
    assert equal(here, workers)
    assert not equal(here, drawn(load(KINDS[1], photos)))


@pytest.mark.parametrize("kind", KINDS[:2])
def test_shuffled_batches_pair_images_with_their_labels(kind: str, photos: Path) -> None:
    images = load(kind, photos)
    in_order = torch.cat([pixels for pixels, _ in images.batches(20)])
    pixels, labels = next(images.batches(20, rng=np.random.default_rng(0)))
    order = [int((in_order == image).all((1, 2, 3)).nonzero()) for image in pixels]
    assert sorted(order) == list(range(20))
    assert order != list(range(20))
    assert torch.equal(labels, images.labels[order])


def test_generator_moves_alike_however_many_batches_are_taken(photos: Path) -> None:
    images = load("memory", photos)
    some, every = np.random.default_rng(0), np.random.default_rng(0)
    next(images.batches(6, rng=some, augmentation=Augmentation()))
    list(images.batches(6, rng=every, augmentation=Augmentation()))
    assert some.random() == every.random()


@pytest.mark.parametrize(("batch_size", "sizes"), [(6, [6, 6, 6]), (10, [10, 10]), (64, [20])])
def test_short_last_batch_is_dropped_unless_it_is_the_only_one(
    batch_size: int, sizes: list[int], photos: Path
) -> None:
    batches = load("memory", photos).batches(batch_size, drop_last=True)
    assert [len(labels) for _, labels in batches] == sizes


@pytest.mark.parametrize("kind", KINDS[:2])
def test_subset_keeps_the_given_order(kind: str, photos: Path) -> None:
    images = load(kind, photos)
    chosen = [13, 2, 7]
    everything = torch.cat([pixels for pixels, _ in images.batches(20)])
    pixels, labels = next(images.subset(chosen).batches(20))
    assert torch.equal(pixels, everything[chosen])
    assert torch.equal(labels, images.labels[chosen])
    assert len(images.subset(np.array(chosen)).subset([1])) == 1
    assert list(images.subset([]).batches(4)) == []


def test_augmentation_needs_a_generator(photos: Path) -> None:
    with pytest.raises(ValueError, match="augmentation needs an rng"):
        load("memory", photos).batches(4, augmentation=Augmentation())


@pytest.mark.parametrize("kind", KINDS[1:])
def test_corrupt_image_met_on_the_way_is_one_line(kind: str, photos: Path) -> None:
    (photos / "dog" / "4.png").write_bytes(b"no image")
    with pytest.raises(UserError) as error:
        list(load(kind, photos).batches(6))
    assert str(error.value).startswith(f"{photos}/dog/4.png: unreadable image (cannot identify")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_shares_of_a_batch_are_its_images_each_once(kind: str, photos: Path) -> None:
    images = load(kind, photos)
    whole = drawn(images, augmentation=None)[1::2]
    shares = [drawn(images, augmentation=None, share=(it, 2))[1::2] for it in range(2)]
    assert [len(labels) for labels in whole] == [6, 6, 6, 2]
    for number, labels in enumerate(whole):
        for first, share in enumerate(shares):
            assert torch.equal(share[number], labels[first::2])


@pytest.mark.parametrize("kind", KINDS[:2])
def test_shares_are_augmented_each_by_its_own_draws(kind: str, photos: Path) -> None:
    pictures = folder("photos", photos).train
    same = np.zeros(8, np.int64)  # one picture, eight times
    labels = torch.zeros(8, dtype=torch.int64)
    images: Images = StreamedImages(pictures, same, labels, 12, workers=0)
    if kind == "memory":
        images = MemoryImages(decode_all(pictures, same, 12), labels)
    shares = [drawn(images, share=(it, 2))[0] for it in range(2)]
    assert shares[0].shape == shares[1].shape == (3, 3, 12, 12)
    assert not torch.equal(shares[0], shares[1])
