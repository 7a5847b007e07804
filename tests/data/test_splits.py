from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from nas.data.sources import digits
from nas.data.splits import choose_stratified, split_source
from nas.errors import UserError


def test_split_is_disjoint_and_complete() -> None:
    split = split_source(digits(), seed=0)
    everything = np.concatenate([split.train, split.search, split.test])
    assert np.array_equal(np.sort(everything), np.arange(1797))


def test_split_has_the_shares_of_scikit_learn() -> None:
    source = digits()
    labels = source.train.labels
    split = split_source(source, seed=0)
    train, test = train_test_split(labels, test_size=len(split.test), stratify=labels)
    train, search = train_test_split(train, test_size=len(split.search), stratify=train)
    for ours, theirs in ((split.train, train), (split.search, search), (split.test, test)):
        difference = np.bincount(labels[ours]) - np.bincount(theirs)
        assert np.abs(difference).max() <= 1


def test_split_depends_on_the_seed_alone_and_the_test_set_not_even_on_that() -> None:
    first, again, other = (split_source(digits(), seed=seed) for seed in (3, 3, 4))
    assert first.sha256 == again.sha256
    assert np.array_equal(first.train, again.train)
    assert first.sha256 != other.sha256
    assert np.array_equal(first.test, other.test)


def test_hash_of_the_search_slice_is_pinned() -> None:
    assert split_source(digits(), seed=0).sha256[:16] == "5a28e1e4e070b75b"


def test_limit_keeps_that_many_training_images_of_every_class_alike() -> None:
    source = digits()
    split = split_source(source, seed=0, limit=500)
    kept = np.concatenate([split.train, split.search])
    assert len(kept) == 500
    assert np.ptp(np.bincount(source.train.labels[kept])) <= 3  # the classes differ by 5 %
    assert not np.intersect1d(kept, split.test).size
    assert len(split_source(source, seed=0, limit=10**6).test) == len(split.test)


@given(
    sizes=st.lists(st.integers(2, 60), min_size=1, max_size=12),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32),
)
def test_every_class_keeps_its_share_within_one_image(
    sizes: list[int], share: float, seed: int
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    total = round(share * len(labels))
    chosen = choose_stratified(labels, total, np.random.default_rng(seed))
    assert np.array_equal(chosen, np.unique(chosen))
    counts = np.bincount(labels[chosen], minlength=len(sizes))
    assert counts.min() >= 1
    assert (np.array(sizes) - counts).min() >= 1
    if min(sizes) * min(share, 1 - share) > 1:  # the bounds do not bind
        assert len(chosen) == total
        assert np.abs(counts - np.array(sizes) * total / len(labels)).max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search_share": 1.5}, "search share: must be between 0 and 1, got 1.5"),
        (
            {"limit": 19},
            "limit: must be at least 20 training images, two for each of 10 classes, got 19",
        ),
    ],
)
def test_impossible_split_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError) as error:
        split_source(digits(), seed=0, **options)
    assert str(error.value) == message
